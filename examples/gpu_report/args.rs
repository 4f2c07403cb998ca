//! The command line.

use std::path::PathBuf;

/// GPU families that RADV can compile for without one, oldest first: GCN 4 and 5, RDNA 1, 2 and 3.
pub(crate) const FAMILIES: [&str; 5] = ["polaris10", "vega10", "navi10", "navi21", "gfx1100"];

pub(crate) const USAGE: &str = "\
What AMD's GPUs would run: every GPU variant of every kernel compiled by Mesa's RADV on its null device, with registers,
spills, occupancy, and what the inner loops consist of. Linux with mesa-vulkan-drivers and libvulkan1.

cargo run --example gpu_report -- [OPTIONS]

  -p TEXT             only shaders whose name (kernel/variant DEFINES) contains TEXT; may be given again
  --family FAMILY     only this family; may be given again (polaris10, vega10, navi10, navi21, gfx1100)
  --checked           as wgpu compiles with bounds checks, bounded loops and zeroed workgroup memory
  --list              the names of the shaders, without compiling
  --text              the WGSL of the shaders
  --isa               the ISA text of the shaders
  --json FILE         writes the rows
  --check             compares with benches/gpu_report.json and the floors: exit code 1 on a spill, on scratch, below a floor,
                      or with 5 % more instructions
  --bless             writes benches/gpu_report.json anew
  --spirv FILE        compiles this SPIR-V instead of the kernels; may be given again
  --spec ID=VALUE,..  specialisation constants of the last --spirv FILE, which may be given again with others";

/// What to do.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) patterns: Vec<String>,
    pub(crate) families: Vec<String>,
    pub(crate) checked: bool,
    pub(crate) list: bool,
    pub(crate) text: bool,
    pub(crate) isa: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) check: bool,
    pub(crate) bless: bool,
    pub(crate) spirv: Vec<(PathBuf, Vec<(u32, u32)>)>,
    /// A child process: one family, rows as JSON lines.
    pub(crate) worker: bool,
    pub(crate) help: bool,
}

impl Args {
    /// # Errors
    /// What is misused.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut args = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "-p" => args.patterns.push(value()?),
                "--family" => args.families.push(value()?),
                "--checked" => args.checked = true,
                "--list" => args.list = true,
                "--text" => args.text = true,
                "--isa" => args.isa = true,
                "--json" => args.json = Some(value()?.into()),
                "--check" => args.check = true,
                "--bless" => args.bless = true,
                "--spirv" => args.spirv.push((value()?.into(), Vec::new())),
                "--spec" => {
                    let constants = constants(&value()?)?;
                    args.spirv.last_mut().ok_or("--spec comes after a --spirv FILE")?.1 = constants;
                }
                "--worker" => args.worker = true,
                "-h" | "--help" => args.help = true,
                other => return Err(format!("unknown argument {other}; see --help")),
            }
        }
        if let Some(unknown) = args.families.iter().find(|f| !FAMILIES.contains(&f.as_str())) {
            return Err(format!("unknown family {unknown}: {}", FAMILIES.join(", ")));
        }
        if (args.check || args.bless) && (args.checked || !args.spirv.is_empty()) {
            return Err("the baseline holds the kernels as they ship: no --checked, no --spirv".into());
        }
        if args.bless && !(args.patterns.is_empty() && args.families.is_empty()) {
            return Err("--bless writes the whole baseline: no -p, no --family".into());
        }
        Ok(args)
    }

    /// The families to compile for.
    pub(crate) fn families(&self) -> Vec<&str> {
        match self.families.is_empty() {
            true => FAMILIES.to_vec(),
            false => self.families.iter().map(String::as_str).collect(),
        }
    }

    /// Whether a shader of this name is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|p| name.contains(p.as_str()))
    }
}

/// `ID=VALUE,..`; a value with a point is an f32.
fn constants(text: &str) -> Result<Vec<(u32, u32)>, String> {
    let pair = |word: &str| {
        let (id, value) = word.split_once('=')?;
        let bits = match value.contains('.') {
            true => value.parse::<f32>().ok()?.to_bits(),
            false => value.parse().ok()?,
        };
        Some((id.parse().ok()?, bits))
    };
    text.split(',').map(|w| pair(w).ok_or(format!("--spec: {w} is no ID=VALUE"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn constants_belong_to_their_file() {
        let args = parse("--spirv a.spv --spec 0=128,3=1.5 --spirv b.spv").unwrap();
        assert_eq!(args.spirv[0].1, [(0, 128), (3, 1.5f32.to_bits())]);
        assert!(args.spirv[1].1.is_empty());
    }

    #[test]
    fn misuse_is_named() {
        for (line, message) in [
            ("--spec 1=2", "after a --spirv"),
            ("--spirv a.spv --spec 1", "no ID=VALUE"),
            ("--family voodoo2", "unknown family voodoo2"),
            ("--json", "needs a value"),
            ("--fast", "unknown argument"),
            ("--bless -p matmul", "whole baseline"),
            ("--check --checked", "as they ship"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn patterns_widen() {
        let args = parse("-p tile128 -p conv2d").unwrap();
        assert!(args.wants("matmul/tile128 BIAS") && args.wants("conv2d/tile64") && !args.wants("rope/line"));
    }
}
