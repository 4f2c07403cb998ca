//! The text encoder of CLIP (Radford et al. 2021), of which FLUX.1 takes one vector for a prompt. After `CLIPTextModel` of
//! transformers.

use super::{
    config::{Json, check_heads, check_layers, count_layers},
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
    },
    nn::{
        LayerNorm, Storage,
        projection::{Apply, Parameters, Projection, Selection, Tokens},
    },
    weights::Weights,
};

/// What a [`Clip`] is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// Layers.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Features inside the MLP.
    pub mlp: usize,
    /// Positions that were learned: the most tokens.
    pub positions: usize,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Of the MLP.
    pub activation: Activation,
    /// The token whose first place is pooled; without, it is the largest id (as configs of before 2023 mean it, whose
    /// `eos_token_id` is 2).
    pub eos: Option<u32>,
}

impl ClipConfig {
    /// From tensors under our names and, where they leave a choice, `config.json`.
    fn detect(w: &Weights, json: Option<&str>) -> Result<Self> {
        let json = Json::parse(json)?;
        let [positions, width] = w.axes("embeddings.position_embedding.weight")?;
        let [mlp, _] = w.axes("encoder.layers.0.mlp.fc1.weight")?;
        let heads = json.size("num_attention_heads")?.unwrap_or(width / 64);
        check_heads(w, width, heads)?;
        let activation = match json.text("hidden_act").unwrap_or("quick_gelu") {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            other => crate::error::bail!(Weights, "{}: the activation {other:?} is not CLIP's", w.origin()),
        };
        let layers = count_layers(w, "encoder.layers", "layer_norm1.weight")?;
        check_layers(w, layers, json.size("num_hidden_layers")?)?;
        Ok(Self {
            layers,
            width,
            heads,
            mlp,
            positions,
            eps: json.number("layer_norm_eps").unwrap_or(1e-5) as f32,
            activation,
            eos: json.size("eos_token_id")?.map(|id| id as u32).filter(|id| *id != 2),
        })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, m) = (self.width, self.mlp);
        let mut all = vec![("final_layer_norm.weight".to_owned(), vec![h]), ("final_layer_norm.bias".into(), vec![h])];
        for i in 0..self.layers {
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
        }
        all
    }
}

/// The encoder: its weights stay in their file.
#[derive(Debug, Clone)]
pub struct Clip {
    /// What it is made of.
    pub config: ClipConfig,
    weights: Weights,
}

/// What [`Clip::encode`] gives.
#[derive(Debug, Clone)]
pub struct ClipOutput {
    /// The hidden states `(tokens, width)`: the embedding, then what leaves each layer.
    pub hidden_states: Vec<Vec<f32>>,
    /// The last state behind the final norm, `(tokens, width)`.
    pub last: Vec<f32>,
    /// The row of it at the end token: `pooler_output`, without the projection of CLIP's loss.
    pub pooled: Vec<f32>,
}

pub(super) struct Layer {
    norm1: LayerNorm,
    qkv: Projection,
    out_proj: Projection,
    norm2: LayerNorm,
    fc1: Projection,
    fc2: Projection,
}

impl Clip {
    /// The encoder in `weights`, by whatever names; `json` is the text of its `config.json`, if there is one.
    ///
    /// # Errors
    /// `Weights` if it is none, or tensors are missing or contradict the config.
    pub fn new(weights: &Weights, json: Option<&str>) -> Result<Self> {
        let weights = names::CLIP.apply(weights)?;
        let config = ClipConfig::detect(&weights, json)?;
        weights.expect(config.tensors().iter())?;
        Ok(Self { config, weights })
    }

