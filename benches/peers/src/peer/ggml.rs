//! ggml's Vulkan backend, through a built `test-backend-ops` and files of shapes (`--test-file`).

use super::{Loaded, Peer};
use crate::{
    Result,
    data::{Data, Samples},
    shapes::Op,
};
use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::NamedTempFile;

/// How weights, keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Type {
    /// As ggml's models have them; inputs and sums are f32, operands are rounded to f16 on the device.
    F16,
    /// As impasto's default.
    F32,
}

impl Type {
    /// `enum ggml_type`.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
        }
    }
}

/// The program with the device that it is to use.
#[derive(Debug, Clone)]
pub(crate) struct Ggml {
    program: PathBuf,
    /// For `GGML_VK_VISIBLE_DEVICES`.
    device: usize,
    weights: Type,
    /// On a CPU a run of `perf` takes minutes a case: see [`Prepared::time`].
    software: bool,
    /// `enum ggml_op` of this build.
    operations: HashMap<&'static str, u32>,
}

/// Numbers that `enum ggml_op` may give to the operations that are asked for.
const NUMBERS: std::ops::Range<u32> = 20..90;
/// Devices that are looked at for the adapter's name.
const DEVICES: usize = 8;

impl Ggml {
    /// Finds the device that is called `adapter`, and what numbers the operations have in this build: they change
    /// from version to version.
    ///
    /// # Errors
    /// If the program cannot be run, or none of its devices has that name.
    pub(crate) fn new(program: &Path, adapter: &str, software: bool, weights: Type) -> Result<Self> {
        let mut found =
            Self { program: program.to_path_buf(), device: 0, weights, software, operations: HashMap::new() };
        let mut seen = Vec::new();
        loop {
            // One operation that every version has, so that the device is opened and named.
            // An index that does not exist fails, and has no description.
            let output = found.run("support", "ADD", None)?;
            let name = output.text.lines().find_map(|l| l.trim().strip_prefix("Device description: "));
            match name {
                Some(name) if name == adapter => break,
                other => seen.extend(other.map(str::to_string)),
            }
            found.device += 1;
            if found.device == DEVICES {
                return Err(format!("{}: no Vulkan device {adapter}, only {seen:?}", program.display()).into());
            }
        }
        for (name, example) in [
            ("MUL_MAT", Op::Matmul { m: 32, n: 32, k: 32 }),
            ("FLASH_ATTN_EXT", Op::Attention { batch: 1, heads: 1, queries: 32, keys: 32, width: 64 }),
            ("CONV_2D", Op::Conv2d { height: 8, width: 8, cin: 4, cout: 4, kernel: 3, stride: 1, padding: 1 }),
        ] {
            if let Some(number) = found.number(name, &example)? {
                found.operations.insert(name, number);
            }
        }
        Ok(found)
    }

    /// Asks about the same inputs under every number, with the filter for one name: the line that is answered says
    /// which number that name has.
    fn number(&self, name: &str, example: &Op) -> Result<Option<u32>> {
        let lines: Vec<String> = NUMBERS.map(|n| self.line(example, n, &format!("op{n}"))).collect();
        let output = self.run("support", name, Some(&lines.concat()))?;
        let after = output.text.split("name=op").nth(1);
        let digits = after.map(|t| t.chars().take_while(char::is_ascii_digit).collect::<String>());
        Ok(digits.and_then(|d| d.parse().ok()))
    }

