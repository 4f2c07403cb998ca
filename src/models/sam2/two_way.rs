//! The two-way transformer of the mask decoder: tokens attend to the image and the image to tokens. After
//! `TwoWayTransformer`, `TwoWayAttentionBlock` and `Attention` (`sam2/modeling/sam/transformer.py`).
//!
//! The reference adds position embeddings before projections. Here they are projected by themselves, which is the
//! same sum: `W (x + pe) = W x + W pe`. For the image `W pe + b` is a table baked at load; for the tokens all
//! projections of `pe` are one product, done once per prompt. So every projection is one dispatch with a residual,
//! and what shares an input shares a matrix.

use super::config::Config;
use crate::{
    error::Result,
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::{
        attention::{Attention, Operand, attention},
        matmul::{Activation, Residual, Strides},
    },
    nn::{LayerNorm, Linear, Loader, Rows, Run},
    weights::Weights,
};

/// Epsilon of these norms.
const EPS: f32 = 1e-5;

/// The transformer.
#[derive(Debug)]
pub(super) struct TwoWayTransformer {
    layers: Vec<Layer>,
    /// Token queries of the last attention.
    final_q: Linear,
    /// Image keys and values of the last attention.
    final_kv: ImageProjection,
    final_out: Linear,
    norm_final: LayerNorm,
    /// All projections of the tokens' position embedding, stacked.
    token_pe: Linear,
    columns: Vec<Columns>,
    final_column: usize,
    heads: usize,
    d: usize,
}

/// Where a layer's parts start in a row of the projected position embedding.
#[derive(Debug, Clone, Copy)]
struct Columns {
    /// Self-attention q, k, v; `None` in the first layer, which adds no position there.
    self_attn: Option<usize>,
    cross_q: usize,
    image_kv: usize,
}

/// Projections of the image tokens, with those of the image position embedding as a table.
#[derive(Debug)]
pub(super) struct ImageProjection {
    linear: Linear,
    /// `(tokens, n)`.
    table: Tensor,
}

/// One two-way block.
#[derive(Debug)]
struct Layer {
    self_qkv: Linear,
    self_out: Linear,
    norm1: LayerNorm,
    cross_q: Linear,
    /// Of the image: keys and values for the tokens, then queries to the tokens.
    image: ImageProjection,
    cross_out: Linear,
    norm2: LayerNorm,
    mlp: [Linear; 2],
    norm3: LayerNorm,
    /// Of the tokens: keys and values for the image.
    token_kv: Linear,
    image_out: Linear,
    norm4: LayerNorm,
}

/// The image side of a decoder run.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageTokens {
    /// `(1 or batch, tokens, d)` flattened to rows.
    pub(super) keys: Value,
    /// The first layer's projections of them.
    pub(super) projected: Value,
    /// Prompts share one image: batch strides of zero.
    pub(super) shared: bool,
}

impl ImageProjection {
    async fn bake(l: &Loader<'_>, rows: Rows, positions: Rows, pe: &Tensor) -> Result<Self> {
        let positions =
            positions.without_bias().upload(&Loader { storage: crate::nn::Storage::F32, ..l.clone() }, "pe")?;
        let table = l
            .bake("image position", |g| {
                let pe = g.tensor(pe);
                positions.forward(g, pe)
            })
            .await?;
        Ok(Self { linear: rows.upload(l, "image projection")?, table })
    }

    fn forward(&self, g: &mut Graph, keys: Value) -> Result<Value> {
        let table = g.tensor(&self.table);
        let residual = Some(Residual::same(g, table));
        self.linear.run(g, keys, Run { residual, ..Run::default() })
    }
}

