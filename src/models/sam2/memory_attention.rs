//! The features of a frame attend to memories of others. After `MemoryAttention` and `MemoryAttentionLayer`
//! (`sam2/modeling/memory_attention.py`) and `RoPEAttention` (`sam/transformer.py`).
//!
//! There is one head, so that values need not be projected before they are weighted: `softmax(q kᵀ) (M Wᵥᵀ + b) = (softmax(q
//! kᵀ) M) Wᵥᵀ + b`. The weighted memories are 64 wide, not 256, and `Wᵥ` is multiplied into the projection behind it: of 494
//! GFLOP a frame with seven memories 310 are left.

use super::{
    config::{Config, Memory},
    together::by_rows,
};
use crate::{
    error::{Result, ensure},
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::{
        attention::{Attention, Bias, Masked, Operand, attention, attention_over_ranges},
        elementwise::{Binary, elementwise},
        matmul::{Activation, Residual},
        rope::{axial_table, rope},
    },
    nn::{LayerNorm, Linear, Loader, Rows, Run},
    weights::Weights,
};

/// Epsilon of these norms.
const EPS: f32 = 1e-5;

/// Memory attention.
#[derive(Debug)]
pub(super) struct MemoryAttention {
    layers: Vec<Layer>,
    norm: LayerNorm,
    /// What is added to an image embedding, which has `no_mem_embed`, to begin with: a tenth of the position, and that
    /// taken back.
    entry: Tensor,
    /// Rotations of the cells, `(cells, d / 2, 2)`.
    table: Tensor,
    d: usize,
    dim: usize,
}

#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    /// Queries and keys, which turn, and values, which do not.
    self_qk: Linear,
    self_v: Linear,
    self_out: Linear,
    norm2: LayerNorm,
    cross_q: Linear,
    cross_k: Linear,
    /// Values, then the projection behind.
    cross_out: Linear,
    norm3: LayerNorm,
    mlp: [Linear; 2],
}

/// A range of what frames attend to, for each of a batch of objects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memories {
    /// `(n, tokens, dim)`: memories, then the tokens of object pointers.
    pub(super) values: Value,
    /// The same with their positions in space and time.
    pub(super) keys: Value,
    /// The last tokens, which have no place in the picture.
    pub(super) pointers: usize,
    /// Added to scores, `(n, tokens)`: hides tokens that only other objects have.
    pub(super) mask: Option<Value>,
}

impl MemoryAttention {
    /// Weights under `memory_attention`, for pictures of `side * side` cells; `no_mem (d)` is part of image embeddings.
    pub(super) fn load(
        l: &Loader<'_>,
        w: &Weights,
        c: &Config,
        m: &Memory,
        side: usize,
        no_mem: &[f32],
    ) -> Result<Self> {
        let d = c.hidden;
        ensure!(m.heads == 1, Weights, "memory attention with {} heads; one is what SAM 2 has", m.heads);
        let mut entry = sine_positions(side, d);
        entry.chunks_mut(d).for_each(|row| row.iter_mut().zip(no_mem).for_each(|(p, n)| *p = 0.1 * *p - n));
        let layer = |i: usize| {
            let w = &w.at("layers").at(i);
            let rows = |name: &str, k| Rows::load(&w.at(name), d, k);
            let linear = |name: &str, n, k| Linear::load(l, &w.at(name), n, k);
            let norm = |name: &str| LayerNorm::load(l, &w.at(name), d, EPS);
            let cross_v = rows("cross_attn_image.v_proj", m.dim)?;
            Ok(Layer {
                norm1: norm("norm1")?,
                self_qk: rows("self_attn.q_proj", d)?.then(rows("self_attn.k_proj", d)?).upload(l, "self_attn.qk")?,
                self_v: linear("self_attn.v_proj", d, d)?,
                self_out: linear("self_attn.out_proj", d, d)?,
                norm2: norm("norm2")?,
                cross_q: linear("cross_attn_image.q_proj", d, d)?,
                cross_k: linear("cross_attn_image.k_proj", d, m.dim)?,
                cross_out: cross_v.followed_by(&rows("cross_attn_image.out_proj", d)?).upload(l, "cross_attn.vo")?,
                norm3: norm("norm3")?,
                mlp: [linear("linear1", m.mlp_dim, d)?, linear("linear2", d, m.mlp_dim)?],
            })
        };
        Ok(Self {
            layers: (0..m.layers).map(layer).collect::<Result<_>>()?,
            norm: LayerNorm::load(l, &w.at("norm"), d, EPS)?,
            entry: l.values("memory_attention.entry", [side * side, d], &entry)?,
            table: l.values(
                "memory_attention.rope",
                [side * side, d / 2, 2],
                &axial_table(side, side, d, m.rope_theta),
            )?,
            d,
            dim: m.dim,
        })
    }

