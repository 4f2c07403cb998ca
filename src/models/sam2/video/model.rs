//! What video needs besides the image model, on a device. After `SAM2Base` (`sam2/modeling/sam2_base.py`).

use super::super::{
    config::{Config, Memory, Version},
    memory_attention::{Memories, MemoryAttention, sine_positions},
    memory_encoder::MemoryEncoder,
    model::{EmbeddingTensors, Model},
    together,
};
use crate::{
    error::{Result, bail},
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::{
        elementwise::{Binary, elementwise},
        matmul::{Activation, Batched, Epilogue, Strides, matmul_batched},
        memory_mask::memory_mask,
        memory_store::memory_store,
        memory_tokens::{Bank, memory_tokens},
    },
    models::sam2::{
        mask_decoder::{Decoded, MASKS, OUTPUT_TOKENS},
        two_way::ImageTokens,
    },
    nn::{Linear, Loader},
    shape::{DType, Shape},
    weights::Weights,
};

/// The memory path.
#[derive(Debug)]
pub(super) struct VideoModel {
    memory: Memory,
    attention: MemoryAttention,
    encoder: MemoryEncoder,
    /// Tokens to object pointers.
    pointer: [Linear; 3],
    /// Positions of a memory's cells `(cells, dim)`, and in time `(slots, dim)`.
    space: Tensor,
    times: Tensor,
    /// What is added to memories of an absent object `(dim)`; zeros for SAM 2.0.
    absent: Tensor,
    /// What takes `no_mem_embed` out of an image embedding again, `(d)`.
    minus_no_mem: Tensor,
    /// The pointer of an absent object.
    pub(super) no_pointer: Vec<f32>,
    /// Distances in time to positions, `(dim, d)` and `(dim)`; SAM 2.0 has none.
    time_projection: Option<(Vec<f32>, Vec<f32>)>,
    /// `(4, 4)` and one bias: a mask prompt at the picture's side to one that the prompt encoder takes.
    mask_downsample: (Vec<f32>, f32),
    d: usize,
}

/// A recording of [`VideoModel::record`].
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) graph: Graph,
    /// `(n, 6 + points, d)`.
    pub(super) tokens: Value,
    /// `(n, low, low, 1)`.
    pub(super) mask: Option<Value>,
    /// For each range of what is recalled ([`together::ranges`]).
    pub(super) recalled: Vec<RecalledValues>,
    pub(super) found: Found,
}

/// Inputs of a recording with [`Base::Memories`].
#[derive(Debug, Clone, Copy)]
pub(super) struct RecalledValues {
    /// `(n, memories, 2)` and `(n, pointers, 2, dim)`, as [`memory_tokens`] takes them.
    pub(super) places: Value,
    pub(super) pointers: Option<Value>,
    /// `(n, tokens)`, as [`Memories`] has it.
    pub(super) mask: Option<Value>,
}

/// What a decoder run of video gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Logits `(n, 4, low, low)`.
    pub(super) masks: Value,
    /// As the image model's.
    pub(super) scores: Value,
    /// Pointers of the four mask tokens, `(n, 4, d)`.
    pub(super) pointers: Value,
}

/// A recording that remembers `n` objects of a frame.
#[derive(Debug)]
pub(super) struct RememberGraph {
    pub(super) graph: Graph,
    /// Logits `(n, low, low)`.
    pub(super) masks: Value,
    /// As [`memory_mask`] and [`memory_store`] take them: `(n)` and `(n, 2)`.
    pub(super) hard: Value,
    pub(super) places: Value,
}

impl VideoModel {
    /// The whole model's weights, for pictures of `side` pixels.
    ///
    /// # Errors
    /// `Weights` if the checkpoint has no memory.
    pub(super) fn load(l: &Loader<'_>, w: &Weights, c: &Config, side: usize) -> Result<Self> {
        let Some(memory) = c.memory.clone() else {
            bail!(Weights, "{}: an image model; video needs one with memory (SAM 2's own files have it)", w.origin())
        };
        let (d, dim, cells) = (c.hidden, memory.dim, side / 16);
        let l = &l.exact();
        let host = |name: &str, shape: &[usize]| w.get(name, shape)?.to_f32();
        let no_mem = host("no_mem_embed", &[1, 1, d])?;
        let pointer = |i: usize| Linear::load(l, &w.at("obj_ptr_proj.layers").at(i), d, d);
        let newer = c.version == Some(Version::V2_1);
        let absent = if newer { host("no_obj_embed_spatial", &[1, dim])? } else { vec![0.0; dim] };
        let time = || Ok((host("obj_ptr_tpos_proj.weight", &[dim, d])?, host("obj_ptr_tpos_proj.bias", &[dim])?));
        Ok(Self {
            attention: MemoryAttention::load(l, &w.at("memory_attention"), c, &memory, cells, &no_mem)?,
            encoder: MemoryEncoder::load(l, &w.at("memory_encoder"), c, &memory, &no_mem)?,
            pointer: [pointer(0)?, pointer(1)?, pointer(2)?],
            space: l.values("memory positions", [cells * cells, dim], &sine_positions(cells, dim))?,
            times: l.values(
                "maskmem_tpos_enc",
                [memory.slots, dim],
                &host("maskmem_tpos_enc", &[memory.slots, 1, 1, dim])?,
            )?,
            absent: l.values("no_obj_embed_spatial", [dim], &absent)?,
            minus_no_mem: l.values("no_mem_embed", [d], &no_mem.iter().map(|v| -v).collect::<Vec<f32>>())?,
            no_pointer: host("no_obj_ptr", &[1, d])?,
            time_projection: newer.then(time).transpose()?,
            mask_downsample: (host("mask_downsample.weight", &[1, 1, 4, 4])?, host("mask_downsample.bias", &[1])?[0]),
            memory,
            d,
        })
    }

