//! The mask decoder. After `MaskDecoder` (`sam2/modeling/sam/mask_decoder.py`).

use super::{
    config::Config,
    two_way::{ImageTokens, TwoWayTransformer},
};
use crate::{
    error::{Result, ensure},
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::matmul::{Activation, Batched, Epilogue, Strides, matmul_batched},
    nn::{ConvTranspose2d, LayerNorm, Loader},
    shape::Shape,
    weights::Weights,
};

/// Mask tokens: one for a single mask and three for an ambiguous prompt.
pub(super) const MASKS: usize = 4;
/// Output tokens before the prompt's: object score, IoU, masks.
pub(super) const OUTPUT_TOKENS: usize = 2 + MASKS;

/// Tokens and image features to masks and scores.
#[derive(Debug)]
pub(super) struct MaskDecoder {
    /// `[obj_score, iou, masks]`, `(6, d)`, put before the prompt's tokens.
    pub(super) output_tokens: Vec<f32>,
    pub(super) transformer: TwoWayTransformer,
    upscale0: ConvTranspose2d,
    upscale_norm: LayerNorm,
    upscale1: ConvTranspose2d,
    heads: Heads,
    d: usize,
}

/// Six MLPs of three layers, one an output token, stacked: object score, IoU, and the four hypernetworks. What is
/// narrower than the widest is padded with zeros.
#[derive(Debug)]
struct Heads {
    layers: [HeadLayer; 3],
}

#[derive(Debug)]
struct HeadLayer {
    weight: Tensor,
    bias: Tensor,
    n: usize,
    k: usize,
}

/// What the decoder gives for a batch of prompts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoded {
    /// Logits `(batch, 4, 4s, 4s)` for an image embedding of side `s`.
    pub(super) masks: Value,
    /// `(batch, 6, width)`: row 0 holds the object score's logit, row 1 the IoUs before the sigmoid.
    pub(super) scores: Value,
    /// Tokens after the transformer, `(batch * t, d)`.
    pub(super) tokens: Value,
}

impl MaskDecoder {
    /// Weights under `sam_mask_decoder`; `pe` is the image position embedding.
    pub(super) async fn load(l: &Loader<'_>, w: &Weights, c: &Config, pe: &Tensor) -> Result<Self> {
        let d = c.hidden;
        let token = |name: &str, n| w.at(name).get("weight", &[n, d])?.to_f32();
        let mut output_tokens = token("obj_score_token", 1)?;
        output_tokens.extend(token("iou_token", 1)?);
        output_tokens.extend(token("mask_tokens", MASKS)?);
        let up = &w.at("output_upscaling");
        Ok(Self {
            output_tokens,
            transformer: TwoWayTransformer::load(l, &w.at("transformer"), c, pe).await?,
            upscale0: ConvTranspose2d::load(l, &up.at(0), d / 4, d)?,
            upscale_norm: LayerNorm::load(l, &up.at(1), d / 4, 1e-6)?,
            upscale1: ConvTranspose2d::load(l, &up.at(3), d / 8, d / 4)?,
            heads: Heads::load(l, w, c)?,
            d,
        })
    }

    /// `tokens (batch, 6 + n, d)`; `feat0 (1, 4s, 4s, d/8)`, `feat1 (1, 2s, 2s, d/4)`.
    pub(super) fn forward(
        &self,
        g: &mut Graph,
        tokens: Value,
        image: ImageTokens,
        [feat0, feat1]: [Value; 2],
    ) -> Result<Decoded> {
        let [batch, t, _] = g.shape(tokens).axes("mask_decoder: tokens")?;
        let (queries, keys) = g.scope("transformer", |g| self.transformer.forward(g, tokens, image))?;

        let up = g.scope("output_upscaling", |g| {
            let side = g.shape(feat1)[1] / 2;
            let x = g.reshape(keys, [batch, side, side, self.d])?;
            // The skip is added before the norm here and before the last GELU below.
            let x = self.upscale0.forward(g, x, Some(feat1), Activation::None)?;
            let x = self.upscale_norm.gelu(g, x)?;
            self.upscale1.forward(g, x, Some(feat0), Activation::Gelu)
        })?;
        let [_, height, width, channels] = g.shape(up).axes("mask_decoder: upscaled")?;

        let scores = g.scope("heads", |g| self.heads.forward(g, queries, batch, t))?;
        let masks = g.scope("masks", |g| {
            // masks[b, i] = hyper[b, i] . upscaled[b]
            let n = self.heads.layers[2].n;
            let pixels = height * width;
            let product = Batched {
                batch,
                m: MASKS,
                n: pixels,
                k: channels,
                x: Strides { offset: 2 * n, batch: OUTPUT_TOKENS * n, row: n },
                w: Strides { offset: 0, batch: pixels * channels, row: channels },
                bias_batch: 0,
                y: Strides { offset: 0, batch: MASKS * pixels, row: pixels },
                shape: Shape::from([batch, MASKS, height, width]),
            };
            matmul_batched(g, scores, up, product, Epilogue::default())
        })?;
        Ok(Decoded { masks, scores, tokens: queries })
    }
}

