//! The image encoder: Hiera, the feature pyramid, and what the mask decoder computes from the picture alone.
//! After `ImageEncoder`, `FpnNeck` (`backbones/image_encoder.py`), `SAM2Base.forward_image` and
//! `SAM2ImagePredictor.set_image`.

use super::{config::Config, hiera::Hiera};
use crate::{
    error::Result,
    graph::{Graph, Value},
    kernels::{
        matmul::Residual,
        resize::{Resize, resize},
    },
    nn::{Linear, Loader, Rows, Run},
    weights::Weights,
};

/// Picture to features.
#[derive(Debug)]
pub(super) struct ImageEncoder {
    trunk: Hiera,
    /// Lateral 1x1 convolutions, coarsest first. Those of the two finest levels have the decoder's `conv_s1` and
    /// `conv_s0` multiplied in: nothing lies between them, and 256 channels at stride 4 need never exist.
    convs: [Linear; 4],
}

/// What a picture becomes: stride 4, stride 8, and the embedding at stride 16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    /// `(1, side/4, side/4, d/8)`.
    pub(super) feat0: Value,
    /// `(1, side/8, side/8, d/4)`.
    pub(super) feat1: Value,
    /// `((side/16)^2, d)`, with `no_mem_embed`.
    pub(super) image_embed: Value,
}

impl ImageEncoder {
    /// The whole model's weights, for pictures of `side` pixels.
    pub(super) async fn load(l: &Loader<'_>, w: &Weights, c: &Config, side: usize) -> Result<Self> {
        let trunk = Hiera::load(l, &w.at("image_encoder.trunk"), c, side).await?;
        let d = c.hidden;
        let lateral = |i: usize| Rows::load(&w.at("image_encoder.neck.convs").at(i).at("conv"), d, c.hiera.dims[3 - i]);
        let fine = |i: usize, name: &str, n| {
            Ok(lateral(i)?.followed_by(&Rows::load(&w.at("sam_mask_decoder").at(name), n, d)?))
        };
        // The predictor adds no_mem_embed to the coarsest level that is kept: part of that level's bias.
        let mut middle = lateral(1)?;
        let no_mem = w.get("no_mem_embed", &[1, 1, d])?.to_f32()?;
        middle.bias.iter_mut().zip(no_mem).for_each(|(b, e)| *b += e);
        // The neck writes what the decoder reads: not rounded.
        let up = |rows: Rows, name| rows.upload(&l.exact(), name);
        Ok(Self {
            trunk,
            convs: [
                up(lateral(0)?, "neck.convs.0")?,
                up(middle, "neck.convs.1")?,
                up(fine(2, "conv_s1", d / 4)?, "neck.convs.2")?,
                up(fine(3, "conv_s0", d / 8)?, "neck.convs.3")?,
            ],
        })
    }

    /// `image (1, side, side, 3)`, normalised.
    pub(super) fn forward(&self, g: &mut Graph, image: Value) -> Result<Features> {
        let stages = g.scope("image_encoder.trunk", |g| self.trunk.forward(g, image))?;
        g.scope("image_encoder.neck", |g| {
            let level = |g: &mut Graph, conv: usize, stage: usize| -> Result<Value> {
                let (x, [h, w]) = stages[stage];
                let y = self.convs[conv].forward(g, x)?;
                let (_, d) = g.shape(y).rows_cols();
                g.reshape(y, [1, h, w, d])
            };
            let feat0 = level(g, 3, 0)?;
            let feat1 = level(g, 2, 1)?;
            // Top-down only into the stride-16 level: its lateral plus the nearest-upsampled stride-32 level.
            let coarse = level(g, 0, 3)?;
            let (x, [h, w]) = stages[2];
            let top = resize(g, coarse, h, w, Resize::Nearest)?;
            let d = g.shape(top)[3];
            let top = g.reshape(top, [h * w, d])?;
            let residual = Some(Residual::same(g, top));
            let image_embed = self.convs[1].run(g, x, Run { residual, ..Run::default() })?;
            Ok(Features { feat0, feat1, image_embed })
        })
    }
}
