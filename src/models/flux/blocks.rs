//! The blocks of both FLUX transformers. After `DoubleStreamBlock` and `SingleStreamBlock` of black-forest-labs/flux and
//! flux2.
//!
//! Text and picture lie in one value throughout, text first: a double block differs from a single one in that each
//! projection runs twice, on its own tokens. Launches: 12 for a double block, 7 for a single one, more where a device's
//! bindings are small.

use super::{
    config::{Config, Version},
    tensors::{linear1_cuts, linear1_rows, mlp_rows, pieces, qkv_cuts},
};
use crate::{
    error::Result,
    graph::{Graph, Value},
    kernels::{
        attention::{Attention, Operand, attention},
        matmul::{Activation, Gate, Precision},
        modulate::{Modulation, modulate},
        qk_norm_rope::qk_norm_rope,
    },
    nn::projection::{Apply, Parameter, Parameters, Projection, Selection, Tokens},
    shape::DType,
    weights::Weights,
};

/// Epsilon of all norms.
pub(super) const EPS: f32 = 1e-6;

/// What all blocks of a recording share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    /// Shifts, scales and gates, `(vectors, batch, stride)`.
    pub(super) vectors: Value,
    /// cos and sin of every token, `(tokens, head_dim / 2, 2)`.
    pub(super) table: Value,
    /// Text tokens; the others are the picture's.
    pub(super) text: usize,
}

/// The vectors of one block. A block's calls are those of every other: they read from its first vector on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vectors {
    value: Value,
    /// Elements of a vector of the whole batch, and of one batch element.
    whole: usize,
    one: usize,
}

impl Vectors {
    fn gate(&self, vector: usize) -> Option<Gate> {
        Some(Gate { value: self.value, offset: vector * self.whole, batch: self.one })
    }
}

impl Context<'_> {
    /// `count` vectors from `first` on.
    pub(super) fn vectors(&self, g: &mut Graph, first: usize, count: usize) -> Result<Vectors> {
        let [_, batch, one] = g.shape(self.vectors).axes("vectors")?;
        Ok(Vectors { value: g.slice(self.vectors, first, count)?, whole: batch * one, one })
    }

    /// The adaptive norm whose shifts are these vectors, for text and for the picture, and whose scales are the next.
    pub(super) fn modulate(&self, g: &mut Graph, x: Value, v: &Vectors, shift: [usize; 2]) -> Result<Value> {
        let at = |plus: usize| shift.map(|vector| (vector + plus) * v.whole);
        let m = Modulation { vectors: v.value, batch: v.one, split: self.text, shift: at(0), scale: at(1) };
        modulate(g, x, m, EPS)
    }

    /// The text tokens and the picture's.
    fn streams(&self, g: &Graph, value: Value) -> Result<[Tokens; 2]> {
        let all = Tokens::all(g, value)?;
        Ok([Tokens { len: self.text, ..all }, Tokens { first: self.text, len: all.len - self.text, ..all }])
    }

    fn activation(&self) -> Activation {
        if self.config.version == Version::Flux1 { Activation::GeluTanh } else { Activation::Silu }
    }

    /// Attention over all tokens of `x`, whose parts are projected by layers of their own: `(batch, tokens, hidden)`.
    fn attend(&self, g: &mut Graph, parts: &[(&str, &Projection, Tokens)], norm: &Parameter) -> Result<Value> {
        let (h, heads, d) = (self.config.hidden, self.config.heads, self.config.head_dim());
        let [batch, tokens, _] = g.shape(parts[0].2.value).axes("attention")?;
        let norm = norm.value(g);
        // One matrix [q | k | v], or three where one would exceed what the device binds.
        let bytes = (batch * tokens * 3 * h * 4) as u64;
        let pieces = if bytes <= g.target().limits.binding { 1 } else { 3 };
        let row = 3 * h / pieces;
        let mut values = [Operand { value: norm, offset: 0, batch: tokens * row, row, head: d }; 3];
        for piece in 0..pieces {
            let value = g.temp([batch, tokens, row], DType::F32);
            for (name, projection, x) in parts {
                let out = Some(Tokens { value, ..*x });
                let columns = Some([piece * row, (piece + 1) * row]);
                let apply = Apply { out, columns, precision: Precision::Half, ..Apply::default() };
                g.scope(name, |g| projection.run(g, *x, apply))?;
            }
            match pieces {
                1 => (0..3).for_each(|i| values[i] = Operand { value, offset: i * h, ..values[i] }),
                _ => values[piece].value = value,
            }
        }
        let heads_of: &[(usize, [usize; 2])] =
            if pieces == 1 { &[(0, [heads, heads])] } else { &[(0, [heads, 0]), (1, [0, heads])] };
        for (i, of) in heads_of {
            qk_norm_rope(g, values[*i].value, norm, self.table, *of, self.text, EPS)?;
        }
        let [q, k, v] = values;
        let (queries, keys, scale) = (tokens, tokens, (d as f32).powf(-0.5));
        let a = attention(g, Attention { batch, heads, head_dim: d, queries, keys, scale, q, k, v, windows: None })?;
        g.mark(a, "attn");
        Ok(a)
    }

    /// `residual + gate * outer(activation(inner(x)))` into `y`, in runs of tokens whose inner features one binding holds.
    fn mlp(
        &self,
        g: &mut Graph,
        [inner, outer]: [(&str, &Projection); 2],
        x: Tokens,
        gate: Option<Gate>,
        residual: Value,
        y: Value,
    ) -> Result<()> {
        let [batch, ..] = g.shape(x.value).axes::<3>("mlp")?;
        let bytes = (batch * inner.1.widest() * 4) as u64;
        let fit = (g.target().limits.binding / bytes).max(1) as usize;
        let step = match x.len.div_ceil(fit) {
            1 => x.len,
            runs => x.len.div_ceil(runs).next_multiple_of(64).min(fit),
        };
        for first in (x.first..x.first + x.len).step_by(step.max(1)) {
            let len = step.min(x.first + x.len - first);
            let of = |value| Tokens { value, first, len };
            let activated = Apply { activation: self.activation(), precision: Precision::Half, ..Apply::default() };
            let hidden = g.scope(inner.0, |g| inner.1.run(g, of(x.value), activated))?;
            let hidden = Tokens::all(g, hidden)?;
            // Products of two activations can exceed f16: not rounded.
            let (residual, out) = (Some(of(residual)), Some(of(y)));
            let apply = Apply { gate, residual, out, ..Apply::default() };
            g.scope(outer.0, |g| outer.1.run(g, hidden, apply))?;
        }
        Ok(())
    }
}

