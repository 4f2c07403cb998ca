//! `impasto models`: what there is, where it is, what is in it.

use super::{
    failure::{Outcome, print_json, print_line},
    global::Global,
    session::DEFAULT_MODEL,
};
use clap::Subcommand;
use impasto::{
    Result,
    models::sam2::{self, Config, Version},
    weights::{
        Meta, Summary, Weights,
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
  impasto models inspect sam2.1_hiera_tiny.pt --tensors
  impasto models inspect flux1-schnell-Q4_K_S.gguf")]
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
    let (origin, summary, config) = if name == "mini" {
        let (config, weights) = sam2::mini()?;
        ("mini (built in)".to_string(), weights.summary(), Ok(config))
    } else {
        let path = source::path(name, options)?;
        let weights = Weights::open(&path)?;
        (weights.origin().to_string(), weights.summary(), sam2::open(&path).map(|(config, _)| config))
    };
    if json {
        return print_json(&describe(&origin, &summary, &config, tensors));
    }
    match &config {
        Ok(c) => {
            print_line(&format!("{origin}: {c}"))?;
            let memory = if c.memory.is_some() { "with the memory for video" } else { "pictures only" };
            print_line(&format!("made for pictures of {0} x {0}, {memory}", c.image_size))?;
        }
        Err(e) => print_line(&format!("{origin}: nothing that impasto runs: {e}"))?,
    }
    let types: Vec<String> = summary.dtypes.iter().map(|(t, (n, _))| format!("{n} {t}")).collect();
    print_line(&format!(
        "{}, {:.1} MB, {:.1} M parameters in {} tensors: {}",
        summary.format,
        summary.bytes as f64 / 1e6,
        summary.parameters as f64 / 1e6,
        summary.tensors.len(),
        types.join(", ")
    ))?;
    for (key, value) in &summary.metadata {
        print_line(&format!("{} = {value}", key.escape_debug()))?;
    }
    if tensors {
        for (name, dtype, shape) in &summary.tensors {
            print_line(&format!("{name} {dtype} {shape:?}"))?;
        }
    }
    Ok(())
}

fn describe(origin: &str, summary: &Summary, config: &Result<Config>, tensors: bool) -> Value {
    let dtypes = summary.dtypes.iter();
    let dtypes = dtypes.map(|(t, (n, elements))| (t.to_string(), json!({ "tensors": n, "elements": elements })));
    let model = match config {
        Err(_) => Value::Null,
        Ok(c) => json!({
            "name": c.to_string(),
            "version": match c.version {
                Some(Version::V2_0) => json!("2.0"),
                Some(Version::V2_1) => json!("2.1"),
                None => Value::Null,
            },
            "size": c.size_name(),
            "image_size": c.image_size,
            "hidden": c.hidden,
            "blocks": c.hiera.blocks,
            "channels": c.hiera.dims,
            "video": c.memory.is_some(),
        }),
    };
    let mut all = json!({
        "origin": origin,
        "format": summary.format.to_string(),
        "bytes": summary.bytes,
        "parameters": summary.parameters,
        "dtypes": dtypes.collect::<serde_json::Map<_, _>>(),
        "model": model,
    });
    if let Err(e) = config {
        all["problem"] = e.to_string().into();
    }
    if !summary.metadata.is_empty() {
        let metadata = summary.metadata.iter();
        all["metadata"] = metadata.map(|(key, value)| (key.clone(), meta(value))).collect();
    }
    if tensors {
        let list = summary.tensors.iter();
        all["tensors"] = list.map(|(n, d, s)| json!({ "name": n, "dtype": d.to_string(), "shape": s })).collect();
    }
    all
}

fn meta(value: &Meta) -> Value {
    match value {
        Meta::Unsigned(n) => json!(n),
        Meta::Signed(n) => json!(n),
        Meta::Float(x) => json!(x),
        Meta::Bool(b) => json!(b),
        Meta::Text(text) => json!(text),
        Meta::Array(count) => json!({ "array": count }),
    }
}
