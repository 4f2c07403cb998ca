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
        projection::{Apply, Parameters, Projection, Selection, Tokens},
    },
    shape::DType,
    weights::Weights,
};

/// A FLUX transformer without its modulation layers, whose results [`vectors`](super::vectors) computes.
#[derive(Debug)]
pub struct Transformer {
    config: Config,
    img_in: Projection,
    txt_in: Projection,
    double_blocks: Vec<DoubleBlock>,
    single_blocks: Vec<SingleBlock>,
    final_layer: Projection,
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
    /// Shifts, scales and gates `(Config::vectors, batch, hidden)`, as [`Vectors::batch`](super::Vectors::batch) gives them.
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
        let _span = crate::trace::span(|| "load weights".into());
        Self::build(&Parameters::new(gpu, storage), w, config)
    }

    pub(super) fn build(p: &Parameters<'_>, w: &Weights, config: Config) -> Result<Self> {
        let (c, h, bias) = (&config, config.hidden, config.bias());
        // A rounding here reaches every block, and in the final layer nothing averages it out.
        let exact = &p.exact();
        let double = |i| DoubleBlock::load(p, &w.at("double_blocks").at(i), c);
        let single = |i| SingleBlock::load(p, &w.at("single_blocks").at(i), c);
        Ok(Self {
            img_in: Projection::load(exact, w, &Selection::of("img_in", h, c.in_channels, bias))?,
            txt_in: Projection::load(p, w, &Selection::of("txt_in", h, c.context, bias))?,
            double_blocks: (0..c.double_blocks).map(double).collect::<Result<_>>()?,
            single_blocks: (0..c.single_blocks).map(single).collect::<Result<_>>()?,
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
        let vectors = g.input("vectors", [c.vectors(), batch, c.hidden], DType::F32);
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
        for (i, block) in self.double_blocks.iter().enumerate() {
            let v = context.vectors(&mut g, c.double_vectors(i), 12)?;
            x = g.scope(format!("double_blocks.{i}"), |g| block.forward(g, &context, x, &v))?;
        }
        for (i, block) in self.single_blocks.iter().enumerate() {
            let v = context.vectors(&mut g, c.single_vectors(i), 3)?;
            x = g.scope(format!("single_blocks.{i}"), |g| block.forward(g, &context, x, &v))?;
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
