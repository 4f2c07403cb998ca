//! Qwen3 and Mistral, of whose layers FLUX.2 takes three. After `Qwen3Model` and `MistralModel` of transformers. Layers
//! behind the last that is taken, the final norm and the head are not read.
//!
//! The residual is f32: the first token of these models has features of several thousands.

use super::{
    config::{Gguf, Json, count_layers},
    layers::{EncoderPlan, Layers, Run, embed},
    names,
};
use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    graph::{Graph, Value},
    kernels::{
        attention::{Attention, Masked, Operand, masked_attention},
        matmul::{Activation, Precision},
        rms_norm::rms_norm,
        rope::rope,
        rope_halves::{self, rope_halves},
    },
    nn::{
        Storage,
        projection::{Apply, Parameter, Parameters, Place, Projection, Selection, Tally, Tokens},
    },
    weights::Weights,
};
use std::cell::RefCell;

/// The two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// FLUX.2 klein's: norms of q and k.
    Qwen3,
    /// FLUX.2 dev's: Mistral Small 3.
    Mistral,
}

impl Family {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen3 => "Qwen3",
            Self::Mistral => "Mistral",
        }
    }

    /// The states that FLUX.2 takes.
    pub fn outputs(self) -> [usize; 3] {
        match self {
            Self::Qwen3 => [9, 18, 27],
            Self::Mistral => [10, 20, 30],
        }
    }
}

/// What a [`LanguageModel`] is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct LanguageModelConfig {
    /// Which of the two.
    pub family: Family,
    /// Layers in the file.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Features inside the gated MLP.
    pub mlp: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub theta: f32,
    /// Rows of q and k are in the order in which neighbours turn together, as GGUF files of the architecture `llama`
    /// have them; else element `j` of a head turns with `j + head_dim / 2`.
    pub neighbours: bool,
}

impl LanguageModelConfig {
    fn detect(w: &Weights, json: Option<&str>) -> Result<Self> {
        let (json, gguf) = (Json::parse(json)?, Gguf::of(w));
        let [_, width] = w.axes("embed_tokens.weight")?;
        let [q, _] = w.axes("layers.0.self_attn.q_proj.weight")?;
        let [kv, _] = w.axes("layers.0.self_attn.k_proj.weight")?;
        let [mlp, _] = w.axes("layers.0.mlp.gate_proj.weight")?;
        let norm = w.shape("layers.0.self_attn.q_norm.weight").and_then(|shape| shape.first().copied());
        let family = if norm.is_some() { Family::Qwen3 } else { Family::Mistral };
        let said = match (json.size("head_dim")?, json.size("num_attention_heads")?) {
            (Some(head_dim), _) => Some(head_dim),
            (None, Some(heads)) => Some(width / heads),
            (None, None) => gguf.size("attention.key_length"),
        };
        let head_dim = norm.or(said).unwrap_or(128);
        let fits = head_dim > 0 && head_dim.is_multiple_of(8) && head_dim <= 512;
        ensure!(
            fits && q.is_multiple_of(head_dim) && kv.is_multiple_of(head_dim) && kv > 0 && q.is_multiple_of(kv),
            Weights,
            "{}: {q} features of queries and {kv} of keys in heads of {head_dim}",
            w.origin()
        );
        let rope = json.inner("rope_parameters");
        let kind = rope.text("rope_type").or(rope.text("type")).unwrap_or("default");
        ensure!(kind == "default", Weights, "{}: rotary positions of the kind '{kind}'", w.origin());
        let bias = w.has("layers.0.self_attn.q_proj.bias");
        ensure!(!bias, Weights, "{}: a bias in attention, which neither Qwen3 nor Mistral has", w.origin());
        let (eps, theta) = if family == Family::Qwen3 { (1e-6, 1e6) } else { (1e-5, 1e9) };
        let theta =
            rope.number("rope_theta").or(json.number("rope_theta")).or(gguf.number("rope.freq_base")).unwrap_or(theta);
        let eps = json.number("rms_norm_eps").or(gguf.number("attention.layer_norm_rms_epsilon")).unwrap_or(eps);
        Ok(Self {
            family,
            layers: count_layers(w, "layers", "input_layernorm.weight")?,
            width,
            heads: q / head_dim,
            kv_heads: kv / head_dim,
            head_dim,
            mlp,
            eps: eps as f32,
            theta: theta as f32,
            neighbours: ["llama", "mistral3"].contains(&gguf.architecture.as_str()),
        })
    }