    /// A line of a test file: operation, type and sizes of the result (innermost first), parameters, and for each
    /// input type, sizes and strides (zeros: contiguous).
    fn line(&self, op: &Op, number: u32, name: &str) -> String {
        let weights = self.weights.number();
        let (y, params, inputs) = match *op {
            Op::Matmul { m, n, k } => ([n, m, 1, 1], vec![], vec![(weights, [k, n, 1, 1]), (0, [k, m, 1, 1])]),
            Op::Attention { batch, heads, queries, keys, width } => {
                let scale = (width as f32).powf(-0.5).to_bits();
                let kv = (weights, [width, keys, heads, batch]);
                ([width, heads, queries, batch], vec![scale, 0, 0], vec![(0, [width, queries, heads, batch]), kv, kv])
            }
            Op::Conv2d { height, width, cin, cout, kernel, stride, padding } => {
                let side = |s| Op::out_side(s, kernel, stride, padding);
                let [s, p] = [stride, padding].map(|n| n as u32);
                let inputs = vec![(weights, [kernel, kernel, cin, cout]), (0, [width, height, cin, 1])];
                ([side(width), side(height), cout, 1], vec![s, s, p, p, 1, 1], inputs)
            }
        };
        let join = |all: &[String]| all.join(" ");
        let sizes = |ne: [usize; 4]| join(&ne.map(|n| n.to_string()));
        let mut words = vec![number.to_string(), "0".into(), sizes(y), params.len().to_string()];
        words.extend(params.iter().map(u32::to_string));
        words.push(inputs.len().to_string());
        words.extend(inputs.iter().map(|(dtype, ne)| format!("{dtype} {} 0 0 0 0", sizes(*ne))));
        words.push(name.into());
        join(&words) + "\n"
    }

    /// Runs a mode of the program on the operations of a name, from its own list or from `lines`.
    fn run(&self, mode: &str, operation: &str, lines: Option<&str>) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args([mode, "-o", operation, "-b", "Vulkan0"]);
        command.env("GGML_VK_VISIBLE_DEVICES", self.device.to_string());
        if mode == "test" {
            command.env("GGML_VK_PERF_LOGGER", "1");
        }
        let file = lines.map(|text| -> Result<NamedTempFile> {
            let mut file = NamedTempFile::new()?;
            file.write_all(text.as_bytes())?;
            Ok(file)
        });
        let file = file.transpose()?;
        if let Some(file) = &file {
            command.arg("--test-file").arg(file.path());
        }
        let output = command.output().map_err(|e| format!("{}: {e}", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Output { succeeded: output.status.success(), text, log })
    }
}

/// What the program said.
struct Output {
    succeeded: bool,
    /// Results.
    text: String,
    /// Times of its own timestamp queries, and complaints.
    log: String,
}

impl Output {
    /// The last line about an operation, or the last complaint, without colours.
    fn about(&self, operation: &str) -> String {
        let line = self.text.lines().rfind(|l| l.contains(operation)).or(self.log.lines().last());
        let mut parts = line.unwrap_or("no output").trim().split("\x1b[");
        let first = parts.next().unwrap_or_default().to_string();
        first + &parts.map(|p| p.split_once('m').map_or(p, |(_, rest)| rest)).collect::<String>()
    }
}

impl Peer for Ggml {
    fn name(&self) -> String {
        format!("ggml {}", format!("{:?}", self.weights).to_lowercase())
    }

    fn load(&mut self, op: &Op, _: &Data) -> Result<Box<dyn Loaded>> {
        let operation = match op {
            Op::Matmul { .. } => "MUL_MAT",
            Op::Attention { .. } => "FLASH_ATTN_EXT",
            Op::Conv2d { .. } => "CONV_2D",
        };
        let Some(&number) = self.operations.get(operation) else {
            return Err(format!("this build has no {operation} for this device").into());
        };
        Ok(Box::new(Prepared { line: self.line(op, number, "case"), operation, ggml: self.clone(), first: 0.0 }))
    }
}

/// A line of a test file.
struct Prepared {
    ggml: Ggml,
    operation: &'static str,
    line: String,
    /// Microseconds of the run that was verified.
    first: f64,
}

/// Runs below this are timed when a process has made one: above, what the first one costs does not show.
const SHORT: f64 = 0.5e6;

