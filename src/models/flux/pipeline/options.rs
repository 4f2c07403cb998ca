//! What can be asked of a run, and what comes of it with a model's defaults.

use super::{
    super::{
        Config, Version,
        config::Reads,
        lora::Lora,
        sampling::{Profile, Schedule, Shift, Size},
    },
    Channels, Model, References,
    channels::{self, same_aspect},
};
use crate::{
    error::{Result, ensure},
    image::{Mask, Picture},
    nn::Storage,
};

/// What is asked of a run. Where it is `None` the model's [`Defaults`](super::Defaults) hold.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of the pictures.
    pub size: Size,
    /// Steps of the whole schedule, which `start` shortens.
    pub steps: Option<usize>,
    /// The guidance that the model embeds. For a FLUX.2 that embeds none (klein) it is `true_cfg`, if that is `None`; FLUX.1
    /// schnell takes none, and this is warned of.
    pub guidance: Option<f32>,
    /// The scale of classifier-free guidance, which takes a negative prompt: off at 1 and below.
    pub true_cfg: Option<f32>,
    /// Whose noise levels.
    pub shift: Shift,
    /// Where the noise comes from, with `profile`, which also says how a batch shares it.
    pub seed: u64,
    /// Pictures.
    pub images: usize,
    /// See `seed`.
    pub profile: Profile,
    /// A picture to begin with.
    pub start: Option<Start>,
    /// Pictures that FLUX.1 Fill, Canny and Depth read beside the latents.
    pub channels: Option<Channels>,
    /// Pictures to refer to: of Kontext and FLUX.2.
    pub references: Option<References>,
    /// Tokens of all pictures, `(images, tokens, features)`, that the first step begins with, in place of noise (and of
    /// `start`; where that has a mask they are the noise of what is kept, too, as in diffusers).
    pub init_latents: Option<Vec<f32>>,
    /// How the transformer's matrices are kept.
    pub storage: Storage,
    /// The most bytes on the device: blocks of the transformer are streamed, and the autoencoder passes pictures in bands, so
    /// that they fit. Without one this is done after an out-of-memory error: wgpu does not tell how much memory is free.
    pub budget: Option<u64>,
    /// Low-rank changes to the transformer, each with its strength.
    pub loras: Vec<(Lora, f32)>,
}

/// A picture that a run begins with.
#[derive(Debug, Clone)]
pub struct Start {
    /// Resized to the size that is made, if its aspect is the same.
    pub picture: Picture,
    /// How much of it is replaced, 0 to 1: the share of the steps that are taken.
    pub strength: f64,
    /// Inpainting with a FLUX.1 that knows nothing of masks: only what is set is replaced. After each step the rest becomes the
    /// picture again, under the noise that is left. Resized as the picture; a latent of 8 x 8 pixels goes by its first pixel.
    pub mask: Option<Mask>,
}

/// Options with everything that a model adds to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Steps of the whole schedule.
    pub steps: usize,
    /// The noise levels that are passed through.
    pub schedule: Schedule,
    /// The guidance that is embedded.
    pub guidance: Option<f32>,
    /// The scale of classifier-free guidance, if it is on.
    pub true_cfg: Option<f32>,
}

impl Options {
    /// One picture of this size, and all else by default.
    pub fn new(size: Size) -> Self {
        Self {
            size,
            steps: None,
            guidance: None,
            true_cfg: None,
            shift: Shift::default(),
            seed: 0,
            images: 1,
            profile: Profile::default(),
            start: None,
            channels: None,
            references: None,
            init_latents: None,
            storage: Storage::default(),
            budget: None,
            loras: Vec::new(),
        }
    }

    /// With the defaults of `model`.
    ///
    /// # Errors
    /// `Argument` for figures that cannot be meant: no steps, no pictures, a guidance that is no number; for pictures
    /// that the model cannot read, or does not get, and those of another aspect than what is made.
    pub fn settings(&self, model: &Model) -> Result<Settings> {
        let d = &model.defaults;
        ensure!((1..=1000).contains(&self.images), Argument, "{} pictures: 1 to 1000 are made at once", self.images);
        let guidance = d.guidance.map(|default| self.guidance.unwrap_or(default));
        let mut true_cfg = self.true_cfg;
        if let (Some(strength), None) = (self.guidance, d.guidance) {
            match model.config.version {
                // What diffusers and the authors call guidance of klein.
                Version::Flux2 => true_cfg = true_cfg.or(Some(strength)),
                Version::Flux1 => tracing::warn!("guidance {strength} has no effect: this model takes none"),
            }
        }
        for (what, value) in [("guidance", guidance), ("true CFG", true_cfg)] {
            let fine = value.is_none_or(|v| (0.0..=1000.0).contains(&v));
            ensure!(fine, Argument, "a {what} of {} is not in 0..=1000", value.unwrap_or_default());
        }
        self.check_pictures(&model.config)?;
        let steps = self.steps.unwrap_or(d.steps);
        let schedule = Schedule::new(d.curve, self.shift, self.size.tokens(), steps)?;
        let schedule = match &self.start {
            Some(start) => schedule.at_strength(start.strength)?,
            None => schedule,
        };
        let true_cfg = true_cfg.or(d.true_cfg).filter(|scale| *scale > 1.0);
        Ok(Settings { steps, schedule, guidance, true_cfg })
    }
    /// # Errors
    /// `Argument` for pictures that the model cannot read, or that do not have the aspect of what is made.
    fn check_pictures(&self, c: &Config) -> Result<()> {
        channels::check(self.channels.as_ref(), c, self.size)?;
        self.reference_sizes(c.version)?;
        ensure!(
            self.references.is_none() || c.reads()? == Reads::Latents,
            Argument,
            "this model reads a picture beside each token, and refers to none: take FLUX.1 Kontext or a FLUX.2"
        );
        let Some(start) = &self.start else { return Ok(()) };
        same_aspect([start.picture.width(), start.picture.height()], self.size, "the picture to begin with")?;
        let Some(mask) = &start.mask else { return Ok(()) };
        ensure!(
            c.version == Version::Flux1,
            Argument,
            "a picture to begin with is masked for FLUX.1 only: let FLUX.2 refer to the picture, and say what is to change"
        );
        same_aspect([mask.width(), mask.height()], self.size, "the mask")
    }

    /// What Fill is given to fill in.
    pub(super) fn fill(&self) -> Option<(&Picture, &Mask)> {
        match &self.channels {
            Some(Channels::Fill { picture, mask }) => Some((picture, mask)),
            _ => None,
        }
    }

    /// Whether the picture to begin with is looked at: initial latents stand in for it, unless some of it is kept.
    pub(super) fn encodes_start(&self) -> bool {
        self.start.as_ref().is_some_and(|start| self.init_latents.is_none() || start.mask.is_some())
    }

    /// The size of each reference.
    ///
    /// # Errors
    /// Those of [`References::sizes`].
    pub fn reference_sizes(&self, version: Version) -> Result<Vec<Size>> {
        self.references.as_ref().map_or(Ok(Vec::new()), |references| references.sizes(version))
    }
}