    /// Of the first `layers` layers.
    fn tensors(&self, layers: usize) -> Vec<(String, Vec<usize>)> {
        let (h, m, d) = (self.width, self.mlp, self.head_dim);
        let (q, kv) = (self.heads * d, self.kv_heads * d);
        let mut all = Vec::new();
        for i in 0..layers {
            let mut add = |name: &str, shape: &[usize]| all.push((format!("layers.{i}.{name}.weight"), shape.into()));
            add("input_layernorm", &[h]);
            add("post_attention_layernorm", &[h]);
            add("self_attn.q_proj", &[q, h]);
            add("self_attn.k_proj", &[kv, h]);
            add("self_attn.v_proj", &[kv, h]);
            add("self_attn.o_proj", &[h, q]);
            if self.family == Family::Qwen3 {
                add("self_attn.q_norm", &[d]);
                add("self_attn.k_norm", &[d]);
            }
            add("mlp.gate_proj", &[m, h]);
            add("mlp.up_proj", &[m, h]);
            add("mlp.down_proj", &[h, m]);
        }
        all
    }
}

/// The model: its weights stay in their file.
#[derive(Debug, Clone)]
pub struct LanguageModel {
    /// What it is made of.
    pub config: LanguageModelConfig,
    /// The states that [`flux2`](super::flux2) takes, ascending: [`Family::outputs`], unless the model is a miniature.
    pub outputs: [usize; 3],
    weights: Weights,
}

struct Layer {
    norm: [Parameter; 2],
    qkv: Projection,
    qk_norm: Option<Parameter>,
    o_proj: Projection,
    gate_up: Projection,
    down_proj: Projection,
}

impl LanguageModel {
    /// The model in `weights`, by whatever names; `json` is the text of its `config.json`, if there is one. `outputs` are
    /// the states to take, ascending; without, those of the family.
    ///
    /// # Errors
    /// `Weights` if it is none, it has too few layers, or tensors are missing or contradict the config; `Argument` for
    /// outputs that do not ascend.
    pub fn new(weights: &Weights, json: Option<&str>, outputs: Option<[usize; 3]>) -> Result<Self> {
        let weights = names::LANGUAGE_MODEL.apply(weights)?;
        let config = LanguageModelConfig::detect(&weights, json)?;
        let outputs = outputs.unwrap_or(config.family.outputs());
        ensure!(outputs.is_sorted_by(|a, b| a < b), Argument, "the states {outputs:?} do not ascend");
        ensure!(
            outputs[2] <= config.layers,
            Weights,
            "{}: {} layers, of which the states {outputs:?} are taken",
            weights.origin(),
            config.layers
        );
        weights.expect(config.tensors(outputs[2]).iter())?;
        Ok(Self { config, outputs, weights })
    }

    /// Its weights, by our names.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The states `wanted` (ascending) of the tokens `ids`, each `(tokens, width)`: 0 is the embedding, `i` what leaves layer
    /// `i - 1`. Only the first `real` tokens are attended to, each by itself and those behind it.
    ///
    /// # Errors
    /// `Argument` if no token is real or a state does not exist; `Weights`, `Numeric`, `OutOfMemory`, and what the device
    /// reports.
    pub async fn hidden_states(
        &self,
        run: Run<'_>,
        ids: &[u32],
        real: usize,
        wanted: &[usize],
    ) -> Result<Vec<Vec<f32>>> {
        let (c, w, tokens) = (&self.config, &self.weights, ids.len());
        ensure!((1..=tokens).contains(&real), Argument, "{real} of {tokens} tokens are real");
        let count = wanted.iter().copied().max().unwrap_or(0);
        ensure!(count <= c.layers, Argument, "state {count} of a model of {} layers", c.layers);
        let x = embed(w, "embed_tokens.weight", c.width, ids)?;
        let blocks = self.blocks(&Parameters::new(run.gpu, run.storage), count, tokens, real)?;
        blocks.play(run, x, c.width, wanted).await
    }

    /// What [`hidden_states`](Self::hidden_states) takes for [`outputs`](Self::outputs) of `tokens` tokens, of which `real`
    /// are attended to.
    ///
    /// # Errors
    /// `Argument` if no token is real; `OutOfMemory` if a value exceeds what the device binds.
    pub fn plan(&self, gpu: &Gpu, storage: Storage, tokens: usize, real: usize) -> Result<EncoderPlan> {
        ensure!((1..=tokens).contains(&real), Argument, "{real} of {tokens} tokens are real");
        let (p, tally) = (Parameters::new(gpu, storage), RefCell::new(Tally::default()));
        let blocks = self.blocks(&p.at(Place::Declared(&tally)), self.outputs[2], tokens, real)?;
        blocks.plan(self.config.family.name(), &p, [tokens, self.config.width], tally.into_inner().bytes())
    }

    fn blocks(&self, p: &Parameters<'_>, count: usize, tokens: usize, real: usize) -> Result<Blocks<'_>> {
        let (d, theta) = (self.config.head_dim, self.config.theta);
        let table = p.values("rotary table", [tokens, d / 2, 2], || Ok(rope_halves::table(tokens, d, theta)))?;
        Ok(Blocks { model: self, count, table, real })
    }
}

/// The first `count` layers, and the rotary table that they share.
struct Blocks<'a> {
    model: &'a LanguageModel,
    count: usize,
    table: Parameter,
    /// Tokens that are attended to.
    real: usize,
}