    /// `image_embed (cells, d)`, which all objects share: features `(n * cells, d)`, one set an object.
    pub(super) fn forward(&self, g: &mut Graph, image_embed: Value, memories: &[Memories]) -> Result<Value> {
        let [n, ..] = g.shape(memories[0].values).axes::<3>("memory_attention: memories")?;
        let entry = g.tensor(&self.entry);
        let mut x = elementwise(g, image_embed, entry, Binary::Add)?;
        for (i, layer) in self.layers.iter().enumerate() {
            // Until it meets an object's memories, a frame is the same for all of them.
            let batch = if i == 0 { 1 } else { n };
            x = g.scope(format!("layers.{i}"), |g| self.layer(g, layer, x, memories, [batch, n]))?;
        }
        self.norm.forward(g, x)
    }

    /// `x (batch * cells, d)` to `(n * cells, d)`.
    fn layer(&self, g: &mut Graph, layer: &Layer, x: Value, m: &[Memories], [batch, n]: [usize; 2]) -> Result<Value> {
        let (d, cells) = (self.d, g.shape(x).rows_cols().0 / batch);
        let add = |g: &mut Graph, linear: &Linear, y: Value, x: Value| {
            let residual = Some(Residual::same(g, x));
            linear.run(g, y, Run { residual, ..Run::default() })
        };
        let turn = |g: &mut Graph, v: Value, exclude: usize| {
            let table = g.tensor(&self.table);
            rope(g, v, table, exclude)
        };
        let rows = |value, tokens: usize, width: usize, offset| Operand {
            value,
            offset,
            batch: tokens * width,
            row: width,
            head: d,
        };
        let call = Attention {
            batch,
            heads: 1,
            head_dim: d,
            queries: cells,
            keys: cells,
            scale: (d as f32).powf(-0.5),
            q: rows(x, cells, d, 0),
            k: rows(x, cells, d, 0),
            v: rows(x, cells, d, 0),
            windows: None,
        };

        let x = g.scope("self_attn", |g| {
            let y = layer.norm1.forward(g, x)?;
            let qk = layer.self_qk.forward(g, y)?;
            let qk = g.reshape(qk, [batch, cells, 2 * d])?;
            let qk = turn(g, qk, 0)?;
            let v = layer.self_v.forward(g, y)?;
            let (q, k) = (rows(qk, cells, 2 * d, 0), rows(qk, cells, 2 * d, d));
            let a = attention(g, Attention { q, k, v: rows(v, cells, d, 0), ..call })?;
            let a = g.reshape(a, [batch * cells, d])?;
            add(g, &layer.self_out, a, x)
        })?;

        let x = g.scope("cross_attn_image", |g| {
            let y = layer.norm2.forward(g, x)?;
            let q = layer.cross_q.forward(g, y)?;
            let q = g.reshape(q, [batch, cells, d])?;
            let q = turn(g, q, 0)?;
            // One frame's queries meet every object's keys.
            let q = Operand { batch: if batch == n { cells * d } else { 0 }, ..rows(q, cells, d, 0) };
            let a = attention_over_ranges(g, m.len(), |g, i| {
                let m = m[i];
                let [_, tokens, _] = g.shape(m.keys).axes("memory_attention: keys")?;
                let k = layer.cross_k.forward(g, m.keys)?;
                let k = turn(g, k, m.pointers)?;
                let (k, v) = (rows(k, tokens, d, 0), Operand { head: self.dim, ..rows(m.values, tokens, self.dim, 0) });
                let call = Attention { batch: n, keys: tokens, q, k, v, ..call };
                let bias = m.mask.map(|value| Bias { value, offset: 0, batch: tokens, head: 0, row: 0 });
                Ok(Masked { bias, value_dim: Some(self.dim), ..Masked::from(call) })
            })?;
            let a = g.reshape(a, [n * cells, self.dim])?;
            add(g, &layer.cross_out, a, x)
        })?;

        g.scope("mlp", |g| {
            by_rows(g, [n, cells], [layer.mlp[0].bias.shape()[0], d], |g, first, out| {
                let x = g.slice(x, first, g.shape(out)[0])?;
                let y = layer.norm3.forward(g, x)?;
                let y = layer.mlp[0].run(g, y, Run { activation: Activation::Relu, ..Run::default() })?;
                let residual = Some(Residual::same(g, x));
                layer.mlp[1].run(g, y, Run { residual, out: Some(out), ..Run::default() })
            })
        })
    }
}

/// Sines of the cells' places, `(side * side, d)`: `PositionEmbeddingSine` with `normalize`, rows first.
pub(super) fn sine_positions(side: usize, d: usize) -> Vec<f32> {
    let half = d / 2;
    // Pairs of sine and cosine share a frequency; angles are f32, as in the reference.
    let frequency = |i: usize| 10_000f32.powf((2 * (i / 2)) as f32 / half as f32);
    let axis = |at: usize, i: usize| {
        let place = (at + 1) as f32 / (side as f32 + 1e-6) * std::f32::consts::TAU;
        let angle = f64::from(place / frequency(i));
        (if i.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    let cell = |t: usize| (0..d).map(move |i| if i < half { axis(t / side, i) } else { axis(t % side, i - half) });
    (0..side * side).flat_map(cell).collect()
}
