//! The transformer: its weights on a device, and the recording of one step. After `Flux` in `src/flux/model.py` and
//! `Flux2` in `src/flux2/model.py` of the authors.

use super::{
    blocks::{Context, DoubleBlock, SingleBlock},
    config::Config,
};
use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    graph::{Graph, Value},
    nn::{
        Storage,
        projection::{Apply, Parameters, Place, Projection, Selection, Tally, Tokens},
        stack::{Residency, Stack},
    },
    shape::DType,
    weights::Weights,
};
use std::cell::RefCell;

/// A FLUX transformer without its modulation layers, whose results [`vectors`](super::vectors) computes.
#[derive(Debug)]
pub struct Transformer {
    config: Config,
    img_in: Projection,
    txt_in: Projection,
    /// The double blocks, then the single ones.
    blocks: Stack<Block>,
    final_layer: Projection,
}

/// A block of either kind.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a few dozen")]
enum Block {
    Double(DoubleBlock),
    Single(SingleBlock),
}

impl Block {
    /// Path of block `i` of all.
    fn name(c: &Config, i: usize) -> String {
        match i.checked_sub(c.double_blocks) {
            None => format!("double_blocks.{i}"),
            Some(single) => format!("single_blocks.{single}"),
        }
    }

    fn load(p: &Parameters<'_>, w: &Weights, c: &Config, i: usize) -> Result<Self> {
        let w = &w.at(Self::name(c, i));
        match i < c.double_blocks {
            true => Ok(Self::Double(DoubleBlock::load(p, w, c)?)),
            false => Ok(Self::Single(SingleBlock::load(p, w, c)?)),
        }
    }
}

/// How many sequences, and tokens in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Pictures that are made at once.
    pub batch: usize,
    /// Text tokens.
    pub text: usize,
    /// Picture tokens: of the picture that is made, then of pictures that it refers to.
    pub image: usize,
}

/// The recording of one step.
#[derive(Debug)]
pub struct Step {
    /// The recording.
    pub graph: Graph,
    /// Picture tokens `(batch, image, in_channels)`.
    pub img: Value,
    /// Text tokens `(batch, text, context)`: written once for all steps.
    pub txt: Value,
    /// Shifts, scales and gates `(Config::vectors, batch, stride)`, as [`Vectors::batch`](super::Vectors::batch) gives them.
    pub vectors: Value,
    /// The rotary [`table`](super::rope::table) of text and picture `(text + image, head_dim / 2, 2)`: written once.
    pub table: Value,
    /// The velocity `(batch, image, out_channels)`, an output.
    pub velocity: Value,
}

impl Transformer {
    /// Puts the weights, which go by our names, on a device.
    ///
    /// # Errors
    /// `Weights` if a tensor is missing or has another shape, `OutOfMemory`.
    pub fn load(gpu: &Gpu, w: &Weights, config: Config, storage: Storage) -> Result<Self> {
        let all = Residency::all(config.double_blocks + config.single_blocks);
        Self::load_as(&Parameters::new(gpu, storage), w, config, &all)
    }

    /// The same with blocks that take turns in device memory, as a plan says.
    pub(super) fn load_as(p: &Parameters<'_>, w: &Weights, config: Config, plan: &Residency) -> Result<Self> {
        let _span = crate::trace::span(|| "load weights".into());
        let blocks = Stack::load(p, plan, |p, i| Block::load(p, w, &config, i))?;
        Self::around(blocks, p, w, config)
    }

    /// A transformer that is only declared, for recordings that are planned or counted; what its blocks take, and all else.
    pub(super) fn declare(
        p: &Parameters<'_>,
        w: &Weights,
        config: Config,
        exact: bool,
    ) -> Result<(Self, Vec<Tally>, Tally)> {
        let count = config.double_blocks + config.single_blocks;
        let (blocks, tallies) = Stack::declare(p, count, exact, |p, i| Block::load(p, w, &config, i))?;
        let rest = RefCell::default();
        let transformer = Self::around(blocks, &p.at(Place::Declared(&rest)), w, config)?;
        Ok((transformer, tallies, rest.into_inner()))
    }

    /// The layers before and after the blocks.
    fn around(blocks: Stack<Block>, p: &Parameters<'_>, w: &Weights, config: Config) -> Result<Self> {
        let (c, h, bias) = (&config, config.hidden, config.bias());
        // A rounding here reaches every block, and in the final layer nothing averages it out.
        let exact = &p.exact();
        Ok(Self {
            img_in: Projection::load(exact, w, &Selection::of("img_in", h, c.in_channels, bias))?,
            txt_in: Projection::load(p, w, &Selection::of("txt_in", h, c.context, bias))?,
            blocks,
            final_layer: Projection::load(exact, w, &Selection::of("final_layer.linear", c.out_channels, h, bias))?,
            config,
        })
    }

    /// What the transformer is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Records one step on `g`. Taps: `in`, `double_blocks.N`, `single_blocks.N` (text, then picture), `attn` and `norm1` in
    /// them, `final_layer.norm`.
    ///
    /// # Errors
    /// `Argument` if there are no tokens; `Shape`, and `OutOfMemory` if one sequence's features exceed what the device
    /// binds.
    pub fn record(&self, mut g: Graph, size: Size) -> Result<Step> {
        let (c, Size { batch, text, image }) = (&self.config, size);
        ensure!(batch * text * image > 0, Argument, "a step of {size:?}");
        let img = g.input("img", [batch, image, c.in_channels], DType::F32);
        let txt = g.input("txt", [batch, text, c.context], DType::F32);
        let vectors = g.input("vectors", [c.vectors(), batch, c.vector_stride()], DType::F32);
        let table = g.input("table", [text + image, c.head_dim() / 2, 2], DType::F32);
        let context = Context { config: c, vectors, table, text };

        let mut x = g.temp([batch, text + image, c.hidden], DType::F32);
        for (name, layer, tokens, first) in [("txt_in", &self.txt_in, txt, 0), ("img_in", &self.img_in, img, text)] {
            g.scope(name, |g| {
                let tokens = Tokens::all(g, tokens)?;
                let out = Some(Tokens { value: x, first, len: tokens.len });
                layer.run(g, tokens, Apply { out, ..Apply::default() })
            })?;
        }
        g.mark(x, "in");
        for i in 0..self.blocks.len() {
            x = g.scope(Block::name(c, i), |g| match self.blocks.layer(g, i) {
                Block::Double(block) => {
                    let v = context.vectors(g, c.double_vectors(i), 12)?;
                    block.forward(g, &context, x, &v)
                }
                Block::Single(block) => {
                    let v = context.vectors(g, c.single_vectors(i - c.double_blocks), 3)?;
                    block.forward(g, &context, x, &v)
                }
            })?;
        }
        let velocity = g.scope("final_layer", |g| {
            let v = context.vectors(g, c.final_vectors(), 2)?;
            let n = context.modulate(g, x, &v, [0; 2])?;
            g.mark(n, "norm");
            self.final_layer.run(g, Tokens { value: n, first: text, len: image }, Apply::default())
        })?;
        g.output(velocity, "velocity");
        Ok(Step { graph: g, img, txt, vectors, table, velocity })
    }
}
