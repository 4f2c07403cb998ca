//! The text encoder of CLIP (Radford et al. 2021), of which FLUX.1 takes one vector for a prompt. After `CLIPTextModel` of
//! transformers.

use super::{
    config::{Json, check_heads, check_layers, count_layers},
    layers::{EncoderPlan, Layers, Run, embed},
    names,
    pre_norm::{Layer, Shape, last_norm},
};
use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    graph::{Graph, Value},
    kernels::matmul::Activation,
    nn::{Storage, projection::Parameters},
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

    fn layer(&self) -> Shape {
        let Self { width, heads, mlp, eps, activation, .. } = *self;
        Shape { width, heads, mlp, eps, activation, causal: true }
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.width;
        let mut all = vec![("final_layer_norm.weight".to_owned(), vec![h]), ("final_layer_norm.bias".into(), vec![h])];
        all.extend((0..self.layers).flat_map(|i| self.layer().tensors(i)));
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
        let last = last_norm(w, "final_layer_norm", h, c.eps, hidden_states.last().map_or(&[][..], |s| s))?;
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
        Layer::load(p, &self.weights.at("encoder.layers").at(i), self.config.layer())
    }

    fn record(&self, g: &mut Graph, layer: &Layer, x: Value) -> Result<Value> {
        layer.forward(g, x)
    }
}
