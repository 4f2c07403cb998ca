//! The parts of encoder and decoder, on NHWC images. After `ResnetBlock`, `AttnBlock`, `Downsample` and `Upsample` in
//! `modules/autoencoder.py` of black-forest-labs/flux.

use super::{
    EPS,
    bands::{Bands, Features, Reach},
    channels_out,
};
use crate::{
    error::Result,
    graph::{Graph, Value},
    kernels::{
        activation::Activation,
        attention::{Attention, Operand, attention},
        resize::{Resize, resize},
    },
    nn::{
        Conv2d, GroupNorm,
        projection::{Apply, Parameters, Projection, Selection, Tokens},
    },
    weights::Weights,
};

/// Two convolutions, each after norm and SiLU, and the input again.
#[derive(Debug)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    nin_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// From `cin` channels to those that the checkpoint has.
    pub(super) fn load(p: &Parameters<'_>, w: &Weights, cin: usize, groups: usize) -> Result<(Self, usize)> {
        let out = channels_out(w, "conv1")?;
        let shortcut = || Conv2d::load(p, &w.at("nin_shortcut"), out, cin, 1, 1, 0);
        let block = Self {
            norm1: GroupNorm::load(p, &w.at("norm1"), cin, groups, EPS)?,
            conv1: Conv2d::load(p, &w.at("conv1"), out, cin, 3, 1, 1)?,
            norm2: GroupNorm::load(p, &w.at("norm2"), out, groups, EPS)?,
            conv2: Conv2d::load(p, &w.at("conv2"), out, out, 3, 1, 1)?,
            nin_shortcut: if cin == out { None } else { Some(shortcut()?) },
        };
        Ok((block, out))
    }

    pub(super) fn forward(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let h = self.norm1.forward(g, x, Activation::Silu)?;
        let h = self.conv1.forward(g, h, None)?;
        let h = self.norm2.forward(g, h, Activation::Silu)?;
        let x = match &self.nin_shortcut {
            Some(conv) => conv.forward(g, x, None)?,
            None => x,
        };
        self.conv2.forward(g, h, Some(x))
    }

    /// The same by bands.
    async fn by_bands(&self, b: &Bands<'_>, x: Features) -> Result<Features> {
        let first = |g: &mut Graph, v: &[Value], stats: Option<Value>| {
            let h = normed(&self.norm1, g, v[0], stats, Activation::Silu)?;
            self.conv1.forward(g, h, None)
        };
        let h = b.run(&[&x], Some(&self.norm1), Reach::SAME, &first).await?;
        let second = |g: &mut Graph, v: &[Value], stats: Option<Value>| {
            let h = normed(&self.norm2, g, v[0], stats, Activation::Silu)?;
            let x = match &self.nin_shortcut {
                Some(conv) => conv.forward(g, v[1], None)?,
                None => v[1],
            };
            self.conv2.forward(g, h, Some(x))
        };
        b.run(&[&h, &x], Some(&self.norm2), Reach::SAME, &second).await
    }
}

/// A norm with the statistics that a band comes with.
pub(super) fn normed(norm: &GroupNorm, g: &mut Graph, x: Value, stats: Option<Value>, a: Activation) -> Result<Value> {
    match stats {
        Some(stats) => norm.with(g, x, stats, a),
        None => norm.forward(g, x, a),
    }
}

/// Attention over all pixels, one head.
#[derive(Debug)]
struct AttnBlock {
    norm: GroupNorm,
    /// `q`, `k` and `v`.
    qkv: Projection,
    proj_out: Projection,
    channels: usize,
}

impl AttnBlock {
    fn load(p: &Parameters<'_>, w: &Weights, c: usize, groups: usize) -> Result<Self> {
        let layers = ["q", "k", "v"].map(|name| (name, c)).to_vec();
        Ok(Self {
            norm: GroupNorm::load(p, &w.at("norm"), c, groups, EPS)?,
            qkv: Projection::load(p, w, &Selection { layers, ..Selection::of("q", 3 * c, c, true) })?,
            proj_out: Projection::load(p, w, &Selection::of("proj_out", c, c, true))?,
            channels: c,
        })
    }

    fn forward(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let [batch, h, w, c] = g.shape(x).axes("attn_1")?;
        let tokens = h * w;
        let n = self.norm.forward(g, x, Activation::None)?;
        let sequence = |g: &mut Graph, v: Value| {
            let v = g.reshape(v, [batch, tokens, c])?;
            Tokens::all(g, v)
        };
        let n = sequence(g, n)?;
        let value = self.qkv.run(g, n, Apply::default())?;
        let row = 3 * self.channels;
        let part = |i: usize| Operand { value, offset: i * c, batch: tokens * row, row, head: c };
        let (q, k, v, scale) = (part(0), part(1), part(2), (c as f32).powf(-0.5));
        let (queries, keys) = (tokens, tokens);
        let a = attention(g, Attention { batch, heads: 1, head_dim: c, queries, keys, scale, q, k, v, windows: None })?;
        let (a, residual) = (sequence(g, a)?, Some(sequence(g, x)?));
        let y = self.proj_out.run(g, a, Apply { residual, ..Apply::default() })?;
        g.reshape(y, [batch, h, w, c])
    }
}

