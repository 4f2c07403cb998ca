//! What AMD's GPUs would run, without one: see `args::USAGE`.
//!
//! Each family is a child process, since RADV reads it when an instance is made.
//!
//! Other people's shaders stand in the same table by `--spirv`. ggml's large f32 tile, for example, from its folder of shaders:
//!
//! ```text
//! glslc -fshader-stage=compute --target-env=vulkan1.2 -O -DFLOAT_TYPE=float -DFLOAT_TYPEV2=vec2 -DFLOAT_TYPEV4=vec4 \
//!     -DACC_TYPE=float -DACC_TYPEV2=vec2 -DDATA_A_F32=1 -DLOAD_VEC_A=4 -DLOAD_VEC_B=4 -DB_TYPE=vec4 -DB_TYPE_SCALAR=float \
//!     -DB_TYPEV4=vec4 -DD_TYPE=float mul_mm.comp -o mul_mm.spv
//! cargo run --example gpu_report -- --spirv mul_mm.spv --spec 0=128,1=128,2=128,3=16,4=128,5=64,6=2,7=4,8=4,9=1,10=64,11=1
//! ```

mod args;
mod floors;
mod isa;
mod radv;
mod report;
mod spirv;
mod texts;

use args::{Args, USAGE};
use report::{Report, Row};
use serde::{Deserialize, Serialize};
use spirv::Module;
use std::{
    io::Write,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
};

/// The stored rows.
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gpu_report.json");

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let args = match Args::parse(&words) {
        Ok(args) => args,
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::from(2);
        }
    };
    match run(&args, &words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// `false` if a check failed.
fn run(args: &Args, words: &[String]) -> Result<bool, String> {
    if args.help {
        println!("{USAGE}");
        return Ok(true);
    }
    if args.worker {
        work(args)?;
        return Ok(true);
    }
    if args.list || args.text {
        for t in texts::all()?.iter().filter(|t| args.wants(&t.name())) {
            match args.text {
                true => println!("// {}\n{}", t.name(), t.wgsl),
                false => println!("{}", t.name()),
            }
        }
        return Ok(true);
    }
    if args.spirv.is_empty() {
        eprintln!("left out, for want of cooperative matrices in this driver: {}", texts::left_out().join(", "));
    }
    let families = args.families();
    let report = compile(&families, words, args.isa)?;
    if report.rows.is_empty() {
        return Err("no shader has such a name; --list prints them".into());
    }
    if !args.isa {
        println!("{}\n", report.driver);
        report::print(&report.rows, &families);
    }
    if let Some(path) = &args.json {
        report::write(&report, path)?;
    }
    if args.bless {
        report::write(&report, Path::new(BASELINE))?;
        println!("{} rows written to {BASELINE}", report.rows.len());
    }
    if !args.check {
        return Ok(true);
    }
    let baseline = report::read(Path::new(BASELINE))?;
    if baseline.driver != report.driver {
        println!("{}, the baseline is by {}: instructions are not compared", report.driver, baseline.driver);
    }
    let failures = report::failures(&report, &baseline, args.patterns.is_empty() && args.families.is_empty());
    failures.iter().for_each(|f| println!("FAILED {f}"));
    println!("{} rows, {} failures", report.rows.len(), failures.len());
    Ok(failures.is_empty())
}

/// What a child tells of a shader.
#[derive(Serialize, Deserialize)]
struct Compiled {
    driver: String,
    name: String,
    row: Row,
    isa: String,
}

/// One child a family, as many at a time as there are processors.
fn compile(families: &[&str], words: &[String], isa: bool) -> Result<Report, String> {
    let (queue, found) = (Mutex::new(families.iter()), Mutex::new(Vec::new()));
    // A panic of a thread ends the scope with a panic: the locks are never seen poisoned.
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let child = || {
        while let Some(family) = next() {
            let result = family_rows(family, words);
            found.lock().unwrap_or_else(PoisonError::into_inner).push((family, result));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| (0..processors.min(families.len())).for_each(|_| _ = scope.spawn(child)));
    let mut report = Report::default();
    for (family, compiled) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        for c in compiled? {
            if isa {
                println!("; {family} {}\n{}", c.name, c.isa);
            }
            report.rows.insert(format!("{family} {}", c.name), c.row);
            report.driver = c.driver;
        }
    }
    Ok(report)
}

fn family_rows(family: &str, words: &[String]) -> Result<Vec<Compiled>, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let child = Command::new(program)
        .args(words)
        .arg("--worker")
        .envs(radv::environment(family)?)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{family}: {e}"))?;
    if !child.status.success() {
        return Err(format!("{family}: the compiling process ended with {}", child.status));
    }
    let text = String::from_utf8(child.stdout).map_err(|e| e.to_string())?;
    text.lines().map(|line| serde_json::from_str(line).map_err(|e| format!("{family}: {e}"))).collect()
}

/// The child: compiles for the family that the environment names, a row a line.
fn work(args: &Args) -> Result<(), String> {
    let device = radv::Radv::open()?;
    let mut out = std::io::stdout().lock();
    for (name, module) in modules(args)? {
        let (stats, isa) = device.compile(&module).map_err(|e| format!("{name}: {e}"))?;
        let row = Row { stats, loops: isa::inner_loops(&isa) };
        let isa = if args.isa { isa } else { String::new() };
        let line = serde_json::to_string(&Compiled { driver: device.driver.clone(), name, row, isa })
            .map_err(|e| e.to_string())?;
        writeln!(out, "{line}").map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// What to compile: the kernels' texts, or the SPIR-V files.
fn modules(args: &Args) -> Result<Vec<(String, Module)>, String> {
    if args.spirv.is_empty() {
        let family = std::env::var("RADV_FORCE_FAMILY").unwrap_or_default();
        let wanted = texts::all()?.into_iter().filter(|t| args.wants(&t.name()) && t.is_for(&family));
        let emit = |t: texts::Text| {
            let module = spirv::from_wgsl(&t.wgsl, args.checked).map_err(|e| format!("{}: {e}", t.name()))?;
            Ok((t.name(), module))
        };
        return wanted.map(emit).collect();
    }
    let load = |(path, constants): &(std::path::PathBuf, Vec<(u32, u32)>)| {
        let context = |e: String| format!("{}: {e}", path.display());
        let bytes = std::fs::read(path).map_err(|e| context(e.to_string()))?;
        let words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut module = Module::new(words).map_err(context)?;
        module.constants.clone_from(constants);
        let special: Vec<String> = constants.iter().map(|(id, bits)| format!("{id}={bits}")).collect();
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((format!("{stem} {}", special.join(",")).trim_end().to_string(), module))
    };
    args.spirv.iter().map(load).collect()
}
