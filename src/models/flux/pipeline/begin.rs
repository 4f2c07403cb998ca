//! What a run begins with: the tokens of its first step, what stands beside them in every step, and what inpainting keeps.
//!
//! Random numbers are drawn in the order of diffusers' pipelines, so that a seed gives the same pictures.

use super::{
    super::sampling::{self, Latents, Noise, Size},
    autoencoder::{Posterior, finite, pixels},
    channels::{self, Channels, fitted, fitted_mask},
    references,
    run::{Event, Run, Stage},
};
use crate::{
    error::{Result, ensure},
    image::{Mask, Picture},
};

/// What a run begins with.
#[derive(Debug)]
pub(super) struct Begin {
    /// Of each picture, the tokens of its first step.
    pub(super) init: Vec<Vec<f32>>,
    /// Of each picture, or for all of them, what each token of it reads in channels behind the latents; or nothing.
    channels: Vec<Vec<f32>>,
    references: References,
    keep: Option<Keep>,
}

/// Tokens of references, one picture after the other.
#[derive(Debug, Default)]
struct References {
    tokens: Vec<f32>,
    positions: Vec<[u32; 4]>,
}

/// What inpainting keeps.
#[derive(Debug)]
struct Keep {
    /// [`sampling::latent_mask`].
    mask: Vec<f32>,
    /// Tokens of the picture.
    picture: Vec<f32>,
    /// Tokens of the noise of each picture that is made.
    noise: Vec<Vec<f32>>,
}

impl Begin {
    /// Positions of the references' tokens.
    pub(super) fn positions(&self) -> &[[u32; 4]] {
        &self.references.positions
    }

    /// What the transformer reads in a step of picture `image` from its latents `x` in `tokens` tokens.
    pub(super) fn input(&self, image: usize, x: &[f32], tokens: usize) -> Vec<f32> {
        let mut input = match self.channels.get(image).or(self.channels.first()) {
            Some(channels) => channels::beside(x, channels, tokens),
            None => x.to_vec(),
        };
        input.extend(&self.references.tokens);
        input
    }

    /// Puts back what is kept of the picture into the latents `x` of picture `image` at the noise level `sigma`.
    pub(super) fn restore(&self, image: usize, x: &mut [f32], sigma: f32) -> Result<()> {
        let Some(keep) = &self.keep else { return Ok(()) };
        sampling::keep(x, &keep.mask, &keep.picture, &keep.noise[image], sigma)
    }
}

impl<'a> Run<'a> {
    /// Draws, and encodes all pictures that the run is given.
    pub(super) async fn begin(&mut self) -> Result<Begin> {
        let (o, version) = (self.options, self.model.config.version);
        let latents = Latents::new(version, o.size);
        let given = o.init_latents.as_ref().map(|given| self.given(given)).transpose()?;
        let mut noise = o.profile.noise(version, o.seed, o.images);

        let control = match &o.channels {
            Some(Channels::Control(picture)) => self.control(picture, &mut noise).await?,
            Some(Channels::Encoded(given)) => vec![given.clone()],
            _ => Vec::new(),
        };
        let start = match &o.start {
            Some(start) if o.encodes_start() => {
                let drawn = noise.posterior(latents.len());
                let picture = fitted(&start.picture, o.size, "the picture to begin with")?;
                Some(self.encode(&pixels(&picture), o.size).await?.tokens(drawn.as_deref())?)
            }
            _ => None,
        };
        if o.fill().is_some() && o.start.is_none() && given.is_none() {
            // The reference encodes the picture even where nothing is left of it.
            noise.posterior(latents.len());
        }
        let begins_with_noise = given.is_none();
        let drawn = match given {
            Some(given) => given,
            None => {
                let drawn = noise.latents(latents.len());
                drawn.chunks(latents.len()).map(|one| latents.tokens_of_noise(one)).collect::<Result<_>>()?
            }
        };
        let channels = match o.fill() {
            Some((picture, mask)) => vec![self.fill(picture, mask, &mut noise).await?],
            None => control,
        };
        let references = self.references().await?;

        let mut init = drawn.clone();
        if let Some(picture) = start.as_ref().filter(|_| begins_with_noise) {
            for x in &mut init {
                let noise = std::mem::replace(x, picture.clone());
                sampling::add_noise(x, &noise, self.settings.schedule.sigma(0))?;
            }
        }
        let mask = o.start.as_ref().and_then(|start| start.mask.as_ref());
        let keep = match (mask, start) {
            (Some(mask), Some(picture)) => {
                let mask = sampling::latent_mask(&fitted_mask(mask, o.size)?, o.size)?;
                Some(Keep { mask, picture, noise: drawn })
            }
            _ => None,
        };
        Ok(Begin { init, channels, references, keep })
    }

    /// Initial latents, checked, for each picture.
    fn given(&self, given: &[f32]) -> Result<Vec<Vec<f32>>> {
        let o = self.options;
        let each = Latents::new(self.model.config.version, o.size).len();
        ensure!(
            given.len() == o.images * each,
            Argument,
            "initial latents of {} elements for {} of {}x{}, which take {each} each",
            given.len(),
            if o.images == 1 { "a picture".to_owned() } else { format!("{} pictures", o.images) },
            o.size.width(),
            o.size.height(),
        );
        finite(given, "the initial latents")?;
        Ok(given.chunks(each).map(<[f32]>::to_vec).collect())
    }

    /// The reference samples around the mean for each picture that is made.
    async fn control(&mut self, picture: &Picture, noise: &mut Noise) -> Result<Vec<Vec<f32>>> {
        let o = self.options;
        let each = Latents::new(self.model.config.version, o.size).len();
        let drawn = noise.posterior(o.images * each);
        let posterior = self.encode(&pixels(&fitted(picture, o.size, "the picture to follow")?), o.size).await?;
        match drawn {
            Some(drawn) => drawn.chunks(each).map(|noise| posterior.tokens(Some(noise))).collect(),
            None => Ok(vec![posterior.tokens(None)?]),
        }
    }

    /// Tokens of the masked picture with the mask behind each: `(tokens, 64 + 256)`.
    async fn fill(&mut self, picture: &Picture, mask: &Mask, noise: &mut Noise) -> Result<Vec<f32>> {
        let o = self.options;
        let drawn = noise.posterior(Latents::new(self.model.config.version, o.size).len());
        let (picture, mask) = (fitted(picture, o.size, "the picture to fill in")?, fitted_mask(mask, o.size)?);
        let tokens = self.encode(&channels::masked(&picture, &mask), o.size).await?.tokens(drawn.as_deref())?;
        Ok(channels::beside(&tokens, &sampling::fill_mask(&mask, o.size)?, o.size.tokens()))
    }

    /// The mean of each: no reference implementation samples here.
    async fn references(&mut self) -> Result<References> {
        let version = self.model.config.version;
        let Some(given) = &self.options.references else { return Ok(References::default()) };
        let (mut tokens, mut sizes) = (Vec::new(), Vec::new());
        for (picture, size) in given.fitted(version)? {
            tokens.extend(self.encode(&pixels(&picture), size).await?.tokens(None)?);
            sizes.push(size);
        }
        Ok(References { tokens, positions: references::ids(version, &sizes) })
    }

    async fn encode(&mut self, pixels: &[f32], size: Size) -> Result<Posterior<'a>> {
        self.watch.tell(Event::Stage(Stage::Encode));
        let (ae, budget) = (&self.model.autoencoder, self.options.budget);
        let encoded = ae.encode_pixels(self.gpu, pixels, size, budget, self.control).await?;
        self.lap("encode");
        Ok(encoded)
    }
}
