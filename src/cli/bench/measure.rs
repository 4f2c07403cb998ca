//! `impasto bench run` and `impasto bench roofline`.

use super::{
    super::{
        failure::{Failure, Outcome, complain, print_json, print_line},
        global::Global,
        signal,
    },
    shapes::Filter,
    table,
};
use clap::ValueEnum;
use impasto::{
    bench::{Lab, Options, Report, Variants},
    gpu::Checks,
    graph::Clock,
};
use std::time::Duration;

/// Measure calls: verified first, then timed
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    method: Method,
    /// Print JSON with every sample on stdout, and nothing else
    #[arg(long)]
    json: bool,
}

/// How to measure.
#[derive(Debug, clap::Args)]
pub(super) struct Method {
    /// Who measures: the device by timestamps, or the host; by default the device where it can
    #[arg(long, value_name = "WHO")]
    clock: Option<Who>,
    /// Samples of each variant, fewer where they take long
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(5..))]
    samples: u16,
    /// Plays before the first sample, in milliseconds: a GPU takes a while to raise its clock
    #[arg(long, value_name = "MS", default_value_t = 250)]
    warm_up: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Who {
    Device,
    Host,
}

const EXAMPLES: &str = "\
--variant says what is measured: best (the rules' choice and the tuned one, the default), all, or a name from \
`impasto bench list` beside the rules' choice. Each is first run on the cases of its kernel, against plain loops on the CPU in f64, and on the shape itself, \
against another variant with checks; one that is wrong is not timed, and the exit code is 1. Samples of the variants \
are taken in turns. Columns: `of roof` is the share of the device's own peak that the call can use at best, by \
multiply-adds (fma) or by device memory (mem); `default` is the time of the rules' choice (*) over this one's; `error` \
the normalised mean square error on the shape; `compile` what the first play took longer.

Examples:
  impasto bench run -p 'matmul 1024x1024'
  impasto bench run --shapes sam2-tiny --variant all -p attention
  impasto bench run --json > base.json";

/// Measure what the device can do at best: arithmetic and memory
#[derive(Debug, clap::Args)]
pub(super) struct RooflineArgs {
    #[command(flatten)]
    method: Method,
    /// Print JSON on stdout
    #[arg(long)]
    json: bool,
}

impl Method {
    /// Opens the device and measures its roofs.
    pub(super) fn lab(&self, global: &Global, variants: Variants) -> Outcome<Lab> {
        let clock = self.clock.map(|who| match who {
            Who::Device => Clock::Device,
            Who::Host => Clock::Host,
        });
        let options = Options {
            clock,
            variants,
            warm_up: Duration::from_millis(self.warm_up),
            samples: self.samples.into(),
            ..Options::default()
        };
        Ok(pollster::block_on(Lab::open(&global.gpu_options(), options))?)
    }
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    let variants = match global.measured_variant().unwrap_or("best") {
        "best" => Variants::Best,
        "all" => Variants::All,
        name => Variants::Named(name.into()),
    };
    let works = args.filter.works(global)?;
    let mut lab = args.method.lab(global, variants)?;
    let mut report = empty_report(&lab);
    if !args.json {
        print_line(&format!(
            "{} ({}), roofs: {}",
            report.adapter.name,
            report.adapter.driver,
            table::roofs(&report.roofs)
        ))?;
        print_line(&table::header())?;
    }
    let progress = global.progress();
    for (n, work) in works.iter().enumerate() {
        signal::check()?;
        progress.stage(format!("{}/{} {}", n + 1, works.len(), work.name()));
        let (rows, refused) = pollster::block_on(lab.rows(work))?;
        if !args.json {
            progress.beside(|| rows.iter().try_for_each(|row| print_line(&table::line(row))))?;
        }
        refused.iter().for_each(|r| progress.beside(|| complain(&format!("not timed: {r}"))));
        report.rows.extend(rows);
        report.refused.extend(refused);
    }
    drop(progress);
    if args.json {
        print_json(&report)?;
    } else if args.filter.set() != "standard" && report.rows.iter().any(|r| r.work.count > 1) {
        print_line("")?;
        table::shares(&report.rows).iter().try_for_each(|line| print_line(line))?;
    }
    if report.refused.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

pub(super) fn roofline(args: &RooflineArgs, global: &Global) -> Outcome {
    let report = empty_report(&args.method.lab(global, Variants::Best)?);
    if args.json {
        return print_json(&report);
    }
    print_line(&format!("{} ({})", report.adapter.name, report.adapter.driver))?;
    table::roofs(&report.roofs).split(", ").try_for_each(|line| print_line(&format!("  {line}")))
}

fn empty_report(lab: &Lab) -> Report {
    Report {
        version: env!("CARGO_PKG_VERSION").into(),
        adapter: lab.gpu().info().clone(),
        checked: lab.gpu().checks() == Checks::Checked,
        clock: lab.clock(),
        roofs: *lab.roofs(),
        rows: Vec::new(),
        refused: Vec::new(),
    }
}
