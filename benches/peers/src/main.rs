//! The same shapes on the same adapter: impasto beside burn, meganeura and ggml. See README.md.

mod data;
mod measure;
mod peer;
mod report;
mod shapes;

use clap::Parser;
use impasto::gpu::{Gpu, Options};
use measure::Settings;
use peer::{Ggml, Ours, Peer, Type, guarded};
use report::{Measured, Report};
use std::{path::PathBuf, process::ExitCode};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Times the same operations with impasto and with other libraries, in turns, on one adapter.
#[derive(Debug, Parser)]
struct Args {
    /// A part of the adapter's name, or its index; the best there is otherwise
    #[arg(long)]
    adapter: Option<String>,
    /// A built `test-backend-ops` of ggml with the Vulkan backend: ggml is a peer
    #[arg(long, value_name = "PATH")]
    ggml: Option<PathBuf>,
    /// How ggml stores weights, keys and values
    #[arg(long, value_delimiter = ',', default_value = "f16")]
    ggml_types: Vec<Type>,
    /// Cases from a JSON file instead of those of SAM 2 and FLUX
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print the cases as a JSON file for --shapes, and end
    #[arg(long)]
    list: bool,
    /// Samples of each library
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of a sample: as many runs as fit, at least one
    #[arg(long, default_value_t = 200)]
    sample_ms: u64,
    /// Write everything that was measured
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Whether impasto gave times for every case.
fn run(args: &Args) -> Result<bool> {
    let environment = Options::from_env();
    let options = Options { adapter: args.adapter.clone().or(environment.adapter.clone()), ..environment };
    let gpu = pollster::block_on(Gpu::open(&options))?;
    let mut cases = match &args.shapes {
        Some(path) => shapes::from_file(path)?,
        None => shapes::standard(&gpu)?,
    };
    if let Some(text) = &args.only {
        cases.retain(|c| c.to_string().contains(text));
    }
    if cases.is_empty() {
        return Err("no case is left to time".into());
    }
    if args.list {
        println!("{}", serde_json::to_string_pretty(&cases)?);
        return Ok(true);
    }

    let (mut peers, mut absent): (Vec<Box<dyn Peer>>, _) = (vec![Box::new(Ours::new(&gpu))], Vec::new());
    for (name, opened) in open(args, &gpu) {
        match opened {
            Ok(peer) => peers.push(peer),
            Err(e) => {
                eprintln!("{name} is left out: {e}");
                absent.push((name, e.to_string()));
            }
        }
    }
    let info = gpu.info();
    println!("{} ({}), {}\n\n{}", info.name, info.backend, info.driver, report::heading());
    let settings = Settings { rounds: args.rounds as usize, sample_ms: args.sample_ms };
    let mut report = Report { adapter: info.clone(), settings, absent, cases: Vec::new() };
    for case in cases {
        let rows = measure::measure(&case, &mut peers, settings);
        let measured = Measured { flops: case.op.flops(), case, rows };
        print!("{}", report::lines(&measured));
        report.cases.push(measured);
        // After every case, so that a run that is cut short is not lost.
        if let Some(path) = &args.json {
            report.write(path)?;
        }
    }
    Ok(report.cases.iter().all(|c| c.rows[0].failure.is_none()))
}

type Opened = (String, Result<Box<dyn Peer>>);

/// Opens every peer that is built in or named on impasto's adapter.
fn open(args: &Args, gpu: &Gpu) -> Vec<Opened> {
    let info = gpu.info();
    let mut opened: Vec<Opened> =
        peer::BUILT_IN.iter().map(|(name, open)| (name.to_string(), guarded(|| open(info)))).collect();
    let Some(program) = &args.ggml else { return opened };
    let software = info.device_type == "cpu";
    opened.extend(args.ggml_types.iter().map(|&weights| {
        let peer = guarded(|| Ok(Box::new(Ggml::new(program, &info.name, software, weights)?) as Box<dyn Peer>));
        ("ggml".to_string(), peer)
    }));
    opened
}
