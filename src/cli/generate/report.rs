//! What `generate` says about a run: the plan before it, and what it was after it.

use super::super::failure::{Outcome, print_json, print_line};
use impasto::models::flux::{
    autoencoder::RunPlan,
    pipeline::{Model, Plan, TextPlan},
    sampling::Size,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// What `--json` prints for a run.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) model: &'a str,
    pub(super) adapter: &'a str,
    pub(super) prompt: &'a str,
    pub(super) seed: u64,
    pub(super) width: usize,
    pub(super) height: usize,
    /// That were taken: fewer than asked for with --image.
    pub(super) steps: usize,
    pub(super) timings_ms: BTreeMap<&'static str, f64>,
    pub(super) gpu_bytes: GpuBytes,
    pub(super) files: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct GpuBytes {
    pub(super) planned: u64,
    pub(super) peak: u64,
}

/// What `--dry-run --json` prints.
#[derive(Debug, Serialize)]
struct Dry<'a> {
    model: &'a str,
    transformer: String,
    adapter: &'a str,
    width: usize,
    height: usize,
    text_tokens: usize,
    plan: &'a Plan,
    /// The most on the device at one time.
    gpu_bytes: u64,
    tflop: f64,
}

/// Prints a plan.
pub(super) fn dry_run(
    (name, model): (&str, &Model),
    adapter: &str,
    size: Size,
    text: usize,
    plan: &Plan,
    json: bool,
) -> Outcome {
    if json {
        return print_json(&Dry {
            model: name,
            transformer: model.config.to_string(),
            adapter,
            width: size.width(),
            height: size.height(),
            text_tokens: text,
            plan,
            gpu_bytes: plan.bytes(),
            tflop: plan.flops() as f64 / 1e12,
        });
    }
    let work = |flops: u64| match flops as f64 / 1e12 {
        tera if tera >= 0.1 => format!("{tera:.1} TFLOP"),
        tera => format!("{:.2} GFLOP", tera * 1e3),
    };
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let ae = |what: &str, p: &RunPlan| {
        let bands = if p.by_bands { format!(" in bands (host {})", mb(p.host)) } else { String::new() };
        print_line(&format!(
            "{what}: {} = weights {} + activations {}{bands}, {} a picture",
            mb(p.bytes()),
            mb(p.weights),
            mb(p.working),
            work(p.flops)
        ))
    };
    let t = &plan.transformer;
    print_line(&format!("{name}: {}, on {adapter}", model.config))?;
    print_line(&format!(
        "{} of {}x{}: {} picture tokens, {text} text tokens, {} steps of {}",
        if plan.images == 1 { "a picture".to_owned() } else { format!("{} pictures", plan.images) },
        size.width(),
        size.height(),
        size.tokens(),
        plan.steps,
        if plan.runs == 1 { "one run" } else { "two runs (classifier-free guidance)" },
    ))?;
    for (name, text) in ["prompt", "negative prompt"].iter().zip(&plan.texts) {
        match text {
            TextPlan::Given => print_line(&format!("{name}: given embedded"))?,
            TextPlan::Cached => print_line(&format!("{name}: embedded before, in the cache"))?,
            TextPlan::Encoded(encoders) => {
                for e in encoders {
                    print_line(&format!(
                        "{name}: {} {} = weights {} (two of {} layers at a time, {} in all) + activations {}, {}",
                        e.name,
                        mb(e.bytes()),
                        mb(e.resident),
                        e.layers,
                        mb(e.weights),
                        mb(e.working),
                        work(e.flops)
                    ))?;
                }
            }
        }
    }
    for encode in &plan.encode {
        ae("encode", encode)?;
    }
    let kept = match t.streamed_blocks() {
        0 => "resident".to_owned(),
        n => {
            format!("{} at a time: {n} of {} blocks streamed in every step", mb(t.resident), t.resident_blocks.len())
        }
    };
    print_line(&format!(
        "transformer: {} = weights {} ({kept}) + {} buffers {}, {} launches and {} a run",
        mb(t.bytes()),
        mb(t.weights),
        t.slots,
        mb(t.slot_bytes),
        t.launches,
        work(t.flops)
    ))?;
    ae("decode", &plan.decode)?;
    print_line(&format!("at most {} on the GPU at one time; {} in all", mb(plan.bytes()), work(plan.flops())))
}
