//! SAM 2 for pictures, on a device: the parts and the recordings made of them. After `SAM2Base` and
//! `SAM2ImagePredictor`.

use super::{
    config::Config,
    image_encoder::ImageEncoder,
    mask_decoder::{Decoded, MaskDecoder},
    prompt_encoder::PromptEncoder,
    two_way::ImageTokens,
};
use crate::{
    error::{Result, ensure},
    gpu::{Gpu, Tensor},
    graph::{Graph, Value},
    kernels::elementwise::{Binary, elementwise},
    nn::{Loader, Storage},
    shape::DType,
    weights::Weights,
};

/// Channel statistics of the pictures that SAM 2 was trained on (`SAM2Transforms`).
pub(super) const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// See [`MEAN`].
pub(super) const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The network.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) config: Config,
    /// Pixels along the side of the square picture that the encoder sees.
    pub(super) side: usize,
    pub(super) prompt_encoder: PromptEncoder,
    image_encoder: ImageEncoder,
    pub(super) mask_decoder: MaskDecoder,
    /// The dense embedding of no mask, `(d)`.
    pub(super) no_mask_embed: Tensor,
}

/// What the decoder needs of a picture; lives from one picture to the next.
#[derive(Debug)]
pub(super) struct EmbeddingTensors {
    /// `(1, side/4, side/4, d/8)`.
    pub(super) feat0: Tensor,
    /// `(1, side/8, side/8, d/4)`.
    pub(super) feat1: Tensor,
    /// `((side/16)^2, d)`.
    pub(super) image_embed: Tensor,
    /// The embedding with the dense embedding of no mask.
    pub(super) keys: Tensor,
    /// The first layer's projections of `keys`: shared by all prompts that bring no mask.
    pub(super) projected: Tensor,
}

/// A recording of the decoder for a number of prompts.
#[derive(Debug)]
pub(super) struct DecodeGraph {
    pub(super) graph: Graph,
    /// `(batch, 6 + n, d)`.
    pub(super) tokens: Value,
    /// Mask logits `(batch, side/4, side/4, 1)`.
    pub(super) mask: Option<Value>,
    pub(super) decoded: Decoded,
}

impl Model {
    pub(super) async fn load(gpu: &Gpu, w: &Weights, config: Config, side: usize, storage: Storage) -> Result<Self> {
        let _span = crate::trace::span(|| "load weights".into());
        ensure!(
            side >= 64 && side.is_multiple_of(32),
            Argument,
            "the image side must be a multiple of 32 from 64 on, not {side}"
        );
        let l = &Loader { gpu, storage };
        // Rounding these would move the borders of masks: in f32 (9 MB more) a mask of half weights keeps an IoU of 0.999.
        let exact = &l.exact();
        let prompt_encoder = PromptEncoder::load(exact, &w.at("sam_prompt_encoder"), &config)?;
        let cells = side / 16;
        let pe = l.values("image_pe", [cells * cells, config.hidden], &prompt_encoder.dense_pe(cells))?;
        Ok(Self {
            image_encoder: ImageEncoder::load(l, w, &config, side).await?,
            mask_decoder: MaskDecoder::load(exact, &w.at("sam_mask_decoder"), &config, &pe).await?,
            no_mask_embed: l.values("no_mask_embed", [config.hidden], &prompt_encoder.no_mask_embed)?,
            prompt_encoder,
            config,
            side,
        })
    }

    /// Room for what one picture becomes.
    pub(super) fn embedding(&self, gpu: &Gpu) -> Result<EmbeddingTensors> {
        let (d, s) = (self.config.hidden, self.side);
        let cells = (s / 16) * (s / 16);
        let inner = d / self.config.decoder.attention_downsample;
        let zeros = |label, shape: &[usize]| gpu.zeros(label, shape, DType::F32);
        Ok(EmbeddingTensors {
            feat0: zeros("feat0", &[1, s / 4, s / 4, d / 8])?,
            feat1: zeros("feat1", &[1, s / 8, s / 8, d / 4])?,
            image_embed: zeros("image_embed", &[cells, d])?,
            keys: zeros("keys", &[cells, d])?,
            projected: zeros("projected", &[cells, 3 * inner])?,
        })
    }

