//! `impasto doctor`: what there is, and whether it computes right.

use super::{
    failure::{Failure, Outcome, complain, print_json, print_line},
    global::Global,
    signal,
};
use clap::ValueEnum;
use impasto::{
    ErrorKind,
    gpu::{AdapterInfo, Checks, Gpu, adapters},
    kernel::{Class, Family},
    kernels::ALL,
    selftest::{self, Report},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// Show the adapters, and test every kernel on the one that would be used
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Test only this kernel, may be repeated
    #[arg(long, value_name = "NAME", value_parser = kernel_names())]
    kernel: Vec<String>,
    /// Test the variants for other classes of adapters, too: a software adapter takes minutes to compile a GPU's
    #[arg(long)]
    all_variants: bool,
    /// Which part: adapters only, or the tests too
    #[arg(long, value_name = "WHAT", default_value = "all")]
    show: Show,
    /// Print JSON on stdout, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Show {
    /// Adapters and tests
    All,
    /// Adapters only: takes no time
    Adapters,
}

fn kernel_names() -> clap::builder::PossibleValuesParser {
    ALL.iter().map(|e| e.kernel.name).collect::<Vec<_>>().into()
}

const EXAMPLES: &str = "\
Every kernel, in each of its variants for this class of adapter, computes shapes that can fail it, between guard bands, \
and is compared with plain loops on the CPU. Times are the GPU's own, for all cases of the variant together; `-` where \
the adapter has no timestamps. Exit code 1 if a test fails.

Examples:
  impasto doctor
  impasto doctor --show adapters
  impasto doctor --adapter nvidia --kernel matmul --checked --all-variants";

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    adapters: Vec<AdapterInfo>,
    used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    selftest: Option<Selftest>,
}

/// The adapter that would be used.
#[derive(Debug, Serialize)]
struct Used {
    /// Its place among the adapters.
    index: Option<usize>,
    name: String,
    /// `gpu` or `software`: what kernel variants are chosen for.
    class: &'static str,
    /// Whose rules choose among them.
    family: Family,
    checked: bool,
    timestamps: bool,
    /// The subgroup size that kernels may rely on.
    subgroup: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Selftest {
    passed: usize,
    failed: usize,
    seconds: f64,
    reports: Vec<Report>,
    /// What did not even run.
    errors: Vec<String>,
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    let options = global.gpu_options();
    let adapters = pollster::block_on(adapters(options.backend.as_deref()))?;
    if !args.json {
        for (i, adapter) in adapters.iter().enumerate() {
            print_line(&describe(i, adapter))?;
        }
    }
    let gpu = global.open_gpu()?;
    let used = Used::of(&gpu, &adapters);
    if !args.json {
        let index = used.index.map_or_else(String::new, |i| format!("{i}: "));
        let checked = if used.checked { "checked" } else { "trusted" };
        let family = used.family;
        print_line(&format!(
            "used: {index}{}, kernels for class {} by the rules for {family}, shaders {checked}",
            used.name, used.class
        ))?;
    }
    let selftest = match args.show {
        Show::Adapters => None,
        Show::All => Some(test(args, global, &gpu)?),
    };
    let failed = selftest.as_ref().map_or(0, |s| s.failed);
    if args.json {
        print_json(&Findings { version: env!("CARGO_PKG_VERSION"), adapters, used, selftest })?;
    } else if let Some(s) = &selftest {
        let verdict = if failed == 0 { "all right" } else { "NOT all right" };
        print_line(&format!("{verdict}: {} passed, {failed} failed, in {:.1} s", s.passed, s.seconds))?;
    }
    if failed == 0 {
        return Ok(());
    }
    complain(&format!(
        "{failed} self-tests failed on {}: a driver update, --checked, or another --adapter may help",
        gpu.info().name
    ));
    Err(Failure::Told)
}

impl Used {
    fn of(gpu: &Gpu, adapters: &[AdapterInfo]) -> Self {
        let info = gpu.info();
        let same = |a: &AdapterInfo| a.name == info.name && a.backend == info.backend && a.driver == info.driver;
        Self {
            index: adapters.iter().position(same),
            name: info.name.clone(),
            family: gpu.target().family,
            class: match gpu.target().class() {
                Class::Gpu => "gpu",
                Class::Software => "software",
            },
            checked: gpu.checks() == Checks::Checked,
            timestamps: gpu.has_timestamps(),
            subgroup: gpu.target().subgroup,
        }
    }
}

fn describe(index: usize, a: &AdapterInfo) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let features = if a.features.is_empty() { "none".into() } else { a.features.join(", ") };
    format!(
        "{index}: {} ({}, {})\n   driver {}\n   binding {} MiB, buffer {} MiB, workgroup {} KiB and {} invocations, \
         subgroups {} to {}\n   features {features}",
        a.name,
        a.backend,
        a.device_type,
        a.driver,
        mib(a.max_binding),
        mib(a.max_buffer),
        a.max_workgroup_memory >> 10,
        a.max_invocations,
        a.subgroup[0],
        a.subgroup[1],
    )
}