impl TwoWayTransformer {
    /// Weights under `sam_mask_decoder.transformer`; `pe (tokens, d)` is the image position embedding.
    pub(super) async fn load(l: &Loader<'_>, w: &Weights, c: &Config, pe: &Tensor) -> Result<Self> {
        let d = c.hidden;
        let inner = d / c.decoder.attention_downsample;
        let mut pe_rows = Rows::default();
        let column = |rows: &mut Rows, more: Rows| {
            let at = rows.bias.len();
            *rows = std::mem::take(rows).then(more.without_bias());
            at
        };
        let (mut layers, mut columns) = (Vec::new(), Vec::new());
        for i in 0..c.decoder.layers {
            let w = &w.at("layers").at(i);
            let rows = |name: &str, n, k| Rows::load(&w.at(name), n, k);
            let qkv = |v: Rows| -> Result<Rows> {
                Ok(rows("self_attn.q_proj", d, d)?.then(rows("self_attn.k_proj", d, d)?).then(v))
            };
            let kv = |v: Rows| -> Result<Rows> { Ok(rows("cross_attn_image_to_token.k_proj", inner, d)?.then(v)) };
            let image = |v: Rows| -> Result<Rows> {
                let k = rows("cross_attn_token_to_image.k_proj", inner, d)?;
                Ok(k.then(v).then(rows("cross_attn_image_to_token.q_proj", inner, d)?))
            };
            // Values take no position: their rows of the position's matrix are zeros.
            let zeros = Rows::zeros(inner, d);
            columns.push(Columns {
                self_attn: if i == 0 { None } else { Some(column(&mut pe_rows, qkv(Rows::zeros(d, d))?)) },
                cross_q: column(&mut pe_rows, rows("cross_attn_token_to_image.q_proj", inner, d)?),
                image_kv: column(&mut pe_rows, kv(zeros.clone())?),
            });
            let linear = |name: &str, n, k| Linear::load(l, &w.at(name), n, k);
            let norm = |name: &str| LayerNorm::load(l, &w.at(name), d, EPS);
            layers.push(Layer {
                self_qkv: qkv(rows("self_attn.v_proj", d, d)?)?.upload(l, "self_attn.qkv")?,
                self_out: linear("self_attn.out_proj", d, d)?,
                norm1: norm("norm1")?,
                cross_q: linear("cross_attn_token_to_image.q_proj", inner, d)?,
                image: ImageProjection::bake(
                    l,
                    image(rows("cross_attn_token_to_image.v_proj", inner, d)?)?,
                    image(zeros)?,
                    pe,
                )
                .await?,
                cross_out: linear("cross_attn_token_to_image.out_proj", d, inner)?,
                norm2: norm("norm2")?,
                mlp: [linear("mlp.layers.0", c.decoder.mlp_dim, d)?, linear("mlp.layers.1", d, c.decoder.mlp_dim)?],
                norm3: norm("norm3")?,
                token_kv: kv(rows("cross_attn_image_to_token.v_proj", inner, d)?)?.upload(l, "image_to_token.kv")?,
                image_out: linear("cross_attn_image_to_token.out_proj", d, inner)?,
                norm4: norm("norm4")?,
            });
        }
        let w_final = &w.at("final_attn_token_to_image");
        let rows = |name: &str| Rows::load(&w_final.at(name), inner, d);
        let final_column = column(&mut pe_rows, rows("q_proj")?);
        Ok(Self {
            layers,
            final_q: Linear::load(l, &w_final.at("q_proj"), inner, d)?,
            final_kv: ImageProjection::bake(
                l,
                rows("k_proj")?.then(rows("v_proj")?),
                rows("k_proj")?.then(Rows::zeros(inner, d)),
                pe,
            )
            .await?,
            final_out: Linear::load(l, &w_final.at("out_proj"), d, inner)?,
            norm_final: LayerNorm::load(l, &w.at("norm_final_attn"), d, EPS)?,
            token_pe: pe_rows.upload(l, "token position")?,
            columns,
            final_column,
            heads: c.decoder.heads,
            d,
        })
    }

    /// The first layer's image projections, which depend on the picture alone.
    pub(super) fn project_image(&self, g: &mut Graph, keys: Value) -> Result<Value> {
        self.layers[0].image.forward(g, keys)
    }