    /// Picture to embedding: the graph and its input `(1, side, side, 3)`.
    pub(super) fn record_encode(&self, mut g: Graph, e: &EmbeddingTensors) -> Result<(Graph, Value)> {
        let image = g.input("image", [1, self.side, self.side, 3], DType::F32);
        let features = self.image_encoder.forward(&mut g, image)?;
        self.record_shared(&mut g, features.image_embed, e)?;
        g.store(features.feat0, &e.feat0)?;
        g.store(features.feat1, &e.feat1)?;
        g.store(features.image_embed, &e.image_embed)?;
        Ok((g, image))
    }

    /// What follows from an embedding that was not made here but loaded.
    pub(super) fn record_restore(&self, mut g: Graph, e: &EmbeddingTensors) -> Result<Graph> {
        let image_embed = g.tensor(&e.image_embed);
        self.record_shared(&mut g, image_embed, e)?;
        Ok(g)
    }

    fn record_shared(&self, g: &mut Graph, image_embed: Value, e: &EmbeddingTensors) -> Result<()> {
        g.scope("shared", |g| {
            let no_mask = g.tensor(&self.no_mask_embed);
            let keys = elementwise(g, image_embed, no_mask, Binary::Add)?;
            let projected = self.mask_decoder.transformer.project_image(g, keys)?;
            g.store(keys, &e.keys)?;
            g.store(projected, &e.projected)
        })
    }

    /// `batch` prompts of `points` embedded points each, with a mask each if `with_mask`.
    pub(super) fn record_decode(
        &self,
        mut g: Graph,
        e: &EmbeddingTensors,
        batch: usize,
        points: usize,
        with_mask: bool,
    ) -> Result<DecodeGraph> {
        let d = self.config.hidden;
        let t = super::mask_decoder::OUTPUT_TOKENS + points;
        let tokens = g.input("tokens", [batch, t, d], DType::F32);
        let low = self.side / 4;
        let mask = with_mask.then(|| g.input("mask", [batch, low, low, 1], DType::F32));
        let image = match mask {
            None => ImageTokens { keys: g.tensor(&e.keys), projected: g.tensor(&e.projected), shared: true },
            Some(mask) => {
                let image_embed = g.tensor(&e.image_embed);
                let keys = g.scope("sam_prompt_encoder", |g| self.prompt_encoder.add_mask(g, mask, image_embed))?;
                let projected = self.mask_decoder.transformer.project_image(&mut g, keys)?;
                ImageTokens { keys, projected, shared: false }
            }
        };
        let features = [g.tensor(&e.feat0), g.tensor(&e.feat1)];
        let decoded = g.scope("sam_mask_decoder", |g| self.mask_decoder.forward(g, tokens, image, features))?;
        g.output(decoded.masks, "masks");
        g.output(decoded.scores, "scores");
        Ok(DecodeGraph { graph: g, tokens, mask, decoded })
    }

    /// A number that tells these weights from others, whatever type they are stored in: FNV-1a over a small tensor that
    /// training moves and that shapes every embedding's use.
    pub(super) fn fingerprint(&self) -> u64 {
        let bytes = self.prompt_encoder.no_mask_embed.iter().flat_map(|v| v.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }

    /// The tokens that a prompt's embedded points are appended to.
    pub(super) fn output_tokens(&self) -> &[f32] {
        &self.mask_decoder.output_tokens
    }

    /// The most prompts whose largest intermediate one binding holds.
    pub(super) fn max_batch(&self, gpu: &Gpu) -> usize {
        let pixels = (self.side / 4) * (self.side / 4);
        let bytes = (pixels * self.config.hidden / 8 * 4) as u64;
        (gpu.target().limits.binding / bytes).clamp(1, 64) as usize
    }
}
