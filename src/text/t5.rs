//! The encoder of T5 v1.1 (Raffel et al. 2020), of which FLUX.1 takes every token. After `T5EncoderModel` of
//! transformers.
//!
//! No mask: padding is attended to. No `d^-1/2` in attention; instead of positions, a bias by the distance of two tokens,
//! which all layers share. The residual is f32, and so is what enters `wo`: it exceeds f16 in the released model.

use super::{
    config::{Json, check_layers, count_layers},
    layers::{EncoderPlan, Layers, Run, embed},
    names,
};
use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    graph::{Graph, Value},
    kernels::{
        attention::{Attention, Bias, Masked, Operand, masked_attention},
        matmul::{Activation, Precision},
        rms_norm::rms_norm,
    },
    nn::{
        Storage,
        projection::{Apply, Parameter, Parameters, Place, Projection, Selection, Tally, Tokens},
    },
    weights::Weights,
};
use std::cell::RefCell;

/// What a [`T5`] is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct T5Config {
    /// Layers.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Features of a head, which together need not be `width`.
    pub head_dim: usize,
    /// Features inside the gated MLP.
    pub mlp: usize,
    /// Kinds of distances, half of them for each direction.
    pub buckets: usize,
    /// The distance from which on all are of one kind.
    pub max_distance: usize,
    /// Epsilon of the norms.
    pub eps: f32,
}

/// The tensor that tells the heads, in the first layer only.
const BIAS: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";

impl T5Config {
    fn detect(w: &Weights, json: Option<&str>) -> Result<Self> {
        let json = Json::parse(json)?;
        let [buckets, heads] = w.axes(BIAS)?;
        let [rows, width] = w.axes("encoder.block.0.layer.0.SelfAttention.q.weight")?;
        let [mlp, _] = w.axes("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
        let layers = count_layers(w, "encoder.block", "layer.0.layer_norm.weight")?;
        check_layers(w, layers, json.size("num_layers")?)?;
        let fits = heads > 0 && rows.is_multiple_of(heads) && (rows / heads).is_multiple_of(4) && rows / heads <= 512;
        ensure!(fits, Weights, "{}: {rows} features in {heads} heads", w.origin());
        let max_distance = json.size("relative_attention_max_distance")?.unwrap_or(128);
        ensure!(
            buckets > 0 && buckets % 4 == 0 && (buckets / 4 + 1..1 << 20).contains(&max_distance),
            Weights,
            "{}: {buckets} buckets for distances up to {max_distance}",
            w.origin()
        );
        let activation = json.text("feed_forward_proj").unwrap_or("gated-gelu");
        ensure!(activation == "gated-gelu", Weights, "{}: an MLP '{activation}', not that of T5 v1.1", w.origin());
        let eps = json.number("layer_norm_epsilon").unwrap_or(1e-6) as f32;
        Ok(Self { layers, width, heads, head_dim: rows / heads, mlp, buckets, max_distance, eps })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, m, a) = (self.width, self.mlp, self.heads * self.head_dim);
        let mut all = vec![("encoder.final_layer_norm.weight".to_owned(), vec![h])];
        for i in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                all.push((format!("encoder.block.{i}.layer.{name}.weight"), shape.into()))
            };
            ["q", "k", "v"].iter().for_each(|name| add(&format!("0.SelfAttention.{name}"), &[a, h]));
            add("0.SelfAttention.o", &[h, a]);
            add("0.layer_norm", &[h]);
            ["wi_0", "wi_1"].iter().for_each(|name| add(&format!("1.DenseReluDense.{name}"), &[m, h]));
            add("1.DenseReluDense.wo", &[h, m]);
            add("1.layer_norm", &[h]);
        }
        all
    }

    /// The kind of the distance from a query to a key, `_relative_position_bucket` of transformers: half of those of a
    /// direction are single distances, the others grow with its logarithm. In f32, as there.
    fn bucket(&self, distance: isize) -> usize {
        let half = self.buckets / 2;
        let (exact, far) = (half / 2, distance.unsigned_abs());
        let kind = match far < exact {
            true => far,
            false => {
                let log = (far as f32 / exact as f32).ln() / (self.max_distance as f64 / exact as f64).ln() as f32;
                (exact + (log * (half - exact) as f32) as usize).min(half - 1)
            }
        };
        if distance > 0 { half + kind } else { kind }
    }

    /// The bias of every head for the distances from `1 - tokens` to `tokens - 1`: `(heads, 2 tokens - 1)`.
    fn bias(&self, table: &[f32], tokens: usize) -> Vec<f32> {
        let last = tokens as isize - 1;
        let distances = move || -last..=last;
        (0..self.heads).flat_map(|h| distances().map(move |d| table[self.bucket(d) * self.heads + h])).collect()
    }
}