    /// `tokens (batch, t, d)`, also their own position embedding; returns the tokens `(batch * t, d)` and the image
    /// `(batch * image tokens, d)`.
    pub(super) fn forward(&self, g: &mut Graph, tokens: Value, image: ImageTokens) -> Result<(Value, Value)> {
        let [batch, t, d] = g.shape(tokens).axes("two_way: tokens")?;
        let tokens = g.reshape(tokens, [batch * t, d])?;
        let cells = g.shape(image.keys).rows_cols().0 / if image.shared { 1 } else { batch };
        let dims = Dims { batch, t, cells, inner: self.inner(g, image.projected) };
        let positions = self.token_pe.forward(g, tokens)?;

        let (mut queries, mut image) = (tokens, image);
        for (i, (layer, columns)) in self.layers.iter().zip(&self.columns).enumerate() {
            (queries, image) = g.scope(format!("layers.{i}"), |g| {
                if i > 0 {
                    image.projected = layer.image.forward(g, image.keys)?;
                }
                let pe = |column: usize| Residual {
                    value: positions,
                    at: Strides { offset: column, batch: 0, row: g_width(&self.token_pe) },
                    rows: batch * t,
                };
                self.layer(g, layer, *columns, &pe, queries, image, dims)
            })?;
        }

        g.scope("final_attn_token_to_image", |g| {
            let residual = Some(Residual {
                value: positions,
                at: Strides { offset: self.final_column, batch: 0, row: g_width(&self.token_pe) },
                rows: batch * t,
            });
            let q = self.final_q.run(g, queries, Run { residual, ..Run::default() })?;
            let kv = self.final_kv.forward(g, image.keys)?;
            let shared = image.shared;
            let a = self.attend(g, dims, [t, cells], (q, 0, false), (kv, 0, shared), (kv, dims.inner, shared))?;
            let queries = self.add(g, &self.final_out, a, queries)?;
            Ok((self.norm_final.forward(g, queries)?, image.keys))
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the two streams, their positions and their sizes")]
    fn layer(
        &self,
        g: &mut Graph,
        layer: &Layer,
        columns: Columns,
        pe: &dyn Fn(usize) -> Residual,
        queries: Value,
        image: ImageTokens,
        dims: Dims,
    ) -> Result<(Value, ImageTokens)> {
        let Dims { t, cells, inner, .. } = dims;
        let d = self.d;
        let with = |column: usize| Run { residual: Some(pe(column)), ..Run::default() };

        // Self-attention; in the first layer without position and without residual.
        let qkv = layer.self_qkv.run(g, queries, columns.self_attn.map_or(Run::default(), with))?;
        let a =
            self.attend(g, Dims { inner: d, ..dims }, [t, t], (qkv, 0, false), (qkv, d, false), (qkv, 2 * d, false))?;
        let queries = match columns.self_attn {
            None => layer.self_out.forward(g, a)?,
            Some(_) => self.add(g, &layer.self_out, a, queries)?,
        };
        let queries = layer.norm1.forward(g, queries)?;

        // Tokens to image.
        let q = layer.cross_q.run(g, queries, with(columns.cross_q))?;
        let kvq = image.projected;
        let a = self.attend(g, dims, [t, cells], (q, 0, false), (kvq, 0, image.shared), (kvq, inner, image.shared))?;
        let queries = self.add(g, &layer.cross_out, a, queries)?;
        let queries = layer.norm2.forward(g, queries)?;

        // MLP.
        let hidden = layer.mlp[0].run(g, queries, Run { activation: Activation::Relu, ..Run::default() })?;
        let queries = self.add(g, &layer.mlp[1], hidden, queries)?;
        let queries = layer.norm3.forward(g, queries)?;
        g.mark(queries, "0");

        // Image to tokens.
        let kv = layer.token_kv.run(g, queries, with(columns.image_kv))?;
        let a = self.attend(g, dims, [cells, t], (kvq, 2 * inner, image.shared), (kv, 0, false), (kv, inner, false))?;
        let keys = self.add(g, &layer.image_out, a, image.keys)?;
        let keys = layer.norm4.forward(g, keys)?;
        g.mark(keys, "1");
        Ok((queries, ImageTokens { keys, projected: keys, shared: false }))
    }

    /// `residual + linear(x)`; the residual's rows repeat over the batch.
    fn add(&self, g: &mut Graph, linear: &Linear, x: Value, residual: Value) -> Result<Value> {
        let residual = Some(Residual::same(g, residual));
        linear.run(g, x, Run { residual, ..Run::default() })
    }

    /// Attention of packed operands `(value, first column, shared by the batch)`: `(batch * queries, inner)`.
    fn attend(
        &self,
        g: &mut Graph,
        dims: Dims,
        [queries, keys]: [usize; 2],
        q: Packed,
        k: Packed,
        v: Packed,
    ) -> Result<Value> {
        let head = dims.inner / self.heads;
        let operand = |g: &Graph, (value, offset, shared): Packed, tokens: usize| {
            let (_, row) = g.shape(value).rows_cols();
            Operand { value, offset, batch: if shared { 0 } else { tokens * row }, row, head }
        };
        let a = Attention {
            batch: dims.batch,
            heads: self.heads,
            head_dim: head,
            queries,
            keys,
            scale: (head as f32).powf(-0.5),
            q: operand(g, q, queries),
            k: operand(g, k, keys),
            v: operand(g, v, keys),
            windows: None,
        };
        let y = attention(g, a)?;
        g.reshape(y, [dims.batch * queries, dims.inner])
    }

    fn inner(&self, g: &Graph, projected: Value) -> usize {
        g.shape(projected).rows_cols().1 / 3
    }
}

/// A part of a value with several projections side by side.
type Packed = (Value, usize, bool);

/// Sizes of a run: prompts, tokens each, image cells, width inside cross attention.
#[derive(Debug, Clone, Copy)]
struct Dims {
    batch: usize,
    t: usize,
    cells: usize,
    inner: usize,
}

fn g_width(linear: &Linear) -> usize {
    linear.weight.shape()[0]
}
