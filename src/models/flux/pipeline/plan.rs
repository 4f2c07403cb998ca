//! What a run will take, before it begins.

use super::{Model, Options};
use crate::{
    error::{Result, bail},
    gpu::Gpu,
    models::flux::{
        Denoiser, DenoiserOptions, DenoiserPlan, Size,
        autoencoder::{Direction, RunPlan},
    },
};
use serde::Serialize;

/// Memory and work of a run, part by part. The parts are on the device one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// A picture to begin with, to latents.
    pub encode: Option<RunPlan>,
    /// The transformer.
    pub transformer: DenoiserPlan,
    /// Steps, of each picture.
    pub steps: usize,
    /// Runs of the transformer in a step: 2 with classifier-free guidance.
    pub runs: usize,
    /// Latents to pictures.
    pub decode: RunPlan,
    /// Pictures.
    pub images: usize,
}

impl Plan {
    /// Plans a run whose prompts have `text` tokens each. Nothing is put on the device, and of the weights only headers are
    /// read.
    ///
    /// # Errors
    /// `Argument` for options that cannot be meant, `OutOfMemory` if a value exceeds what the device binds.
    pub fn new(gpu: &Gpu, model: &Model, options: &Options, text: usize) -> Result<Self> {
        let settings = options.settings(model)?;
        let size = Size { batch: 1, text, image: options.size.tokens() };
        let autoencoder = |way| model.autoencoder.plan(gpu, way, options.size, options.budget);
        let encodes = options.start.is_some() && options.init_latents.is_none();
        Ok(Self {
            encode: encodes.then(|| autoencoder(Direction::Encode)).transpose()?,
            transformer: Denoiser::plan(gpu, &model.transformer, &model.config, size, &options.denoiser())?,
            steps: settings.schedule.steps(),
            runs: if settings.true_cfg.is_some() { 2 } else { 1 },
            decode: autoencoder(Direction::Decode)?,
            images: options.images,
        })
    }

    /// The most bytes that are on the device at one time.
    pub fn bytes(&self) -> u64 {
        let encode = self.encode.as_ref().map_or(0, RunPlan::bytes);
        encode.max(self.transformer.bytes()).max(self.decode.bytes())
    }

    /// Whether every part is within `budget` bytes.
    ///
    /// # Errors
    /// `OutOfMemory` with the first part that is not.
    pub fn check(&self, budget: Option<u64>) -> Result<()> {
        let budget = budget.unwrap_or(u64::MAX);
        let encode = self.encode.as_ref().map(RunPlan::bytes);
        let parts = [
            ("encoding the picture", encode.unwrap_or(0)),
            ("the transformer", self.transformer.bytes()),
            ("decoding the picture", self.decode.bytes()),
        ];
        let Some((part, bytes)) = parts.into_iter().find(|(_, bytes)| *bytes > budget) else { return Ok(()) };
        bail!(
            OutOfMemory,
            "{part} takes {bytes} bytes on the GPU, of which {budget} may be used: make a smaller picture"
        )
    }

    /// Floating-point operations of the run, without those of text encoders: divided by what a GPU can do, the time that no
    /// program can go below.
    pub fn flops(&self) -> u64 {
        let steps = (self.steps * self.runs) as u64 * self.transformer.flops;
        self.encode.as_ref().map_or(0, |e| e.flops) + self.images as u64 * (steps + self.decode.flops)
    }
}

impl Options {
    /// How the transformer is loaded.
    pub(super) fn denoiser(&self) -> DenoiserOptions {
        DenoiserOptions { storage: self.storage, budget: self.budget, loras: self.loras.clone() }
    }
}
