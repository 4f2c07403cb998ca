//! The autoencoders of FLUX.1 (16 latent channels) and FLUX.2 (32): picture to latent and back, in f32. After
//! `modules/autoencoder.py` of black-forest-labs/flux and `autoencoder.py` of black-forest-labs/flux2.
//!
//! Latents are here as the convolutions have them: scaling, shifting and packing are the sampler's.

mod bands;
mod blocks;
mod names;
mod within;

use crate::{
    error::{Result, bail, ensure},
    gpu::Gpu,
    graph::{Graph, Value},
    kernels::activation::Activation,
    nn::{
        Conv2d, GroupNorm, Storage,
        projection::{Parameters, Place, Tally},
    },
    shape::DType,
    weights::Weights,
};
use bands::{Bands, Features, Reach};
use blocks::{Level, Mid, normed};
use std::cell::RefCell;
pub use within::{Direction, RunPlan};

/// Epsilon of all norms.
const EPS: f32 = 1e-6;
/// Groups of the released models' norms.
pub const GROUPS: usize = 32;
/// Resolutions of the released models; a latent's sides are an eighth of the picture's.
const LEVELS: usize = 4;

/// An autoencoder.
#[derive(Debug)]
pub struct AutoEncoder {
    encoder: Encoder,
    decoder: Decoder,
    latent_channels: usize,
    /// Of its weights on a device.
    bytes: u64,
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    down: Vec<Level>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Option<Conv2d>,
}

#[derive(Debug)]
struct Decoder {
    post_quant_conv: Option<Conv2d>,
    conv_in: Conv2d,
    mid: Mid,
    /// By level: the first is the picture's.
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// Output channels of a convolution.
fn channels_out(w: &Weights, conv: &str) -> Result<usize> {
    match w.at(conv).tensor("weight")?.shape() {
        [out, _, _, _] => Ok(*out),
        shape => bail!(Weights, "{}.{conv}.weight has the shape {shape:?}, not that of a convolution", w.prefix()),
    }
}

impl AutoEncoder {
    /// Puts an autoencoder of any layout on a device, in f32. `groups` of the norms: [`GROUPS`], or `norm_num_groups` of its
    /// `config.json`.
    ///
    /// # Errors
    /// `Weights` if a tensor is missing or has another shape, `OutOfMemory`.
    pub fn load(gpu: &Gpu, weights: &Weights, groups: usize) -> Result<Self> {
        let _span = crate::trace::span(|| "load weights".into());
        let declared = Self::declare(gpu, weights, groups)?;
        Ok(Self { bytes: declared.bytes, ..Self::with(&Parameters::new(gpu, Storage::F32), weights, groups)? })
    }

    /// Only declares an autoencoder, for [`plan`](Self::plan): nothing is read but the headers of the weights, nothing is
    /// put on the device, and nothing can be run.
    ///
    /// # Errors
    /// `Weights` as [`load`](Self::load).
    pub fn declare(gpu: &Gpu, weights: &Weights, groups: usize) -> Result<Self> {
        let tally = RefCell::new(Tally::default());
        let p = Parameters::new(gpu, Storage::F32);
        let declared = Self::with(&p.at(Place::Declared(&tally)), weights, groups)?;
        Ok(Self { bytes: tally.into_inner().bytes(), ..declared })
    }

    fn with(p: &Parameters<'_>, weights: &Weights, groups: usize) -> Result<Self> {
        let w = &weights.renamed(names::detect(weights)?);
        let (encoder, latent_channels) = Encoder::load(p, &w.at("encoder"), groups)?;
        let decoder = Decoder::load(p, &w.at("decoder"), latent_channels, groups)?;
        Ok(Self { encoder, decoder, latent_channels, bytes: 0 })
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// Records `(n, h, w, 3)`, values from -1 to 1, to `(n, h / 8, w / 8, 2 * latent_channels)`: mean, then the logarithm of
    /// the variance. Returns the graph, its input and its output.
    ///
    /// # Errors
    /// `Argument` if the sides are no multiples of 8; `OutOfMemory` if a value exceeds what the device binds.
    pub fn record_encode(&self, mut g: Graph, [n, h, w]: [usize; 3]) -> Result<(Graph, Value, Value)> {
        ensure!(
            n * h * w > 0 && h.is_multiple_of(8) && w.is_multiple_of(8),
            Argument,
            "{n} pictures of {w} x {h}: sides have to be multiples of 8"
        );
        let image = g.input("image", [n, h, w, 3], DType::F32);
        let moments = g.scope("encoder", |g| self.encoder.forward(g, image))?;
        g.output(moments, "moments");
        Ok((g, image, moments))
    }

    /// Records `(n, h, w, latent_channels)` to pictures `(n, 8 h, 8 w, 3)`, values about -1 to 1, not clamped. Returns the
    /// graph, its input and its output.
    ///
    /// # Errors
    /// `Argument` if it is empty; `OutOfMemory` if a value exceeds what the device binds.
    pub fn record_decode(&self, mut g: Graph, [n, h, w]: [usize; 3]) -> Result<(Graph, Value, Value)> {
        ensure!(n * h * w > 0, Argument, "{n} latents of {w} x {h}");
        let z = g.input("z", [n, h, w, self.latent_channels], DType::F32);
        let image = g.scope("decoder", |g| self.decoder.forward(g, z))?;
        g.output(image, "image");
        Ok((g, z, image))
    }
}

impl Encoder {
    /// The encoder and the channels of its latent.
    fn load(p: &Parameters<'_>, w: &Weights, groups: usize) -> Result<(Self, usize)> {
        let first = channels_out(w, "conv_in")?;
        let (mut down, mut channels) = (Vec::new(), first);
        for i in 0..LEVELS {
            let (level, out) = Level::load(p, &w.at("down").at(i), channels, groups)?;
            down.push(level);
            channels = out;
        }
        let moments = channels_out(w, "conv_out")?;
        ensure!(moments.is_multiple_of(2), Weights, "{moments} moments: they are means and variances");
        let quant = w.at("quant_conv");
        let encoder = Self {
            conv_in: Conv2d::load(p, &w.at("conv_in"), first, 3, 3, 1, 1)?,
            down,
            mid: Mid::load(p, &w.at("mid"), channels, groups)?,
            norm_out: GroupNorm::load(p, &w.at("norm_out"), channels, groups, EPS)?,
            conv_out: Conv2d::load(p, &w.at("conv_out"), moments, channels, 3, 1, 1)?,
            quant_conv: match quant.has("weight") {
                true => Some(Conv2d::load(p, &quant, moments, moments, 1, 1, 0)?),
                false => None,
            },
        };
        Ok((encoder, moments / 2))
    }

