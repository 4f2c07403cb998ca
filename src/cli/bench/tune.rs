//! `impasto bench tune`.

use super::{
    super::{
        failure::{Outcome, print_line},
        global::Global,
        signal,
    },
    measure::Method,
    shapes, table,
};
use impasto::{
    Error, ErrorKind,
    bench::{Variants, tune},
    error::IntoError,
    gpu::tuning,
};

/// Find the fastest variants on this adapter, and remember them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
At most eight variants are measured for each class of calls (sizes up to the next power of two). What beats the rules' \
choice by more than 3 % and the noise is written to a file in the user's cache folder (or IMPASTO_CACHE), at the end: \
an interrupted tuning changes nothing. It is used from then on, until the driver or impasto changes; IMPASTO_UNTUNED=1 \
ignores it.

Examples:
  impasto bench tune --shapes sam2-large
  impasto bench tune --remove")]
pub(super) struct Args {
    /// Whose calls: a set or a file, as for `impasto bench run`; may be repeated
    #[arg(long, value_name = "SET|FILE", default_value = "sam2-tiny")]
    shapes: Vec<String>,
    /// Forget what was found on this adapter
    #[arg(long)]
    remove: bool,
    /// Measure, and write nothing
    #[arg(long, conflicts_with = "remove")]
    dry_run: bool,
    #[command(flatten)]
    method: Method,
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    if args.remove {
        return remove(global);
    }
    let mut works = Vec::new();
    for set in &args.shapes {
        works.extend(shapes::set(set, global)?);
    }
    let mut lab = args.method.lab(global, Variants::Class)?;
    let info = lab.gpu().info().clone();
    let path = tuning::path(&info)
        .ok_or_else(|| Error::new(ErrorKind::Io, "no cache folder: set IMPASTO_CACHE to a folder to write to"))?;
    let progress = global.progress();
    let classes = tune::classes(works);
    let (mut winners, mut measured) = (Vec::new(), Vec::new());
    for (n, work) in classes.iter().enumerate() {
        signal::check()?;
        if !lab.has_choice(work)? {
            continue;
        }
        progress.stage(format!("{}/{} {}", n + 1, classes.len(), work.name()));
        let (winner, rows) = pollster::block_on(lab.tune(work))?;
        progress.beside(|| rows.iter().try_for_each(|row| print_line(&table::line(row))))?;
        winners.extend(winner.map(|variant| (work.call.kernel.clone(), work.call.class(), variant)));
        measured.extend(rows);
    }
    drop(progress);
    let regrets = tune::regrets(&measured);
    let near = regrets.iter().filter(|r| **r <= 1.15).count();
    print_line(&format!(
        "{} classes measured; the rules' choice is within 15 % of the best in {near}; {} are remembered",
        regrets.len(),
        winners.len()
    ))?;
    if args.dry_run {
        return Ok(());
    }
    tuning::save(&path, &info, &tune::tuning(winners))?;
    print_line(&path.display().to_string())
}

fn remove(global: &Global) -> Outcome {
    let gpu = global.open_gpu()?;
    let Some(path) = tuning::path(gpu.info()).filter(|p| p.is_file()) else {
        return print_line("nothing was remembered");
    };
    std::fs::remove_file(&path).error(ErrorKind::Io, || format!("cannot remove '{}'", path.display()))?;
    print_line(&format!("removed {}", path.display()))
}
