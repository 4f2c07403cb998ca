//! A model on a device, as the flags ask for it.

use super::{failure::Outcome, global::Global, progress::Progress};
use clap::ValueEnum;
use impasto::{
    Result,
    gpu::Gpu,
    models::sam2::{self, Behaviour, Config, Predictor},
    nn::Storage,
    trace,
    weights::{Weights, source},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// What `segment`, `masks` and `track` use when nothing else is said.
pub(super) const DEFAULT_MODEL: &str = "facebook/sam2.1-hiera-tiny";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelArgs {
    /// A name from `impasto models list`, a folder, a file, or a Hugging Face id
    #[arg(short, long, default_value = DEFAULT_MODEL)]
    pub(super) model: String,
    /// Side of the square that the encoder sees, a multiple of 32: the model's own (1024), or less for a preview
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// Keep matrices as f32, f16, or 8-bit blocks, the few that decide a mask's border in f32; by default f16 stays f16
    /// and all else is f32
    #[arg(long, value_name = "TYPE")]
    quantize: Option<Quantize>,
    /// Which official behaviour: of `build_sam2`, or of the bare configuration
    #[arg(long, value_name = "KIND", default_value = "builder")]
    postprocess: Postprocess,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Quantize {
    F32,
    F16,
    Q8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Postprocess {
    /// A single mask gives way to the best of three where it is unstable; in clips holes of up to 8 pixels are filled, and
    /// prompted masks are cut at 0 before they are remembered
    Builder,
    /// None of it
    Raw,
}

impl ModelArgs {
    /// Opens adapter and weights.
    pub(super) fn open(&self, global: &Global, progress: &Progress) -> Outcome<(Gpu, Config, Weights)> {
        progress.stage(format!("opening {}", self.model));
        // The adapter first: without one a download would be in vain.
        let gpu = global.open_gpu()?;
        let (config, weights) = progress.beside(|| open_model(&self.model, &global.source_options()))?;
        Ok((gpu, config, weights))
    }

    /// How a predictor is built.
    pub(super) fn options(&self, global: &Global) -> sam2::Options {
        sam2::Options {
            image_size: self.image_size,
            storage: match self.quantize {
                None => Storage::AsStored,
                Some(Quantize::F32) => Storage::F32,
                Some(Quantize::F16) => Storage::F16,
                Some(Quantize::Q8) => Storage::Q8,
            },
            behaviour: match self.postprocess {
                Postprocess::Builder => Behaviour::Builder,
                Postprocess::Raw => Behaviour::Raw,
            },
            max_bytes: global.max_memory,
        }
    }
}

/// A predictor, and what it took to get there.
pub(super) struct Session {
    pub(super) predictor: Predictor,
    /// As the user named it.
    pub(super) model: String,
    /// Milliseconds from the name to a model ready to run; reported once.
    load: Option<f64>,
}

/// `gpu_bytes` of the JSON output.
#[derive(Debug, Serialize)]
pub(super) struct GpuBytes {
    planned: u64,
    allocated: u64,
}

impl Session {
    /// Opens adapter and model. `encoder`: bind it now, so that its time counts as loading.
    pub(super) fn open(args: &ModelArgs, global: &Global, progress: &Progress, encoder: bool) -> Outcome<Self> {
        let start = Instant::now();
        let (gpu, config, weights) = args.open(global, progress)?;
        let options = args.options(global);
        let mut predictor = pollster::block_on(Predictor::new(&gpu, config, &weights, options))?;
        if encoder {
            predictor.encoder()?;
        }
        let load = start.elapsed().as_secs_f64() * 1e3;
        tracing::info!(model = args.model, adapter = gpu.info().name, milliseconds = load, "model loaded");
        Ok(Self { predictor, model: args.model.clone(), load: Some(load) })
    }

    /// The adapter's name.
    pub(super) fn adapter(&self) -> &str {
        &self.predictor.gpu().info().name
    }

    pub(super) fn gpu_bytes(&self) -> GpuBytes {
        GpuBytes { planned: self.predictor.planned_bytes(), allocated: self.predictor.gpu().allocated_bytes() }
    }

    /// A clock for one picture; the first one's has what loading took.
    pub(super) fn timings(&mut self) -> Timings {
        Timings { steps: BTreeMap::from([("load", self.load.take().unwrap_or(0.0))]) }
    }
}

/// `timings_ms` of the JSON output: milliseconds by step, and their `total`.
#[derive(Debug, Default)]
pub(super) struct Timings {
    steps: BTreeMap<&'static str, f64>,
}

impl Timings {
    /// Runs a step and counts its time.
    pub(super) fn time<T>(&mut self, step: &'static str, f: impl FnOnce() -> T) -> T {
        let _span = trace::span(|| step.into());
        let start = Instant::now();
        let result = f();
        self.add(step, start);
        result
    }

    pub(super) fn add(&mut self, step: &'static str, since: Instant) {
        *self.steps.entry(step).or_default() += since.elapsed().as_secs_f64() * 1e3;
    }

    /// Sets a step that was timed elsewhere.
    pub(super) fn set(&mut self, step: &'static str, milliseconds: f64) {
        self.steps.insert(step, milliseconds);
    }

    pub(super) fn total(&self) -> f64 {
        self.steps.values().sum()
    }
}

impl Serialize for Timings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Microseconds are below what repeats.
        let rounded = |v: f64| (v * 1e3).round() / 1e3;
        let mut all: BTreeMap<&str, f64> = self.steps.iter().map(|(k, v)| (*k, rounded(*v))).collect();
        all.insert("total", rounded(self.total()));
        all.serialize(serializer)
    }
}

/// The model of a name: `mini` is part of the program, all else is looked for as [`source::resolve`] does.
pub(super) fn open_model(name: &str, options: &source::Options) -> Result<(Config, Weights)> {
    if name == "mini" {
        return sam2::mini();
    }
    let path = source::resolve(name, options)?;
    sam2::open(&path)
}