    /// Its weights, by our names.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The states of the tokens `ids`, under a causal mask.
    ///
    /// # Errors
    /// `Argument` for no tokens, or more than it has positions; `Weights`, `Numeric`, `OutOfMemory`, and what the device
    /// reports.
    pub async fn encode(&self, run: Run<'_>, ids: &[u32]) -> Result<ClipOutput> {
        let (c, w) = (&self.config, &self.weights);
        let (h, tokens) = (c.width, ids.len());
        ensure!((1..=c.positions).contains(&tokens), Argument, "{tokens} tokens for CLIP, which has {}", c.positions);
        let mut x = embed(w, "embeddings.token_embedding.weight", h, ids)?;
        let positions = w.get("embeddings.position_embedding.weight", &[c.positions, h])?.to_f32()?;
        x.iter_mut().zip(&positions).for_each(|(x, p)| *x += p);
        let hidden_states = self.play(run, x, h, &(0..=c.layers).collect::<Vec<_>>()).await?;
        let norm = |name| w.at("final_layer_norm").get(name, &[h])?.to_f32();
        let last = layer_norm(hidden_states.last().map_or(&[][..], |s| s), &norm("weight")?, &norm("bias")?, c.eps);
        let place = match c.eos {
            Some(eos) => ids.iter().position(|id| *id == eos).unwrap_or(0),
            None => (0..tokens).rev().max_by_key(|i| ids[*i]).unwrap_or(0),
        };
        let pooled = last[place * h..(place + 1) * h].to_vec();
        Ok(ClipOutput { hidden_states, last, pooled })
    }

    /// What [`encode`](Self::encode) takes for so many tokens.
    ///
    /// # Errors
    /// `OutOfMemory` if a value exceeds what the device binds.
    pub fn plan(&self, gpu: &Gpu, storage: Storage, tokens: usize) -> Result<EncoderPlan> {
        Layers::plan(self, "CLIP", &Parameters::new(gpu, storage), [tokens, self.config.width], 0)
    }
}

impl Layers for Clip {
    type Layer = Layer;

    const SCOPE: &'static str = "text_model.encoder.layers";

    fn count(&self) -> usize {
        self.config.layers
    }

    fn load(&self, p: &Parameters<'_>, i: usize) -> Result<Layer> {
        Layer::load(p, &self.weights.at("encoder.layers").at(i), &self.config)
    }

    fn record(&self, g: &mut Graph, layer: &Layer, x: Value) -> Result<Value> {
        layer.forward(g, &self.config, x)
    }
}

impl Layer {
    fn load(p: &Parameters<'_>, w: &Weights, c: &ClipConfig) -> Result<Self> {
        let (h, m) = (c.width, c.mlp);
        let layers = ["q_proj", "k_proj", "v_proj"].map(|name| (name, h)).to_vec();
        let of = |name, n, k| Projection::load(p, w, &Selection::of(name, n, k, true));
        Ok(Self {
            norm1: LayerNorm::load(p, &w.at("layer_norm1"), h, c.eps)?,
            qkv: Projection::load(p, &w.at("self_attn"), &Selection { layers, ..Selection::of("", 3 * h, h, true) })?,
            out_proj: of("self_attn.out_proj", h, h)?,
            norm2: LayerNorm::load(p, &w.at("layer_norm2"), h, c.eps)?,
            fc1: of("mlp.fc1", m, h)?,
            fc2: of("mlp.fc2", h, m)?,
        })
    }

    fn forward(&self, g: &mut Graph, c: &ClipConfig, x: Value) -> Result<Value> {
        let tokens = Tokens::all(g, x)?;
        let n = self.norm1.forward(g, x)?;
        let half = Apply { precision: Precision::Half, ..Apply::default() };
        let qkv = self.qkv.run(g, Tokens { value: n, ..tokens }, half)?;
        let (h, d) = (c.width, c.width / c.heads);
        let part = |i: usize| Operand { value: qkv, offset: i * h, batch: 0, row: 3 * h, head: d };
        let call = Attention {
            batch: 1,
            heads: c.heads,
            head_dim: d,
            queries: tokens.len,
            keys: tokens.len,
            scale: (d as f32).powf(-0.5),
            q: part(0),
            k: part(1),
            v: part(2),
            windows: None,
        };
        let a = masked_attention(g, Masked { causal: true, ..Masked::from(call) })?;
        let residual = |value| Apply { residual: Some(Tokens { value, ..tokens }), ..Apply::default() };
        let y = self.out_proj.run(g, Tokens { value: a, ..tokens }, residual(x))?;
        let n = self.norm2.forward(g, y)?;
        let m = self.fc1.run(g, Tokens { value: n, ..tokens }, Apply { activation: c.activation, ..half })?;
        self.fc2.run(g, Tokens { value: m, ..tokens }, residual(y))
    }
}

/// `torch.nn.LayerNorm` of every row, summed in f64.
fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let n = weight.len() as f64;
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(weight.len()) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let one = |((x, w), b): ((&f32, &f32), &f32)| ((f64::from(*x) - mean) * scale) as f32 * w + b;
        y.extend(row.iter().zip(weight).zip(bias).map(one));
    }
    y
}