impl Heads {
    fn load(l: &Loader<'_>, w: &Weights, c: &Config) -> Result<Self> {
        let (d, hyper) = (c.hidden, c.hidden / 8);
        ensure!(
            hyper >= MASKS,
            Weights,
            "a decoder of width {d} has no room for {MASKS} IoUs beside its hypernetworks"
        );
        let hidden = c.decoder.iou_hidden.max(d);
        // (path, hidden width, outputs) of each output token, in token order.
        let mut mlps = vec![
            ("pred_obj_score_head".to_string(), d, 1),
            ("iou_prediction_head".to_string(), c.decoder.iou_hidden, MASKS),
        ];
        mlps.extend((0..MASKS).map(|i| (format!("output_hypernetworks_mlps.{i}"), d, hyper)));
        let layer = |i: usize| {
            let (n, k) = (if i == 2 { hyper } else { hidden }, if i == 0 { d } else { hidden });
            let (mut weight, mut bias) = (vec![0f32; mlps.len() * n * k], vec![0f32; mlps.len() * n]);
            for (j, (path, width, outputs)) in mlps.iter().enumerate() {
                let (rows, cols) = (if i == 2 { *outputs } else { *width }, if i == 0 { d } else { *width });
                let w = &w.at(path).at("layers").at(i);
                for (r, row) in w.get("weight", &[rows, cols])?.to_f32()?.chunks(cols).enumerate() {
                    weight[(j * n + r) * k..][..cols].copy_from_slice(row);
                }
                bias[j * n..][..rows].copy_from_slice(&w.get("bias", &[rows])?.to_f32()?);
            }
            Ok(HeadLayer {
                weight: l.values("heads", [mlps.len(), n, k], &weight)?,
                bias: l.values("heads", [mlps.len() * n], &bias)?,
                n,
                k,
            })
        };
        Ok(Self { layers: [layer(0)?, layer(1)?, layer(2)?] })
    }

    /// Output token `j` of each prompt through MLP `j`: `(batch, 6, n)`.
    fn forward(&self, g: &mut Graph, queries: Value, batch: usize, t: usize) -> Result<Value> {
        let mut x = queries;
        // Rows of the transformer's result are t tokens apart, later ones six.
        let mut row = t;
        for (i, layer) in self.layers.iter().enumerate() {
            let HeadLayer { n, k, .. } = *layer;
            let (weight, bias) = (g.tensor(&layer.weight), g.tensor(&layer.bias));
            let product = Batched {
                batch: OUTPUT_TOKENS,
                m: batch,
                n,
                k,
                x: Strides { offset: 0, batch: k, row: row * k },
                w: Strides { offset: 0, batch: n * k, row: k },
                bias_batch: n,
                y: Strides { offset: 0, batch: n, row: OUTPUT_TOKENS * n },
                shape: Shape::from([batch, OUTPUT_TOKENS, n]),
            };
            let activation = if i < 2 { Activation::Relu } else { Activation::None };
            x = matmul_batched(
                g,
                x,
                weight,
                product,
                Epilogue { bias: Some(bias), activation, ..Epilogue::default() },
            )?;
            row = OUTPUT_TOKENS;
        }
        Ok(x)
    }
}
