//! Prompts to embeddings. After `PromptEncoder` and `PositionEmbeddingRandom` (`sam2/modeling/sam/prompt_encoder.py`).
//!
//! A handful of points is less work than a dispatch: their embeddings are computed on the host. Only a mask prompt
//! runs on the device.

use super::config::Config;
use crate::{
    error::Result,
    graph::{Graph, Value},
    kernels::matmul::Residual,
    nn::{Conv2d, LayerNorm, Linear, Loader, Rows, Run},
    weights::Weights,
};
use std::f32::consts::TAU;

/// What a point of a prompt means; the discriminants are SAM's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// Padding: the embedding of no point at all, whatever the position.
    None,
    /// Not the object.
    Negative,
    /// The object.
    Positive,
    /// Top left corner of a box.
    TopLeft,
    /// Bottom right corner of a box.
    BottomRight,
}

/// Points, boxes and masks to embeddings.
#[derive(Debug)]
pub(super) struct PromptEncoder {
    /// `(2, d/2)`: a random Fourier basis.
    gaussian: Vec<f32>,
    /// One row a label, in the order of [`Label`].
    labels: [Vec<f32>; 5],
    /// The dense embedding where there is no mask.
    pub(super) no_mask_embed: Vec<f32>,
    mask: MaskDownscaling,
    d: usize,
}

/// A low-resolution mask to a dense embedding: a sixteenth of the area, `d` channels.
#[derive(Debug)]
struct MaskDownscaling {
    conv0: Conv2d,
    norm0: LayerNorm,
    conv1: Conv2d,
    norm1: LayerNorm,
    conv2: Linear,
}

impl PromptEncoder {
    /// Weights under `sam_prompt_encoder`.
    pub(super) fn load(l: &Loader<'_>, w: &Weights, c: &Config) -> Result<Self> {
        let d = c.hidden;
        let row = |name: &str| w.get(name, &[1, d])?.to_f32();
        let point = |i: usize| row(&format!("point_embeddings.{i}.weight"));
        let m = &w.at("mask_downscaling");
        let inner = c.mask_channels;
        Ok(Self {
            gaussian: w.get("pe_layer.positional_encoding_gaussian_matrix", &[2, d / 2])?.to_f32()?,
            labels: [row("not_a_point_embed.weight")?, point(0)?, point(1)?, point(2)?, point(3)?],
            no_mask_embed: row("no_mask_embed.weight")?,
            mask: MaskDownscaling {
                conv0: Conv2d::load(l, &m.at(0), inner / 4, 1, 2, 2, 0)?,
                norm0: LayerNorm::load(l, &m.at(1), inner / 4, 1e-6)?,
                conv1: Conv2d::load(l, &m.at(3), inner, inner / 4, 2, 2, 0)?,
                norm1: LayerNorm::load(l, &m.at(4), inner, 1e-6)?,
                conv2: Rows::load(&m.at(6), d, inner)?.upload(l, "mask_downscaling.6")?,
            },
            d,
        })
    }

    /// Fourier features of a position in `0..1`: `[sin | cos]`.
    fn position(&self, x: f32, y: f32) -> impl Iterator<Item = f32> {
        let (x, y) = (2.0 * x - 1.0, 2.0 * y - 1.0);
        let half = self.d / 2;
        let angle = move |i: usize| TAU * (x * self.gaussian[i] + y * self.gaussian[half + i]);
        (0..half).map(move |i| angle(i).sin()).chain((0..half).map(move |i| angle(i).cos()))
    }

    /// The embedding of a point at `(x, y)` pixels of the model's square picture of `side`.
    pub(super) fn point(&self, x: f32, y: f32, label: Label, side: usize) -> Vec<f32> {
        let row = &self.labels[label as usize];
        if label == Label::None {
            return row.clone();
        }
        // The half pixel is added after scaling to the model's picture, not before.
        let side = side as f32;
        self.position((x + 0.5) / side, (y + 0.5) / side).zip(row).map(|(p, e)| p + e).collect()
    }

    /// Position embedding of a grid of `side` x `side` cells, `(side * side, d)`: `get_dense_pe`.
    pub(super) fn dense_pe(&self, side: usize) -> Vec<f32> {
        let at = |i: usize| (i as f32 + 0.5) / side as f32;
        (0..side * side).flat_map(|i| self.position(at(i % side), at(i / side)).collect::<Vec<_>>()).collect()
    }

    /// Features `(s * s, d)`, or as many for each, plus the embedding of mask logits `(n, 4s, 4s, 1)`: `(n * s * s, d)`.
    pub(super) fn add_mask(&self, g: &mut Graph, logits: Value, features: Value) -> Result<Value> {
        g.scope("mask_downscaling", |g| {
            let m = &self.mask;
            let x = m.conv0.forward(g, logits, None)?;
            let x = m.norm0.gelu(g, x)?;
            let x = m.conv1.forward(g, x, None)?;
            let x = m.norm1.gelu(g, x)?;
            let (rows, cols) = g.shape(x).rows_cols();
            let x = g.reshape(x, [rows, cols])?;
            let residual = Some(Residual::same(g, features));
            m.conv2.run(g, x, Run { residual, ..Run::default() })
        })
    }
}
