//! `impasto models`: what there is, where it is, what is in it.

use super::{
    failure::{Outcome, print_json, print_line},
    global::Global,
    session::{DEFAULT_MODEL, open_model},
};
use clap::Subcommand;
use impasto::{
    Result,
    models::sam2::{Config, Version},
    weights::{
        Weights,
        source::{self, MODELS},
    },
};
use serde_json::{Value, json};

/// List, download and inspect models
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The models that are known by name
    #[command(after_help = "\
Any other SAM 2 checkpoint works too: a folder or file (safetensors or .pt), or a Hugging Face id ORG/NAME[@REVISION].")]
    List {
        /// Print JSON on stdout
        #[arg(long)]
        json: bool,
    },
    /// Download a model to the Hugging Face cache (HF_HOME), and print where it is
    #[command(after_help = "\
A download that was cut goes on where it ended. HF_ENDPOINT names a mirror, HF_TOKEN a token for gated models.

Examples:
  impasto models pull tiny
  impasto models pull facebook/sam2.1-hiera-large")]
    Pull {
        /// A name from `impasto models list`, or a Hugging Face id ORG/NAME[@REVISION]
        model: String,
        /// Ask for a newer revision even if one is in the cache
        #[arg(long)]
        refresh: bool,
    },
    /// Show what is in a model: size, version, types, tensors
    #[command(after_help = "\
Examples:
  impasto models inspect mini
  impasto models inspect sam2.1_hiera_tiny.pt --tensors")]
    Inspect {
        /// A file, a folder, a name, or a Hugging Face id that is in the cache
        model: String,
        /// List every tensor under the file's own name
        #[arg(long)]
        tensors: bool,
        /// Print JSON on stdout
        #[arg(long)]
        json: bool,
    },
    /// Print where a model is on this machine
    Path {
        /// A name from `impasto models list`, or a Hugging Face id
        model: String,
    },
}

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    let mut options = global.source_options();
    match &args.command {
        Command::List { json } => list(*json, &options),
        Command::Pull { model, refresh } => {
            options.refresh = *refresh;
            print_line(&source::resolve(model, &options)?.display().to_string())
        }
        Command::Inspect { model, tensors, json } => inspect(model, *tensors, *json, &options),
        Command::Path { model } => print_line(&source::path(model, &options)?.display().to_string()),
    }
}

fn list(json: bool, options: &source::Options) -> Outcome {
    let here = |id: &str| source::path(id, options).is_ok();
    if json {
        let all = MODELS.iter().map(|m| {
            json!({
                "id": m.id, "names": m.short, "bytes": m.bytes, "licence": m.licence, "gated": m.gated, "what": m.what,
                "downloaded": here(m.id), "default": m.id == DEFAULT_MODEL,
            })
        });
        return print_json(&all.collect::<Vec<_>>());
    }
    print_line(&format!("{:<16} {:<34} {:>7}  {:<11} what", "name", "id", "MB", "licence"))?;
    print_line(&format!("{:<16} {:<34} {:>7}  {:<11} a demo model, built in", "mini", "-", 7, "as impasto"))?;
    for m in &MODELS {
        let name = m.short.first().unwrap_or(&m.id);
        let notes = match (here(m.id), m.id == DEFAULT_MODEL) {
            (true, true) => " (default, downloaded)",
            (true, false) => " (downloaded)",
            (false, true) => " (default)",
            (false, false) => "",
        };
        let gated = if m.gated { " (gated)" } else { "" };
        print_line(&format!(
            "{name:<16} {:<34} {:>7}  {:<11} {}{notes}{gated}",
            m.id,
            m.bytes / 1_000_000,
            m.licence,
            m.what
        ))?;
    }
    Ok(())
}

fn inspect(name: &str, tensors: bool, json: bool, options: &source::Options) -> Outcome {
    let options = source::Options { offline: true, ..options.clone() };
    let (config, weights) = open_model(name, &options)?;
    let summary = weights.summary();
    if json {
        let mut all = describe(&config, &weights)?;
        if tensors {
            let list = summary.tensors.iter();
            all["tensors"] = list.map(|(n, d, s)| json!({ "name": n, "dtype": d.to_string(), "shape": s })).collect();
        }
        return print_json(&all);
    }
    let version = match config.version {
        Some(Version::V2_0) => "2.0",
        Some(Version::V2_1) => "2.1",
        None => "2.0 or 2.1 (the image path is the same)",
    };
    print_line(&format!("{}: SAM {version}, {}", weights.origin(), config.size_name().unwrap_or("a size of its own")))?;
    print_line(&format!(
        "pictures of {0} x {0}, trunk {1:?} blocks of {2:?} channels, hidden {3}, {4}",
        config.image_size,
        config.hiera.blocks,
        config.hiera.dims,
        config.hidden,
        if config.memory.is_some() { "with the memory of video" } else { "pictures only" }
    ))?;
    let types: Vec<String> = summary.dtypes.iter().map(|(t, (n, _))| format!("{n} {t}")).collect();
    print_line(&format!(
        "{}, {:.1} MB, {:.1} M parameters in {} tensors: {}",
        summary.format,
        summary.bytes as f64 / 1e6,
        summary.parameters as f64 / 1e6,
        summary.tensors.len(),
        types.join(", ")
    ))?;
    if tensors {
        for (name, dtype, shape) in &summary.tensors {
            print_line(&format!("{name} {dtype} {shape:?}"))?;
        }
    }
    Ok(())
}

fn describe(config: &Config, weights: &Weights) -> Result<Value> {
    let summary = weights.summary();
    let dtypes =
        summary.dtypes.iter().map(|(t, (n, elements))| (t.to_string(), json!({ "tensors": n, "elements": elements })));
    Ok(json!({
        "origin": weights.origin(),
        "format": summary.format.to_string(),
        "bytes": summary.bytes,
        "parameters": summary.parameters,
        "dtypes": dtypes.collect::<serde_json::Map<_, _>>(),
        "version": match config.version {
            Some(Version::V2_0) => json!("2.0"),
            Some(Version::V2_1) => json!("2.1"),
            None => Value::Null,
        },
        "size": config.size_name(),
        "image_size": config.image_size,
        "hidden": config.hidden,
        "blocks": config.hiera.blocks,
        "channels": config.hiera.dims,
        "video": config.memory.is_some(),
    }))
}