/// All cases of the variants that serve this adapter (or of all), with a line for each variant.
fn test(args: &Args, global: &Global, gpu: &Gpu) -> Outcome<Selftest> {
    let start = Instant::now();
    let progress = global.progress();
    let chosen: Vec<_> =
        ALL.iter().filter(|e| args.kernel.is_empty() || args.kernel.iter().any(|k| k == e.kernel.name)).collect();
    let (mut reports, mut errors): (Vec<Report>, Vec<String>) = Default::default();
    for (n, entry) in chosen.iter().enumerate() {
        let kernel = entry.kernel;
        let (first, first_error) = (reports.len(), errors.len());
        progress.stage(format!("{}/{} {}", n + 1, chosen.len(), kernel.name));
        let cases = (entry.cases)();
        let class = gpu.target().class();
        let serves = |name: &str| kernel.variants.iter().any(|v| v.name == name && v.class == class);
        let all = args.all_variants || kernel.variants.iter().all(|v| v.class != class);
        for (i, case) in cases.iter().enumerate() {
            signal::check()?;
            let expected = (case.twin)(&case.inputs);
            for recording in selftest::recordings(gpu, kernel, case).into_iter().filter(|r| all || serves(r.0)) {
                let name = format!("{}/{} {}", kernel.name, recording.0, case.name);
                let run = selftest::run(gpu, kernel, case, recording, &expected);
                match pollster::block_on(run) {
                    Ok((report, _)) => reports.push(report),
                    // The others may still run on it, and which do is worth to know.
                    Err(e) if e.kind() == ErrorKind::Gpu => errors.push(format!("{name}: {e}")),
                    Err(e) => return Err(e.context(name).into()),
                }
            }
            progress.with(|c| c.progress.iter().for_each(|report| report((i + 1) as f32 / cases.len() as f32)));
        }
        if !args.json {
            progress.beside(|| print_kernel(&reports[first..]))?;
            progress
                .beside(|| errors[first_error..].iter().try_for_each(|e| print_line(&format!("    FAILED {e}"))))?;
        }
    }
    let passed = reports.iter().filter(|r| r.passed()).count();
    let failed = reports.len() - passed + errors.len();
    Ok(Selftest { passed, failed, seconds: start.elapsed().as_secs_f64(), reports, errors })
}

fn print_kernel(reports: &[Report]) -> Outcome {
    let mut variants: BTreeMap<&str, Vec<&Report>> = BTreeMap::new();
    for r in reports {
        variants.entry(&r.variant).or_default().push(r);
    }
    for (variant, runs) in variants {
        let name = format!("{}/{variant}", runs[0].kernel);
        let failed = runs.iter().filter(|r| !r.passed()).count();
        let verdict = if failed == 0 { "ok".into() } else { format!("{failed} FAILED") };
        let worst = runs.iter().map(|r| r.nmse).fold(0.0, f64::max);
        let time = match runs.iter().map(|r| r.milliseconds).sum::<Option<f64>>() {
            Some(ms) => format!("{ms:.1} ms"),
            None => "-".into(),
        };
        print_line(&format!("{name:32} {:3} cases  {verdict:9} nmse up to {worst:.0e}  {time:>10}", runs.len()))?;
        for r in runs.iter().filter(|r| !r.passed()) {
            let guards = if r.guards_intact { "" } else { ", wrote beside its buffers" };
            print_line(&format!(
                "    {}: nmse {:.1e}, allowed {:.0e}, largest difference {:.1e}{guards}",
                r.case, r.nmse, r.allowed, r.max_abs
            ))?;
        }
    }
    Ok(())
}