/// The encoder: its weights stay in their file.
#[derive(Debug, Clone)]
pub struct T5 {
    /// What it is made of.
    pub config: T5Config,
    weights: Weights,
}

struct Layer {
    norm: [Parameter; 2],
    qkv: Projection,
    o: Projection,
    wi: Projection,
    wo: Projection,
}

impl T5 {
    /// The encoder in `weights`, by whatever names; `json` is the text of its `config.json`, if there is one.
    ///
    /// # Errors
    /// `Weights` if it is none, or tensors are missing or contradict the config.
    pub fn new(weights: &Weights, json: Option<&str>) -> Result<Self> {
        let weights = names::T5.apply(weights)?;
        let config = T5Config::detect(&weights, json)?;
        weights.expect(config.tensors().iter())?;
        Ok(Self { config, weights })
    }

    /// Its weights, by our names.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The states of the tokens `ids` behind the final norm, `(tokens, width)`: `last_hidden_state`.
    ///
    /// # Errors
    /// Those of [`hidden_states`](Self::hidden_states).
    pub async fn encode(&self, run: Run<'_>, ids: &[u32]) -> Result<Vec<f32>> {
        let mut states = self.hidden_states(run, ids, &[self.config.layers]).await?;
        let weight = self.weights.get("encoder.final_layer_norm.weight", &[self.config.width])?.to_f32()?;
        let mut last = states.swap_remove(0);
        for row in last.chunks_mut(weight.len()) {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / weight.len() as f64;
            let scale = 1.0 / (mean + f64::from(self.config.eps)).sqrt();
            row.iter_mut().zip(&weight).for_each(|(v, w)| *v = (f64::from(*v) * scale) as f32 * w);
        }
        Ok(last)
    }

    /// The states `wanted` of the tokens `ids`, each `(tokens, width)`: 0 is the embedding, `i` what leaves layer `i - 1`.
    ///
    /// # Errors
    /// `Argument` for no tokens; `Weights`, `Numeric`, `OutOfMemory`, and what the device reports.
    pub async fn hidden_states(&self, run: Run<'_>, ids: &[u32], wanted: &[usize]) -> Result<Vec<Vec<f32>>> {
        let (c, w, tokens) = (&self.config, &self.weights, ids.len());
        ensure!(tokens > 0, Argument, "no tokens for T5");
        let x = embed(w, "shared.weight", c.width, ids)?;
        self.blocks(&Parameters::new(run.gpu, run.storage), tokens)?.play(run, x, c.width, wanted).await
    }

    /// What [`encode`](Self::encode) takes for so many tokens.
    ///
    /// # Errors
    /// `Argument` for no tokens; `OutOfMemory` if a value exceeds what the device binds.
    pub fn plan(&self, gpu: &Gpu, storage: Storage, tokens: usize) -> Result<EncoderPlan> {
        ensure!(tokens > 0, Argument, "no tokens for T5");
        let (p, tally) = (Parameters::new(gpu, storage), RefCell::new(Tally::default()));
        let blocks = self.blocks(&p.at(Place::Declared(&tally)), tokens)?;
        blocks.plan("T5", &p, [tokens, self.config.width], tally.into_inner().bytes())
    }

    fn blocks(&self, p: &Parameters<'_>, tokens: usize) -> Result<Blocks<'_>> {
        let c = &self.config;
        let table = self.weights.get(BIAS, &[c.buckets, c.heads])?;
        let bias = || Ok(c.bias(&table.to_f32()?, tokens));
        let bias = p.values("relative_attention_bias", [c.heads, 2 * tokens - 1], bias)?;
        Ok(Blocks { t5: self, bias })
    }
}

/// Its layers, and the bias of attention that they share.
struct Blocks<'a> {
    t5: &'a T5,
    bias: Parameter,
}

