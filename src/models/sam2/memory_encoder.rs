//! A mask and the features of its frame to a memory. After `MemoryEncoder`, `MaskDownSampler`, `Fuser` and `CXBlock`
//! (`sam2/modeling/memory_encoder.py`).

use super::{
    config::{Config, Memory},
    together::by_rows,
};
use crate::{
    error::Result,
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::{
        depthwise_conv2d::depthwise_conv2d,
        matmul::{Activation, Residual},
    },
    nn::{Conv2d, LayerNorm, Linear, Loader, Rows, Run},
    weights::Weights,
};

/// Epsilon of these norms.
const EPS: f32 = 1e-6;

/// The memory encoder.
#[derive(Debug)]
pub(super) struct MemoryEncoder {
    /// Halve the mask's sides and quadruple its channels, from 1 to 256.
    downsampler: [(Conv2d, LayerNorm); 4],
    mask: Linear,
    features: Linear,
    fuser: Vec<CxBlock>,
    projection: Linear,
}

/// A ConvNeXt block.
#[derive(Debug)]
struct CxBlock {
    /// `(7, 7, d)` and `(d)`.
    depthwise: [Tensor; 2],
    norm: LayerNorm,
    pointwise1: Linear,
    /// With the layer scale `gamma` multiplied in.
    pointwise2: Linear,
}

impl MemoryEncoder {
    /// Weights under `memory_encoder`; `no_mem (d)` is what our image embeddings have added to the features that the
    /// reference gives this encoder.
    pub(super) fn load(l: &Loader<'_>, w: &Weights, c: &Config, m: &Memory, no_mem: &[f32]) -> Result<Self> {
        let d = c.hidden;
        let down = &w.at("mask_downsampler.encoder");
        let step = |i: usize| -> Result<(Conv2d, LayerNorm)> {
            let (cin, out) = (4usize.pow(i as u32), 4usize.pow(i as u32 + 1));
            Ok((
                Conv2d::load(l, &down.at(3 * i), out, cin, 3, 2, 1)?,
                LayerNorm::load(l, &down.at(3 * i + 1), out, EPS)?,
            ))
        };
        // W (x - no_mem) + b = W x + (b - W no_mem).
        let mut features = Rows::load(&w.at("pix_feat_proj"), d, d)?;
        for (bias, row) in features.bias.iter_mut().zip(features.weight.chunks(d)) {
            let moved = row.iter().zip(no_mem).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            *bias = (f64::from(*bias) - moved) as f32;
        }
        let block = |i: usize| CxBlock::load(l, &w.at("fuser.layers").at(i), d, m.fuser_dim);
        Ok(Self {
            downsampler: [step(0)?, step(1)?, step(2)?, step(3)?],
            mask: Rows::load(&down.at(12), d, 256)?.upload(l, "mask_downsampler.encoder.12")?,
            features: features.upload(l, "pix_feat_proj")?,
            fuser: (0..m.fuser_layers).map(block).collect::<Result<_>>()?,
            projection: Linear::load(l, &w.at("out_proj"), m.dim, d)?,
        })
    }

    /// `masks (n, s, s, 1)`, scaled as the reference has them (`sigmoid_scale_for_mem_enc`), and the frame's `image_embed
    /// ((s / 16)^2, d)`, which they share: memories `(n, (s / 16)^2, dim)`.
    pub(super) fn forward(&self, g: &mut Graph, masks: Value, image_embed: Value) -> Result<Value> {
        let [n, side, ..] = g.shape(masks).axes::<4>("memory_encoder: masks")?;
        let mut x = masks;
        for (i, (conv, norm)) in self.downsampler.iter().enumerate() {
            x = g.scope(format!("mask_downsampler.{i}"), |g| {
                let y = conv.forward(g, x, None)?;
                norm.gelu(g, y)
            })?;
        }
        let (rows, channels) = g.shape(x).rows_cols();
        let x = g.reshape(x, [rows, channels])?;
        let features = self.features.forward(g, image_embed)?;
        let residual = Some(Residual::same(g, features));
        let mut x = self.mask.run(g, x, Run { residual, ..Run::default() })?;
        for (i, block) in self.fuser.iter().enumerate() {
            x = g.scope(format!("fuser.layers.{i}"), |g| block.forward(g, x, [n, side / 16]))?;
        }
        let x = self.projection.forward(g, x)?;
        let (rows, dim) = g.shape(x).rows_cols();
        g.reshape(x, [n, rows / n, dim])
    }
}

impl CxBlock {
    fn load(l: &Loader<'_>, w: &Weights, d: usize, inner: usize) -> Result<Self> {
        let depthwise = &w.at("dwconv");
        let kernel = depthwise.get("weight", &[d, 1, 7, 7])?.to_f32()?;
        let channels_last: Vec<f32> =
            (0..49).flat_map(|t| (0..d).map(move |c| c * 49 + t)).map(|i| kernel[i]).collect();
        let mut pointwise2 = Rows::load(&w.at("pwconv2"), d, inner)?;
        for (i, gamma) in w.get("gamma", &[d])?.to_f32()?.into_iter().enumerate() {
            pointwise2.weight[i * inner..][..inner].iter_mut().for_each(|v| *v *= gamma);
            pointwise2.bias[i] *= gamma;
        }
        Ok(Self {
            depthwise: [
                l.values(depthwise.prefix(), [7, 7, d], &channels_last)?,
                l.values(depthwise.prefix(), [d], &depthwise.get("bias", &[d])?.to_f32()?)?,
            ],
            norm: LayerNorm::load(l, &w.at("norm"), d, EPS)?,
            pointwise1: Linear::load(l, &w.at("pwconv1"), inner, d)?,
            pointwise2: pointwise2.upload(l, "pwconv2")?,
        })
    }

    /// `x (n * side * side, d)`.
    fn forward(&self, g: &mut Graph, x: Value, [n, side]: [usize; 2]) -> Result<Value> {
        let (rows, d) = g.shape(x).rows_cols();
        let image = g.reshape(x, [n, side, side, d])?;
        let [weight, bias] = [g.tensor(&self.depthwise[0]), g.tensor(&self.depthwise[1])];
        let y = depthwise_conv2d(g, image, weight, bias)?;
        let y = g.reshape(y, [rows, d])?;
        by_rows(g, [n, side * side], [self.pointwise1.bias.shape()[0], d], |g, first, out| {
            let len = g.shape(out)[0];
            let (x, y) = (g.slice(x, first, len)?, g.slice(y, first, len)?);
            let y = self.norm.forward(g, y)?;
            let y = self.pointwise1.run(g, y, Run { activation: Activation::Gelu, ..Run::default() })?;
            let residual = Some(Residual::same(g, x));
            self.pointwise2.run(g, y, Run { residual, out: Some(out), ..Run::default() })
        })
    }
}
