//! `impasto bench`: kernels measured, compared and tuned.

mod compare;
mod list;
mod measure;
mod shapes;
mod table;
mod tune;

use super::{failure::Outcome, global::Global};
use clap::Subcommand;

/// Measure, compare and tune kernels on an adapter
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Run(measure::Args),
    Roofline(measure::RooflineArgs),
    Compare(compare::Args),
    Tune(tune::Args),
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    match &args.command {
        Command::List(args) => list::run(args, global),
        Command::Run(args) => measure::run(args, global),
        Command::Roofline(args) => measure::roofline(args, global),
        Command::Compare(args) => compare::run(args),
        Command::Tune(args) => tune::run(args, global),
    }
}