impl Layers for Blocks<'_> {
    type Layer = Layer;

    const SCOPE: &'static str = "encoder.block";

    fn count(&self) -> usize {
        self.t5.config.layers
    }

    fn load(&self, p: &Parameters<'_>, i: usize) -> Result<Layer> {
        Layer::load(p, &self.t5.weights.at("encoder.block").at(i).at("layer"), &self.t5.config)
    }

    fn record(&self, g: &mut Graph, layer: &Layer, x: Value) -> Result<Value> {
        layer.forward(g, &self.t5.config, x, &self.bias)
    }
}

impl Layer {
    fn load(p: &Parameters<'_>, w: &Weights, c: &T5Config) -> Result<Self> {
        let (h, m, a) = (c.width, c.mlp, c.heads * c.head_dim);
        let (attention, mlp) = (w.at("0.SelfAttention"), w.at("1.DenseReluDense"));
        let qkv = Selection { layers: vec![("q", a), ("k", a), ("v", a)], ..Selection::of("", 3 * a, h, false) };
        let wi = Selection { layers: vec![("wi_0", m), ("wi_1", m)], ..Selection::of("", 2 * m, h, false) };
        let norm = |name: &str| p.values(w.at(name).prefix(), [h], || w.at(name).get("weight", &[h])?.to_f32());
        Ok(Self {
            norm: [norm("0.layer_norm")?, norm("1.layer_norm")?],
            qkv: Projection::load(p, &attention, &qkv)?,
            o: Projection::load(p, &attention, &Selection::of("o", h, a, false))?,
            wi: Projection::load(p, &mlp, &Selection { glu: true, ..wi })?,
            wo: Projection::load(p, &mlp, &Selection::of("wo", h, m, false))?,
        })
    }

    fn forward(&self, g: &mut Graph, c: &T5Config, x: Value, bias: &Parameter) -> Result<Value> {
        let all = Tokens::all(g, x)?;
        let tokens = |value| Tokens { value, ..all };
        let norm = |g: &mut Graph, x, of: &Parameter| {
            let weight = of.value(g);
            rms_norm(g, x, weight, c.eps)
        };
        let half = Apply { precision: Precision::Half, ..Apply::default() };
        let n = norm(g, x, &self.norm[0])?;
        let qkv = self.qkv.run(g, tokens(n), half)?;
        let (a, d) = (c.heads * c.head_dim, c.head_dim);
        let part = |i: usize| Operand { value: qkv, offset: i * a, batch: 0, row: 3 * a, head: d };
        let call = Attention {
            batch: 1,
            heads: c.heads,
            head_dim: d,
            queries: all.len,
            keys: all.len,
            scale: 1.0,
            q: part(0),
            k: part(1),
            v: part(2),
            windows: None,
        };
        let value = bias.value(g);
        let bias = Some(Bias { value, offset: all.len - 1, batch: 0, head: 2 * all.len - 1, row: -1 });
        let y = masked_attention(g, Masked { bias, ..Masked::from(call) })?;
        let residual = |x| Apply { residual: Some(tokens(x)), ..Apply::default() };
        let y = self.o.run(g, tokens(y), residual(x))?;
        let n = norm(g, y, &self.norm[1])?;
        let m = self.wi.run(g, tokens(n), Apply { activation: Activation::GeluTanh, ..half })?;
        self.wo.run(g, tokens(m), residual(y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_reference_s() {
        let c =
            T5Config { layers: 1, width: 4, heads: 1, head_dim: 4, mlp: 4, buckets: 32, max_distance: 128, eps: 1e-6 };
        // Where `_relative_position_bucket` of transformers goes on to the next: first distance and bucket.
        let steps = [(8, 8), (12, 9), (16, 10), (23, 11), (32, 12), (46, 13), (64, 14), (91, 15)];
        for distance in 0..600isize {
            let large = steps.iter().rev().find(|(first, _)| *first <= distance).map(|(_, bucket)| *bucket);
            let expected = large.unwrap_or(distance as usize);
            assert_eq!(c.bucket(-distance), expected, "{distance}");
            assert_eq!(c.bucket(distance), if distance > 0 { 16 + expected } else { 0 }, "{distance}");
        }
    }
}
