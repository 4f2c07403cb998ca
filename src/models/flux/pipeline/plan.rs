//! What a run will take, before it begins.

use super::{Channels, Model, Options, TextPlan};
use crate::{
    error::{Error, ErrorKind, Result, bail},
    gpu::Gpu,
    models::flux::{
        Denoiser, DenoiserOptions, DenoiserPlan, Size,
        autoencoder::{Direction, RunPlan},
    },
};
use serde::Serialize;

/// Memory and work of a run, part by part. The parts are on the device one after the other. The layers that modulate the
/// steps are not listed: they are there one at a time, before the transformer, and the largest takes less than the two slots
/// of a streamed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The texts: the prompt, then the negative one where it counts.
    pub texts: Vec<TextPlan>,
    /// Pictures that the run is given, to latents: those that are as large as what is made, then those to refer to.
    pub encode: Vec<RunPlan>,
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
    /// Plans a run whose `texts` are embedded in `tokens` tokens each. Nothing is put on the device, and of the weights only
    /// headers are read.
    ///
    /// # Errors
    /// `Argument` for options that cannot be meant, `OutOfMemory` if a value exceeds what the device binds.
    pub fn new(gpu: &Gpu, model: &Model, options: &Options, texts: Vec<TextPlan>, tokens: usize) -> Result<Self> {
        let settings = options.settings(model)?;
        let references = options.reference_sizes(model.config.version)?;
        let image = options.size.tokens() + references.iter().map(|size| size.tokens()).sum::<usize>();
        let size = Size { batch: 1, text: tokens, image };
        let too_large = |e: Error| match e.kind() {
            ErrorKind::OutOfMemory => {
                let (width, height) = (options.size.width(), options.size.height());
                e.context(format!("a picture of {width}x{height} is too large for this device, make a smaller one"))
            }
            _ => e,
        };
        let autoencoder = |way, size| model.autoencoder.plan(gpu, way, size, options.budget).map_err(too_large);
        let transformer = Denoiser::plan(gpu, &model.transformer, &model.config, size, &options.denoiser());
        let channels = matches!(options.channels, Some(Channels::Fill { .. } | Channels::Control(_)));
        let as_made = usize::from(channels) + usize::from(options.encodes_start());
        let given = std::iter::repeat_n(options.size, as_made).chain(references);
        Ok(Self {
            texts,
            encode: given.map(|size| autoencoder(Direction::Encode, size)).collect::<Result<_>>()?,
            transformer: transformer.map_err(too_large)?,
            steps: settings.schedule.steps(),
            runs: if settings.true_cfg.is_some() { 2 } else { 1 },
            decode: autoencoder(Direction::Decode, options.size)?,
            images: options.images,
        })
    }

    /// The most bytes that are on the device at one time.
    pub fn bytes(&self) -> u64 {
        self.parts().map(|(_, bytes, _)| bytes).max().unwrap_or(0)
    }

    /// The parts in their order, their bytes, and what makes them less.
    fn parts(&self) -> impl Iterator<Item = (&'static str, u64, &'static str)> {
        let encoders = self.texts.iter().flat_map(TextPlan::encoders);
        let encoders = encoders.map(|e| (e.name, e.bytes(), "keep the weights in fewer bits, or take fewer tokens"));
        let smaller = "make a smaller picture";
        let encode = self.encode.iter().map(move |e| ("encoding the picture", e.bytes(), smaller));
        let transformer =
            ("the transformer", self.transformer.bytes(), "keep the weights in fewer bits, or make a smaller picture");
        let decode = ("decoding the picture", self.decode.bytes(), smaller);
        encoders.chain(encode).chain([transformer, decode])
    }

    /// Whether every part is within `budget` bytes.
    ///
    /// # Errors
    /// `OutOfMemory` with the first part that is not.
    pub fn check(&self, budget: Option<u64>) -> Result<()> {
        let budget = budget.unwrap_or(u64::MAX);
        let Some((part, bytes, help)) = self.parts().find(|(_, bytes, _)| *bytes > budget) else { return Ok(()) };
        bail!(OutOfMemory, "{part} takes {bytes} bytes on the GPU, of which {budget} may be used: {help}")
    }

    /// Floating-point operations of the run: divided by what a GPU can do, the time that no program can go below.
    pub fn flops(&self) -> u64 {
        let steps = (self.steps * self.runs) as u64 * self.transformer.flops;
        let texts: u64 = self.texts.iter().flat_map(TextPlan::encoders).map(|e| e.flops).sum();
        texts + self.encode.iter().map(|e| e.flops).sum::<u64>() + self.images as u64 * (steps + self.decode.flops)
    }
}

impl Options {
    /// How the transformer is loaded.
    pub(super) fn denoiser(&self) -> DenoiserOptions {
        DenoiserOptions { storage: self.storage, budget: self.budget, loras: self.loras.clone() }
    }
}
