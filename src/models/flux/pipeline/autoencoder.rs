//! The autoencoder's part in a run: a picture to latent tokens before it, latent tokens to pictures after it.

use super::super::{
    Version,
    autoencoder::{AutoEncoder, Direction, GROUPS, RunPlan},
    sampling::{Latents, Size, Statistics},
};
use crate::{
    error::{ErrorKind, IntoError, Result, ensure},
    gpu::Gpu,
    graph::Control,
    image::Picture,
    weights::Weights,
};
use serde_json::Value as Json;

/// An autoencoder's file, open and checked.
#[derive(Debug, Clone)]
pub struct Autoencoder {
    /// Its tensors, by the names of the file.
    pub weights: Weights,
    /// Channels of a latent: 16 for FLUX.1, 32 for FLUX.2.
    pub latent_channels: usize,
    /// Groups of its norms.
    pub groups: usize,
    /// The latents' mean and spread.
    pub statistics: Statistics,
    /// Side of the square pictures that it was made for.
    pub side: usize,
}

/// What an encoded picture may be: a mean and a deviation for each latent.
#[derive(Debug, Clone)]
pub struct Posterior<'a> {
    autoencoder: &'a Autoencoder,
    /// `(h, w, 2 channels)`: means, then logarithms of variances.
    moments: Vec<f32>,
    size: Size,
}

impl Posterior<'_> {
    /// Latent tokens as the transformer has them: the mean, or what `noise` `(channels, h, w)` draws around it.
    ///
    /// # Errors
    /// `Shape` for noise of another size.
    pub fn tokens(&self, noise: Option<&[f32]>) -> Result<Vec<f32>> {
        let (ae, moments) = (self.autoencoder, &self.moments);
        let (channels, latents) = (ae.latent_channels, Latents::new(ae.version(), self.size));
        let places = moments.len() / (2 * channels);
        if let Some(noise) = noise {
            ensure!(noise.len() == latents.len(), Shape, "{} noise for {} latents", noise.len(), latents.len());
        }
        let value = |place: usize, channel: usize| {
            let (mean, log) = (moments[place * 2 * channels + channel], moments[(place * 2 + 1) * channels + channel]);
            // Bounds of diffusers' DiagonalGaussianDistribution.
            let deviation = (0.5 * log.clamp(-30.0, 20.0)).exp();
            noise.map_or(mean, |noise| mean + deviation * noise[channel * places + place])
        };
        let image: Vec<f32> =
            (0..places).flat_map(|p| (0..channels).map(move |c| (p, c))).map(|(p, c)| value(p, c)).collect();
        let mut tokens = latents.pack(&image)?;
        ae.statistics.normalize(&mut tokens)?;
        Ok(tokens)
    }
}

/// Prefixes under which checkpoints with everything in one file have it.
const PREFIXES: [&str; 3] = ["", "vae", "first_stage_model"];

impl Autoencoder {
    /// Opens a file or a folder of any layout, with the `config.json` beside it if that is an autoencoder's.
    ///
    /// # Errors
    /// Those of [`Weights::open`] and [`new`](Self::new).
    pub fn open(path: &std::path::Path) -> Result<Self> {
        let is_ours = |text: &str| serde_json::from_str::<Json>(text).is_ok_and(|j| j["latent_channels"].is_u64());
        let (weights, json) = Weights::open_with_config(path, is_ours)?;
        Self::new(&weights, json.as_deref())
    }

    /// From tensors and the text of a `config.json`. Without it the constants are the released ones.
    ///
    /// # Errors
    /// `Weights` if it is no autoencoder of FLUX, or its statistics are damaged.
    pub fn new(weights: &Weights, config_json: Option<&str>) -> Result<Self> {
        let json: Json = match config_json {
            Some(text) => serde_json::from_str(text).error(ErrorKind::Weights, || "config.json of the autoencoder")?,
            None => Json::Null,
        };
        let places = || PREFIXES.into_iter().map(|prefix| at(weights, prefix));
        let shape = places().find_map(|w| w.shape("decoder.conv_in.weight"));
        let latent_channels = shape.and_then(|shape| shape.get(1).copied()).unwrap_or(0);
        ensure!(
            [16, 32].contains(&latent_channels),
            Weights,
            "{}: no FLUX autoencoder: it decodes latents of {latent_channels} channels, not 16 or 32",
            weights.origin()
        );
        let number = |key: &str, default: f64| json[key].as_f64().unwrap_or(default);
        let statistics = if latent_channels == 16 {
            Statistics::scalar(number("shift_factor", 0.1159) as f32, number("scaling_factor", 0.3611) as f32)
        } else {
            let bn = places().find(|w| w.has("bn.running_mean")).unwrap_or_else(|| weights.clone()).at("bn");
            let read = |name: &str| bn.get(name, &[4 * latent_channels])?.to_f32();
            let epsilon = number("batch_norm_eps", 1e-4) as f32;
            Statistics::batch_norm(&read("running_mean")?, &read("running_var")?, epsilon)?
        };
        let count = |key: &str, default: usize| json[key].as_u64().map_or(default, |n| n as usize);
        Ok(Self {
            weights: weights.clone(),
            latent_channels,
            groups: count("norm_num_groups", GROUPS),
            statistics,
            side: count("sample_size", 1024),
        })
    }