    /// Prompts of `s.objects` objects are answered on the encoded frame. With [`Base::Memories`] and no points this follows them
    /// into it: each attends to its memories in `bank (slots, cells, dim)`, then is decoded.
    pub(super) fn record(
        &self,
        image: &Model,
        mut g: Graph,
        e: &EmbeddingTensors,
        bank: &Tensor,
        s: Sizes,
    ) -> Result<Recording> {
        let (d, dim, low) = (self.d, self.memory.dim, image.side / 4);
        let tokens = g.input("tokens", [s.objects, OUTPUT_TOKENS + s.points, d], DType::F32);
        let mask = s.mask.then(|| g.input("mask", [s.objects, low, low, 1], DType::F32));
        let image_embed = g.tensor(&e.image_embed);
        let mut recalled = Vec::new();
        let features = match s.base {
            Base::Image => image_embed,
            Base::Raw => {
                let no_mem = g.tensor(&self.minus_no_mem);
                elementwise(&mut g, image_embed, no_mem, Binary::Add)?
            }
            Base::Memories { memories, pointers, padded } => g.scope("memory_attention", |g| {
                let cells = (image.side / 16).pow(2);
                let (bank, space, times) = (g.tensor(bank), g.tensor(&self.space), g.tensor(&self.times));
                let bank = Bank { memories: bank, space, times };
                let mut ranges = Vec::new();
                for [memories, pointers] in
                    together::ranges(together::piece(g.target()), [cells, d], memories, pointers)
                {
                    let places = g.input("places", [s.objects, memories, 2], DType::F32);
                    let tokens = (pointers > 0).then(|| g.input("pointers", [s.objects, pointers, 2, dim], DType::F32));
                    let all = memories * cells + pointers;
                    let mask = padded.then(|| g.input("recalled", [s.objects, all], DType::F32));
                    recalled.push(RecalledValues { places, pointers: tokens, mask });
                    let (values, keys) = memory_tokens(g, bank, places, tokens)?;
                    ranges.push(Memories { values, keys, pointers, mask });
                }
                self.attention.forward(g, image_embed, &ranges)
            })?,
        };
        g.mark(features, "features");
        let keys = match (mask, s.base) {
            (None, Base::Image) => {
                ImageTokens { keys: g.tensor(&e.keys), projected: g.tensor(&e.projected), shared: true }
            }
            (mask, _) => {
                let keys = match mask {
                    Some(mask) => {
                        g.scope("sam_prompt_encoder", |g| image.prompt_encoder.add_mask(g, mask, features))?
                    }
                    None => {
                        let no_mask = g.tensor(&image.no_mask_embed);
                        elementwise(&mut g, features, no_mask, Binary::Add)?
                    }
                };
                let projected = image.mask_decoder.transformer.project_image(&mut g, keys)?;
                ImageTokens { keys, projected, shared: false }
            }
        };
        let found = self.decode(image, &mut g, tokens, keys, e)?;
        Ok(Recording { graph: g, tokens, mask, recalled, found })
    }

