//! The command line: one file for each subcommand, and what they share.

mod batch;
mod bench;
mod doctor;
mod failure;
mod generate;
mod global;
mod masks;
mod models;
mod noise;
mod pattern;
mod progress;
mod prompts;
mod segment;
mod session;
mod signal;
mod terminal;
mod track;

use clap::{CommandFactory, Parser, Subcommand};
use failure::Outcome;
use global::Global;
use std::process::ExitCode;

/// Segment Anything 2 and FLUX on any GPU.
///
/// Finds the object that you click on, or every object of a picture; follows objects through a clip; makes a picture from a
/// prompt. Runs on Vulkan, Metal and DX12, and on a software Vulkan driver where there is no GPU.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  impasto segment photo.jpg --point 320,200 -o mask.png     the object at this pixel
  impasto masks photo.jpg --overlay over.png                every object
  impasto track clip.mp4 --point 0:320,200 --out masks      the object at this pixel of frame 0, through the clip
  impasto generate \"a fox in the snow\" -o fox.png            a picture from a prompt
  impasto doctor                                            does it work on this machine?

`--model mini` needs no download: small demo models that are part of the program.";

#[derive(Debug, Subcommand)]
enum Command {
    Segment(Box<segment::Args>),
    Masks(Box<masks::Args>),
    Track(Box<track::Args>),
    Generate(Box<generate::Args>),
    Doctor(doctor::Args),
    Models(models::Args),
    Bench(bench::Args),
}

/// Parses, runs, and says what went wrong. 0: done; 1: it failed or the input is bad; 2: misuse of the command line;
/// 130: interrupted.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let name = match &cli.command {
        Command::Segment(_) => "segment",
        Command::Masks(_) => "masks",
        Command::Track(_) => "track",
        Command::Generate(_) => "generate",
        Command::Doctor(_) => "doctor",
        Command::Models(_) => "models",
        Command::Bench(_) => "bench",
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(|message| usage_error(name, message)),
    }
}

fn run(cli: &Cli) -> Outcome {
    cli.global.start_logging();
    signal::install()?;
    if let Some(word) = cli.global.measured_variant().filter(|_| !matches!(cli.command, Command::Bench(_))) {
        return Err(failure::Failure::Usage(format!("--variant {word}: expected KERNEL=NAME; only bench takes less")));
    }
    let trace = cli.global.trace.as_ref().map(|path| (path, impasto::trace::start()));
    let outcome = command(cli);
    // Also of what failed: there one wants to see it most.
    match trace {
        Some((path, trace)) => outcome.and(write_trace(path, trace)),
        None => outcome,
    }
}

fn write_trace(path: &std::path::Path, trace: &impasto::trace::Trace) -> Outcome {
    Ok(impasto::image::output::write(path, trace.json().to_string().as_bytes())?)
}

fn command(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Segment(args) => segment::run(args, &cli.global),
        Command::Masks(args) => masks::run(args, &cli.global),
        Command::Track(args) => track::run(args, &cli.global),
        Command::Generate(args) => generate::run(args, &cli.global),
        Command::Doctor(args) => doctor::run(args, &cli.global),
        Command::Models(args) => models::run(args, &cli.global),
        Command::Bench(args) => bench::run(args, &cli.global),
    }
}

/// Told as the parser tells its own errors: with the usage of the subcommand.
fn usage_error(subcommand: &str, message: &str) {
    let mut command = Cli::command();
    command.build();
    let error = match command.find_subcommand_mut(subcommand) {
        Some(sub) => sub.error(clap::error::ErrorKind::ValueValidation, message),
        None => command.error(clap::error::ErrorKind::ValueValidation, message),
    };
    // If stderr is closed there is nobody to tell.
    let _ = error.print();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }
}