impl Prepared {
    /// Runs `test` with the case `count` times: microseconds of each on the device, by ggml's own timestamps.
    fn test(&self, count: usize) -> Result<Vec<f64>> {
        let output = self.ggml.run("test", self.operation, Some(&self.line.repeat(count)))?;
        if !output.succeeded || !output.text.contains(&format!("{count}/{count} tests passed")) {
            return Err(format!("wrong or not supported: {}", output.about(self.operation)).into());
        }
        let times: Vec<f64> = output.log.lines().filter_map(total).collect();
        if times.len() != count {
            return Err(format!("{} times for {count} runs: {}", times.len(), output.about(self.operation)).into());
        }
        Ok(times)
    }
}

impl Loaded for Prepared {
    /// Against ggml's own CPU backend with inputs of its own; it does not say how large the error is.
    fn verify(&mut self, _: &Samples) -> Result<Option<f64>> {
        self.first = self.test(1)?[0];
        Ok(None)
    }

    /// On a GPU by `perf`: wall clock of many runs in a row, at least a second. It knows no FLOP of cases from a file and
    /// repeats until 32 GB have passed: on a CPU that is minutes a case, so there it is the last of one or two in `test`.
    fn time(&mut self, _: usize) -> Result<f64> {
        if self.ggml.software {
            let runs = if self.first < SHORT { 2 } else { 1 };
            return Ok(self.test(runs)?[runs - 1]);
        }
        let output = self.ggml.run("perf", self.operation, Some(&self.line))?;
        per_run(&output.text).ok_or_else(|| format!("no time: {}", output.about(self.operation)).into())
    }

    fn paces_itself(&self) -> bool {
        true
    }
}

/// `Total time: 12.5 us.`, as `GGML_VK_PERF_LOGGER` says after every graph.
fn total(line: &str) -> Option<f64> {
    line.trim().strip_prefix("Total time: ")?.strip_suffix(" us.")?.parse().ok()
}

/// `MUL_MAT(..):  852 runs -  1174.59 us/run - ..`, as `perf` prints it.
fn per_run(text: &str) -> Option<f64> {
    text.split_once(" us/run")?.0.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_program_prints() {
        assert_eq!(total("Total time: 1.23457e+06 us."), Some(1_234_570.0));
        assert_eq!(total("MUL_MAT f16: 1 x 2 us = 2 us"), None);
        let text = "  MUL_MAT(type=f32):   852 runs -  1174.59 us/run - 10 kB/run -  1.0 GB/s\n";
        assert_eq!(per_run(text), Some(1174.59));
        assert_eq!(per_run("  MUL_MAT(type=f32): not supported [Vulkan0]"), None);
        let text = "  MUL_MAT(x): [MUL_MAT] ERR = 1 > 0.0005 \x1b[1;31mFAIL\x1b[0m\n  0/1 tests passed\n".to_string();
        let output = Output { succeeded: false, text, log: "last".to_string() };
        assert_eq!(output.about("MUL_MAT"), "MUL_MAT(x): [MUL_MAT] ERR = 1 > 0.0005 FAIL");
        assert_eq!(output.about("CONV_2D"), "last");
    }

    #[test]
    fn lines_as_the_program_reads_them() {
        let ggml =
            Ggml { program: PathBuf::new(), device: 0, weights: Type::F16, software: true, operations: HashMap::new() };
        let line = ggml.line(&Op::Matmul { m: 5, n: 7, k: 9 }, 29, "x");
        assert_eq!(line, "29 0 7 5 1 1 0 2 1 9 7 1 1 0 0 0 0 0 9 5 1 1 0 0 0 0 x\n");
        let conv = Op::Conv2d { height: 8, width: 6, cin: 3, cout: 4, kernel: 3, stride: 2, padding: 1 };
        let line = ggml.line(&conv, 56, "x");
        assert_eq!(line, "56 0 3 4 4 1 6 2 2 1 1 1 1 2 1 3 3 3 4 0 0 0 0 0 6 8 3 1 0 0 0 0 x\n");
    }
}