    /// Masks, scores and pointers of prompts.
    fn decode(
        &self,
        image: &Model,
        g: &mut Graph,
        tokens: Value,
        keys: ImageTokens,
        e: &EmbeddingTensors,
    ) -> Result<Found> {
        let features = [g.tensor(&e.feat0), g.tensor(&e.feat1)];
        let Decoded { masks, scores, tokens: after } =
            g.scope("sam_mask_decoder", |g| image.mask_decoder.forward(g, tokens, keys, features))?;
        let [n, t, d] = g.shape(tokens).axes("video: tokens")?;
        let pointers = g.scope("obj_ptr_proj", |g| {
            let mut x = after;
            for (i, layer) in self.pointer.iter().enumerate() {
                // The mask tokens lie behind object score and IoU; later layers have nothing else.
                let at = |offset, batch| Strides { offset, batch, row: d };
                let product = Batched {
                    batch: n,
                    m: MASKS,
                    n: d,
                    k: d,
                    x: if i == 0 { at((OUTPUT_TOKENS - MASKS) * d, t * d) } else { at(0, MASKS * d) },
                    w: at(0, 0),
                    bias_batch: 0,
                    y: at(0, MASKS * d),
                    shape: Shape::from([n, MASKS, d]),
                };
                let activation = if i < 2 { Activation::Relu } else { Activation::None };
                let (weight, bias) = (g.tensor(&layer.weight), g.tensor(&layer.bias));
                let epilogue = Epilogue { bias: Some(bias), activation, ..Epilogue::default() };
                x = matmul_batched(g, x, weight, product, epilogue)?;
            }
            Ok(x)
        })?;
        for (value, name) in [(masks, "masks"), (scores, "scores"), (pointers, "pointers")] {
            g.output(value, name);
        }
        Ok(Found { masks, scores, pointers })
    }

    /// Objects of the encoded frame are remembered in `bank`, from masks of side `low`.
    pub(super) fn record_remember(
        &self,
        mut g: Graph,
        e: &EmbeddingTensors,
        bank: &Tensor,
        [objects, low, side]: [usize; 3],
        bf16: bool,
    ) -> Result<RememberGraph> {
        let masks = g.input("masks", [objects, low, low], DType::F32);
        let hard = g.input("hard", [objects], DType::F32);
        let places = g.input("places", [objects, 2], DType::F32);
        g.scope("memory_encoder", |g| {
            let (scale, shift) = (self.memory.sigmoid_scale, self.memory.sigmoid_bias);
            let x = memory_mask(g, masks, hard, side, scale, shift)?;
            let image_embed = g.tensor(&e.image_embed);
            let memories = self.encoder.forward(g, x, image_embed)?;
            g.mark(memories, "");
            let (absent, bank) = (g.tensor(&self.absent), g.tensor(bank));
            memory_store(g, memories, places, absent, bank, bf16)
        })?;
        Ok(RememberGraph { graph: g, masks, hard, places })
    }

    /// A mask `(side, side)` of 0 and 1 to logits `(side / 4, side / 4)` as the prompt encoder takes them.
    pub(super) fn downsample_mask(&self, mask: &[f32], side: usize) -> Vec<f32> {
        let (kernel, bias) = &self.mask_downsample;
        let tap = |y: usize, x: usize, t: usize| mask[(4 * y + t / 4) * side + 4 * x + t % 4] * kernel[t];
        let pixel = |i: usize| (0..16).map(|t| tap(i / (side / 4), i % (side / 4), t)).sum::<f32>() + bias;
        (0..(side / 4).pow(2)).map(pixel).collect()
    }

    /// The tokens of an object pointer `(d / dim, 2, dim)`: each part of it, and the part with its place in time. After
    /// `get_1d_sine_pe`.
    pub(super) fn pointer_tokens(&self, pointer: &[f32], place: f32) -> Vec<f32> {
        let (d, dim) = (self.d, self.memory.dim);
        let mut position = vec![0.0; dim];
        if let Some((weight, bias)) = &self.time_projection {
            let half = d / 2;
            let angle = |i: usize| f64::from(place / 10_000f32.powf((2 * (i / 2)) as f32 / half as f32));
            let sines: Vec<f64> = (0..half).map(|i| angle(i).sin()).chain((0..half).map(|i| angle(i).cos())).collect();
            for ((p, row), b) in position.iter_mut().zip(weight.chunks(d)).zip(bias) {
                let sum: f64 = row.iter().zip(&sines).map(|(w, s)| f64::from(*w) * s).sum();
                *p = (sum + f64::from(*b)) as f32;
            }
        }
        let token = |part: &[f32]| {
            let key = part.iter().zip(&position).map(|(v, p)| v + p).collect();
            [part.to_vec(), key].concat()
        };
        pointer.chunks(dim).flat_map(token).collect()
    }
}

/// What a recording of [`VideoModel::record`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sizes {
    /// Objects.
    pub(super) objects: usize,
    /// Embedded points of each.
    pub(super) points: usize,
    /// Each has a mask of logits.
    pub(super) mask: bool,
    /// What is decoded.
    pub(super) base: Base,
}

/// The features that a frame is decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Base {
    /// The frame's with `no_mem_embed`, as those of a picture.
    Image,
    /// The frame's alone.
    Raw,
    /// The frame's after it has met the memories of each object, and so many tokens of object pointers. Where they are
    /// `padded`, objects have fewer of them than others.
    Memories { memories: usize, pointers: usize, padded: bool },
}