impl Layers for Blocks<'_> {
    type Layer = Layer;

    const SCOPE: &'static str = "layers";

    fn count(&self) -> usize {
        self.count
    }

    fn load(&self, p: &Parameters<'_>, i: usize) -> Result<Layer> {
        Layer::load(p, &self.model.weights.at("layers").at(i), &self.model.config)
    }

    fn record(&self, g: &mut Graph, layer: &Layer, x: Value) -> Result<Value> {
        layer.forward(g, &self.model.config, x, &self.table, self.real)
    }
}

impl Layer {
    fn load(p: &Parameters<'_>, w: &Weights, c: &LanguageModelConfig) -> Result<Self> {
        let (h, m, d) = (c.width, c.mlp, c.head_dim);
        let (q, kv) = (c.heads * d, c.kv_heads * d);
        let (attention, mlp) = (w.at("self_attn"), w.at("mlp"));
        let layers = vec![("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let gates = vec![("gate_proj", m), ("up_proj", m)];
        let norm = |name: &str| p.values(w.at(name).prefix(), [h], || w.at(name).get("weight", &[h])?.to_f32());
        let qk_norm = |name| attention.get(name, &[d])?.to_f32();
        let qk_norm = || Ok([qk_norm("q_norm.weight")?, qk_norm("k_norm.weight")?].concat());
        let qk_norm = match c.family {
            Family::Qwen3 => Some(p.values(attention.prefix(), [2, d], qk_norm)?),
            Family::Mistral => None,
        };
        let qkv = Selection { layers, ..Selection::of("", q + 2 * kv, h, false) };
        let gate_up = Selection { layers: gates, glu: true, ..Selection::of("", 2 * m, h, false) };
        Ok(Self {
            norm: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            qkv: Projection::load(p, &attention, &qkv)?,
            qk_norm,
            o_proj: Projection::load(p, &attention, &Selection::of("o_proj", h, q, false))?,
            gate_up: Projection::load(p, &mlp, &gate_up)?,
            down_proj: Projection::load(p, &mlp, &Selection::of("down_proj", h, m, false))?,
        })
    }

    fn forward(
        &self,
        g: &mut Graph,
        c: &LanguageModelConfig,
        x: Value,
        table: &Parameter,
        real: usize,
    ) -> Result<Value> {
        let all = Tokens::all(g, x)?;
        let tokens = |value| Tokens { value, ..all };
        let norm = |g: &mut Graph, x, of: &Parameter| {
            let weight = of.value(g);
            rms_norm(g, x, weight, c.eps)
        };
        let half = Apply { precision: Precision::Half, ..Apply::default() };
        let n = norm(g, x, &self.norm[0])?;
        let [q, k, v] = self.heads(g, c, tokens(n), table)?;
        let call = Attention {
            batch: 1,
            heads: c.heads,
            head_dim: c.head_dim,
            queries: all.len,
            keys: real,
            scale: (c.head_dim as f32).powf(-0.5),
            q,
            k,
            v,
            windows: None,
        };
        let a = masked_attention(g, Masked { causal: true, share: c.heads / c.kv_heads, ..Masked::from(call) })?;
        let residual = |x| Apply { residual: Some(tokens(x)), ..Apply::default() };
        let y = self.o_proj.run(g, tokens(a), residual(x))?;
        let n = norm(g, y, &self.norm[1])?;
        let m = self.gate_up.run(g, tokens(n), Apply { activation: Activation::Silu, ..half })?;
        self.down_proj.run(g, tokens(m), residual(y))
    }

    /// Queries, keys and values, turned by their positions.
    fn heads(&self, g: &mut Graph, c: &LanguageModelConfig, n: Tokens, table: &Parameter) -> Result<[Operand; 3]> {
        let (d, q, kv) = (c.head_dim, c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let half = Apply { precision: Precision::Half, ..Apply::default() };
        let table = table.value(g);
        if c.neighbours {
            ensure!(self.qk_norm.is_none(), Weights, "Qwen3 with the rows of a llama");
            let mut part = |from: usize, len: usize| {
                let value = self.qkv.run(g, n, Apply { columns: Some([from, from + len]), ..half })?;
                let value = if from < q + kv { rope(g, value, table, 0)? } else { value };
                Ok(Operand { value, offset: 0, batch: 0, row: len, head: d })
            };
            return Ok([part(0, q)?, part(q, kv)?, part(q + kv, kv)?]);
        }
        let value = self.qkv.run(g, n, half)?;
        let weight = self.qk_norm.as_ref().map(|w| w.value(g));
        rope_halves(g, value, weight, table, [c.heads, c.kv_heads], c.eps)?;
        Ok([0, q, q + kv].map(|offset| Operand { value, offset, batch: 0, row: q + 2 * kv, head: d }))
    }
}