    /// The transformers that it is for.
    pub fn version(&self) -> Version {
        if self.latent_channels == 16 { Version::Flux1 } else { Version::Flux2 }
    }

    fn load(&self, gpu: &Gpu) -> Result<AutoEncoder> {
        AutoEncoder::load(gpu, &self.weights, self.groups)
    }

    /// What a picture of exactly this size is encoded to, in bands where the whole exceeds `budget`.
    ///
    /// # Errors
    /// `Argument` for another size, `Numeric`, and what the device reports.
    pub async fn encode(
        &self,
        gpu: &Gpu,
        picture: &Picture,
        size: Size,
        budget: Option<u64>,
        control: Control<'_>,
    ) -> Result<Posterior<'_>> {
        let (w, h) = (size.width(), size.height());
        ensure!(
            (picture.width(), picture.height()) == (w, h),
            Argument,
            "a picture of {}x{} to encode in place of one of {w}x{h}",
            picture.width(),
            picture.height()
        );
        self.encode_pixels(gpu, &pixels(picture), size, budget, control).await
    }

    /// The same of values from -1 to 1, `(height, width, 3)`.
    ///
    /// # Errors
    /// `Shape` for another size, `Numeric`, and what the device reports.
    pub async fn encode_pixels(
        &self,
        gpu: &Gpu,
        pixels: &[f32],
        size: Size,
        budget: Option<u64>,
        control: Control<'_>,
    ) -> Result<Posterior<'_>> {
        let shape = [1, size.height(), size.width()];
        let moments = self.load(gpu)?.run(gpu, Direction::Encode, pixels, shape, budget, control).await?;
        finite(&moments, "the encoded picture")?;
        Ok(Posterior { autoencoder: self, moments, size })
    }

    /// The pictures `(height, width, 3)` of some latent tokens each, values from 0 to 1; in bands where a whole one exceeds
    /// `budget`.
    ///
    /// # Errors
    /// `Shape` for tokens of another size, `Numeric` if a picture is not finite, and what the device reports.
    pub async fn decode(
        &self,
        gpu: &Gpu,
        pictures: &[Vec<f32>],
        size: Size,
        budget: Option<u64>,
        control: Control<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let model = self.load(gpu)?;
        let mut decoded = Vec::new();
        for tokens in pictures {
            let latent = self.latents(tokens, size)?;
            let mut values = model.run(gpu, Direction::Decode, &latent, self.grid(size), budget, control).await?;
            finite(&values, "the decoded picture")?;
            values.iter_mut().for_each(|v| *v = (*v * 0.5 + 0.5).clamp(0.0, 1.0));
            decoded.push(values);
        }
        Ok(decoded)
    }

    /// Tokens as the transformer has them, to the latents `(height / 8, width / 8, channels)` that are decoded.
    pub(super) fn latents(&self, tokens: &[f32], size: Size) -> Result<Vec<f32>> {
        let mut tokens = tokens.to_vec();
        self.statistics.denormalize(&mut tokens)?;
        Latents::new(self.version(), size).unpack(&tokens)
    }

    fn grid(&self, size: Size) -> [usize; 3] {
        [1, size.height() / 8, size.width() / 8]
    }

    /// What [`decode`](Self::decode) or [`encode`](Self::encode) takes within a budget, if one is given. Nothing is put on
    /// the device.
    ///
    /// # Errors
    /// Those of [`AutoEncoder::plan`].
    pub fn plan(&self, gpu: &Gpu, way: Direction, size: Size, budget: Option<u64>) -> Result<RunPlan> {
        let size = match way {
            Direction::Encode => [1, size.height(), size.width()],
            Direction::Decode => self.grid(size),
        };
        AutoEncoder::declare(gpu, &self.weights, self.groups)?.plan(gpu, way, size, budget)
    }
}

fn at(weights: &Weights, prefix: &str) -> Weights {
    if prefix.is_empty() { weights.clone() } else { weights.at(prefix) }
}

/// A picture's values from -1 to 1, `(height, width, 3)`.
pub(super) fn pixels(picture: &Picture) -> Vec<f32> {
    picture.rgb().iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect()
}

/// # Errors
/// `Numeric` if a value is NaN or infinite.
pub(super) fn finite(values: &[f32], what: &str) -> Result<()> {
    let bad = values.iter().filter(|v| !v.is_finite()).count();
    ensure!(bad == 0, Numeric, "{what}: {bad} of {} values are NaN or infinite", values.len());
    Ok(())
}