/// The lowest resolution: block, attention, block.
#[derive(Debug)]
pub(super) struct Mid {
    block_1: ResnetBlock,
    attn_1: AttnBlock,
    block_2: ResnetBlock,
}

impl Mid {
    pub(super) fn load(p: &Parameters<'_>, w: &Weights, c: usize, groups: usize) -> Result<Self> {
        Ok(Self {
            block_1: ResnetBlock::load(p, &w.at("block_1"), c, groups)?.0,
            attn_1: AttnBlock::load(p, &w.at("attn_1"), c, groups)?,
            block_2: ResnetBlock::load(p, &w.at("block_2"), c, groups)?.0,
        })
    }

    pub(super) fn forward(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let x = g.scope("block_1", |g| self.block_1.forward(g, x))?;
        let x = g.scope("attn_1", |g| {
            let y = self.attn_1.forward(g, x)?;
            g.mark(y, "");
            Ok(y)
        })?;
        let x = g.scope("block_2", |g| self.block_2.forward(g, x))?;
        g.mark(x, "");
        Ok(x)
    }

    /// The same by bands, but for the attention, which needs all pixels.
    pub(super) async fn by_bands(&self, b: &Bands<'_>, x: Features) -> Result<Features> {
        let x = self.block_1.by_bands(b, x).await?;
        let attend = |g: &mut Graph, v: &[Value], _: Option<Value>| self.attn_1.forward(g, v[0]);
        let x = b.run(&[&x], None, Reach::ALL, &attend).await?;
        self.block_2.by_bands(b, x).await
    }
}

/// What a level ends with.
#[derive(Debug)]
enum Resample {
    None,
    /// Half the size, padded at the bottom and the right.
    Down(Conv2d),
    /// Twice the size, each pixel repeated, then a convolution.
    Up(Conv2d),
}

/// Blocks at one resolution.
#[derive(Debug)]
pub(super) struct Level {
    blocks: Vec<ResnetBlock>,
    resample: Resample,
}

impl Level {
    /// From `cin` channels to those that the checkpoint has.
    pub(super) fn load(p: &Parameters<'_>, w: &Weights, cin: usize, groups: usize) -> Result<(Self, usize)> {
        let (mut blocks, mut channels) = (Vec::new(), cin);
        while w.at("block").at(blocks.len()).has("conv1.weight") {
            let (block, out) = ResnetBlock::load(p, &w.at("block").at(blocks.len()), channels, groups)?;
            blocks.push(block);
            channels = out;
        }
        let resample = match (w.at("downsample.conv"), w.at("upsample.conv")) {
            (down, _) if down.has("weight") => {
                Resample::Down(Conv2d::load_padded_after(p, &down, channels, channels, 3)?)
            }
            (_, up) if up.has("weight") => Resample::Up(Conv2d::load(p, &up, channels, channels, 3, 1, 1)?),
            _ => Resample::None,
        };
        Ok((Self { blocks, resample }, channels))
    }

    pub(super) fn forward(&self, g: &mut Graph, mut x: Value) -> Result<Value> {
        for (i, block) in self.blocks.iter().enumerate() {
            x = g.scope(format!("block.{i}"), |g| block.forward(g, x))?;
        }
        x = match &self.resample {
            Resample::None => x,
            Resample::Down(conv) => g.scope("downsample", |g| conv.forward(g, x, None))?,
            Resample::Up(conv) => g.scope("upsample", |g| doubled(conv, g, x))?,
        };
        g.mark(x, "");
        Ok(x)
    }

    /// The same by bands.
    pub(super) async fn by_bands(&self, b: &Bands<'_>, mut x: Features) -> Result<Features> {
        for block in &self.blocks {
            x = block.by_bands(b, x).await?;
        }
        match &self.resample {
            Resample::None => Ok(x),
            Resample::Down(conv) => b.run(&[&x], None, Reach::DOWN, &|g, v, _| conv.forward(g, v[0], None)).await,
            Resample::Up(conv) => b.run(&[&x], None, Reach::UP, &|g, v, _| doubled(conv, g, v[0])).await,
        }
    }
}

/// A convolution of the picture at twice the size.
fn doubled(conv: &Conv2d, g: &mut Graph, x: Value) -> Result<Value> {
    let [_, h, w, _] = g.shape(x).axes("upsample")?;
    let x = resize(g, x, 2 * h, 2 * w, Resize::Nearest)?;
    conv.forward(g, x, None)
}
