//! The layer that CLIP's text encoder and SigLIP's picture encoder share: attention, then an MLP, each behind a norm and
//! beside a residual.

use crate::{
    error::Result,
    graph::{Graph, Value},
    kernels::{
        attention::{Attention, Masked, Operand, masked_attention},
        matmul::{Activation, Precision},
    },
    nn::{
        LayerNorm,
        projection::{Apply, Parameters, Projection, Selection, Tokens},
    },
    weights::Weights,
};

/// What a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) mlp: usize,
    pub(super) eps: f32,
    pub(super) activation: Activation,
    /// No token attends to a later one.
    pub(super) causal: bool,
}

impl Shape {
    /// The tensors of layer `i`, and their shapes.
    pub(super) fn tensors(&self, i: usize) -> Vec<(String, Vec<usize>)> {
        let (h, m) = (self.width, self.mlp);
        let mut all = Vec::new();
        let mut linear = |name: &str, shape: &[usize]| {
            all.push((format!("encoder.layers.{i}.{name}.weight"), shape.to_vec()));
            all.push((format!("encoder.layers.{i}.{name}.bias"), vec![shape[0]]));
        };
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            linear(&format!("self_attn.{name}"), &[h, h]);
        }
        linear("layer_norm1", &[h]);
        linear("layer_norm2", &[h]);
        linear("mlp.fc1", &[m, h]);
        linear("mlp.fc2", &[h, m]);
        all
    }
}

pub(super) struct Layer {
    shape: Shape,
    norm1: LayerNorm,
    qkv: Projection,
    out_proj: Projection,
    norm2: LayerNorm,
    fc1: Projection,
    fc2: Projection,
}

impl Layer {
    pub(super) fn load(p: &Parameters<'_>, w: &Weights, shape: Shape) -> Result<Self> {
        let Shape { width: h, mlp: m, eps, .. } = shape;
        let layers = ["q_proj", "k_proj", "v_proj"].map(|name| (name, h)).to_vec();
        let of = |name, n, k| Projection::load(p, w, &Selection::of(name, n, k, true));
        Ok(Self {
            shape,
            norm1: LayerNorm::load(p, &w.at("layer_norm1"), h, eps)?,
            qkv: Projection::load(p, &w.at("self_attn"), &Selection { layers, ..Selection::of("", 3 * h, h, true) })?,
            out_proj: of("self_attn.out_proj", h, h)?,
            norm2: LayerNorm::load(p, &w.at("layer_norm2"), h, eps)?,
            fc1: of("mlp.fc1", m, h)?,
            fc2: of("mlp.fc2", h, m)?,
        })
    }

    pub(super) fn forward(&self, g: &mut Graph, x: Value) -> Result<Value> {
        let Shape { width: h, heads, activation, causal, .. } = self.shape;
        let tokens = Tokens::all(g, x)?;
        let n = self.norm1.forward(g, x)?;
        let half = Apply { precision: Precision::Half, ..Apply::default() };
        let qkv = self.qkv.run(g, Tokens { value: n, ..tokens }, half)?;
        let d = h / heads;
        let part = |i: usize| Operand { value: qkv, offset: i * h, batch: 0, row: 3 * h, head: d };
        let call = Attention {
            batch: 1,
            heads,
            head_dim: d,
            queries: tokens.len,
            keys: tokens.len,
            scale: (d as f32).powf(-0.5),
            q: part(0),
            k: part(1),
            v: part(2),
            windows: None,
        };
        let a = masked_attention(g, Masked { causal, ..Masked::from(call) })?;
        let residual = |value| Apply { residual: Some(Tokens { value, ..tokens }), ..Apply::default() };
        let y = self.out_proj.run(g, Tokens { value: a, ..tokens }, residual(x))?;
        let n = self.norm2.forward(g, y)?;
        let m = self.fc1.run(g, Tokens { value: n, ..tokens }, Apply { activation, ..half })?;
        self.fc2.run(g, Tokens { value: m, ..tokens }, residual(y))
    }
}

/// The norm `name` below `w` of every row of `x`, as `torch.nn.LayerNorm`, on the host: summed in f64.
///
/// # Errors
/// `Weights` if it is missing or of another width.
pub(super) fn last_norm(w: &Weights, name: &str, width: usize, eps: f32, x: &[f32]) -> Result<Vec<f32>> {
    let read = |part| w.at(name).get(part, &[width])?.to_f32();
    let (weight, bias) = (read("weight")?, read("bias")?);
    let n = width as f64;
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(width) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let one = |((x, w), b): ((&f32, &f32), &f32)| ((f64::from(*x) - mean) * scale) as f32 * w + b;
        y.extend(row.iter().zip(&weight).zip(&bias).map(one));
    }
    Ok(y)
}