/// Weights of the norms of q and k: `(2, streams, head_dim)`.
fn norms(p: &Parameters<'_>, w: &Weights, c: &Config, streams: &[&str]) -> Result<Parameter> {
    let d = c.head_dim();
    p.values(w.prefix(), [2, streams.len(), d], || {
        let mut values = Vec::new();
        for kind in ["query_norm.scale", "key_norm.scale"] {
            for stream in streams {
                values.extend(w.at(stream).get(kind, &[d])?.to_f32()?);
            }
        }
        Ok(values)
    })
}

/// A block with weights of their own for text and picture.
#[derive(Debug)]
pub(super) struct DoubleBlock {
    txt: Stream,
    img: Stream,
    norm: Parameter,
}

#[derive(Debug)]
struct Stream {
    qkv: Projection,
    proj: Projection,
    mlp: [Projection; 2],
}

impl Stream {
    /// `NAME_attn` and `NAME_mlp` under `w`.
    fn load(p: &Parameters<'_>, w: &Weights, c: &Config, name: &str) -> Result<Self> {
        let (h, bias) = (c.hidden, c.bias());
        let names = ["attn.qkv", "attn.proj", "mlp.0", "mlp.2"].map(|part| format!("{name}_{part}"));
        let layers = pieces(w, &names[0], 3 * h, &qkv_cuts(c));
        let layers = layers.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        let glu = c.version == Version::Flux2;
        Ok(Self {
            qkv: Projection::load(p, w, &Selection { layers, ..Selection::of(&names[0], 3 * h, h, bias) })?,
            proj: Projection::load(p, w, &Selection::of(&names[1], h, h, bias))?,
            mlp: [
                Projection::load(p, w, &Selection { glu, ..Selection::of(&names[2], mlp_rows(c), h, bias) })?,
                Projection::load(p, w, &Selection::of(&names[3], h, c.mlp, bias))?,
            ],
        })
    }
}

impl DoubleBlock {
    /// `double_blocks.N`.
    pub(super) fn load(p: &Parameters<'_>, w: &Weights, c: &Config) -> Result<Self> {
        Ok(Self {
            txt: Stream::load(p, w, c, "txt")?,
            img: Stream::load(p, w, c, "img")?,
            norm: norms(p, w, c, &["txt_attn.norm", "img_attn.norm"])?,
        })
    }