    fn forward(&self, g: &mut Graph, image: Value) -> Result<Value> {
        let mut x = g.scope("conv_in", |g| self.conv_in.forward(g, image, None))?;
        g.mark(x, "conv_in");
        for (i, level) in self.down.iter().enumerate() {
            x = g.scope(format!("down.{i}"), |g| level.forward(g, x))?;
        }
        x = g.scope("mid", |g| self.mid.forward(g, x))?;
        x = self.norm_out.forward(g, x, Activation::Silu)?;
        x = g.scope("conv_out", |g| self.conv_out.forward(g, x, None))?;
        match &self.quant_conv {
            Some(conv) => g.scope("quant_conv", |g| conv.forward(g, x, None)),
            None => Ok(x),
        }
    }

    /// The same by bands.
    async fn by_bands(&self, b: &Bands<'_>, image: Features) -> Result<Features> {
        let first = |g: &mut Graph, v: &[Value], _: Option<Value>| self.conv_in.forward(g, v[0], None);
        let mut x = b.run(&[&image], None, Reach::SAME, &first).await?;
        for level in &self.down {
            x = level.by_bands(b, x).await?;
        }
        x = self.mid.by_bands(b, x).await?;
        let last = |g: &mut Graph, v: &[Value], stats: Option<Value>| {
            let x = normed(&self.norm_out, g, v[0], stats, Activation::Silu)?;
            let x = self.conv_out.forward(g, x, None)?;
            self.quant_conv.as_ref().map_or(Ok(x), |conv| conv.forward(g, x, None))
        };
        b.run(&[&x], Some(&self.norm_out), Reach::SAME, &last).await
    }
}

impl Decoder {
    fn load(p: &Parameters<'_>, w: &Weights, latent: usize, groups: usize) -> Result<Self> {
        let first = channels_out(w, "conv_in")?;
        let (mut up, mut channels) = (Vec::new(), first);
        for i in (0..LEVELS).rev() {
            let (level, out) = Level::load(p, &w.at("up").at(i), channels, groups)?;
            up.insert(0, level);
            channels = out;
        }
        let post = w.at("post_quant_conv");
        Ok(Self {
            post_quant_conv: match post.has("weight") {
                true => Some(Conv2d::load(p, &post, latent, latent, 1, 1, 0)?),
                false => None,
            },
            conv_in: Conv2d::load(p, &w.at("conv_in"), first, latent, 3, 1, 1)?,
            mid: Mid::load(p, &w.at("mid"), first, groups)?,
            up,
            norm_out: GroupNorm::load(p, &w.at("norm_out"), channels, groups, EPS)?,
            conv_out: Conv2d::load(p, &w.at("conv_out"), 3, channels, 3, 1, 1)?,
        })
    }

    fn forward(&self, g: &mut Graph, z: Value) -> Result<Value> {
        let z = match &self.post_quant_conv {
            Some(conv) => g.scope("post_quant_conv", |g| conv.forward(g, z, None))?,
            None => z,
        };
        let mut x = g.scope("conv_in", |g| self.conv_in.forward(g, z, None))?;
        g.mark(x, "conv_in");
        x = g.scope("mid", |g| self.mid.forward(g, x))?;
        for (i, level) in self.up.iter().enumerate().rev() {
            x = g.scope(format!("up.{i}"), |g| level.forward(g, x))?;
        }
        x = self.norm_out.forward(g, x, Activation::Silu)?;
        g.scope("conv_out", |g| self.conv_out.forward(g, x, None))
    }

    /// The same by bands.
    async fn by_bands(&self, b: &Bands<'_>, z: Features) -> Result<Features> {
        let first = |g: &mut Graph, v: &[Value], _: Option<Value>| {
            let z = self.post_quant_conv.as_ref().map_or(Ok(v[0]), |conv| conv.forward(g, v[0], None))?;
            self.conv_in.forward(g, z, None)
        };
        let x = b.run(&[&z], None, Reach::SAME, &first).await?;
        let mut x = self.mid.by_bands(b, x).await?;
        for level in self.up.iter().rev() {
            x = level.by_bands(b, x).await?;
        }
        let last = |g: &mut Graph, v: &[Value], stats: Option<Value>| {
            let x = normed(&self.norm_out, g, v[0], stats, Activation::Silu)?;
            self.conv_out.forward(g, x, None)
        };
        b.run(&[&x], Some(&self.norm_out), Reach::SAME, &last).await
    }
}