    /// `x (batch, tokens, hidden)` through the block with these vectors: shift, scale and gate before attention and before
    /// the MLP, for text, then for the picture.
    pub(super) fn forward(&self, g: &mut Graph, c: &Context<'_>, x: Value, v: &Vectors) -> Result<Value> {
        let streams = [("txt", &self.txt, 0), ("img", &self.img, 6)];
        let n = c.modulate(g, x, v, [0, 6])?;
        g.mark(n, "norm1");
        let [txt, img] = c.streams(g, n)?;
        let a =
            c.attend(g, &[("txt_attn.qkv", &self.txt.qkv, txt), ("img_attn.qkv", &self.img.qkv, img)], &self.norm)?;
        let y = g.temp(g.shape(x), DType::F32);
        let [xs, ys, parts] = [c.streams(g, x)?, c.streams(g, y)?, c.streams(g, a)?];
        for (i, (name, stream, first)) in streams.into_iter().enumerate() {
            g.scope(format!("{name}_attn.proj"), |g| {
                let (gate, residual, out) = (v.gate(first + 2), Some(xs[i]), Some(ys[i]));
                let apply = Apply { gate, residual, out, precision: Precision::Half, ..Apply::default() };
                stream.proj.run(g, parts[i], apply)
            })?;
        }
        let n = c.modulate(g, y, v, [3, 9])?;
        let z = g.temp(g.shape(x), DType::F32);
        let parts = c.streams(g, n)?;
        for (i, (name, stream, first)) in streams.into_iter().enumerate() {
            let layers = [("0", &stream.mlp[0]), ("2", &stream.mlp[1])];
            g.scope(format!("{name}_mlp"), |g| c.mlp(g, layers, parts[i], v.gate(first + 5), y, z))?;
        }
        g.mark(z, "");
        Ok(z)
    }
}

/// A block of one sequence, attention and MLP side by side.
#[derive(Debug)]
pub(super) struct SingleBlock {
    /// The first rows of `linear1`,
    qkv: Projection,
    /// and the others.
    mlp: Projection,
    /// `linear2` for what attention gives,
    proj: Projection,
    /// and for what the MLP gives.
    mlp_out: Projection,
    norm: Parameter,
}

impl SingleBlock {
    /// `single_blocks.N`.
    pub(super) fn load(p: &Parameters<'_>, w: &Weights, c: &Config) -> Result<Self> {
        let (h, all, bias) = (c.hidden, linear1_rows(c), c.bias());
        let layers = pieces(w, "linear1", all, &linear1_cuts(c));
        let linear1 = Selection {
            layers: layers.iter().map(|(name, n)| (name.as_str(), *n)).collect(),
            ..Selection::of("linear1", all, h, bias)
        };
        let linear2 = Selection::of("linear2", h, h + c.mlp, bias);
        Ok(Self {
            qkv: Projection::load(p, w, &Selection { rows: 0..3 * h, ..linear1.clone() })?,
            mlp: Projection::load(p, w, &Selection { rows: 3 * h..all, glu: c.version == Version::Flux2, ..linear1 })?,
            proj: Projection::load(p, w, &Selection { columns: 0..h, ..linear2.clone() })?,
            mlp_out: Projection::load(p, w, &Selection { columns: h..h + c.mlp, bias: false, ..linear2 })?,
            norm: norms(p, w, c, &["norm"])?,
        })
    }

    /// `x (batch, tokens, hidden)` through the block with these vectors: shift, scale, gate.
    pub(super) fn forward(&self, g: &mut Graph, c: &Context<'_>, x: Value, v: &Vectors) -> Result<Value> {
        let n = c.modulate(g, x, v, [0; 2])?;
        let n = Tokens::all(g, n)?;
        let a = c.attend(g, &[("linear1", &self.qkv, n)], &self.norm)?;
        let (a, residual) = (Tokens::all(g, a)?, Some(Tokens::all(g, x)?));
        let gate = v.gate(2);
        let apply = Apply { gate, residual, precision: Precision::Half, ..Apply::default() };
        let y = g.scope("linear2", |g| self.proj.run(g, a, apply))?;
        let z = g.temp(g.shape(x), DType::F32);
        c.mlp(g, [("linear1", &self.mlp), ("linear2", &self.mlp_out)], n, gate, y, z)?;
        g.mark(z, "");
        Ok(z)
    }
}
