//! Which FLUX transformer a checkpoint is: told by its tensors and diffusers' `config.json`, never by a file's name.

use super::{
    config::{Config, Version},
    names::Layout,
    tensors::tensors,
};
use crate::{
    error::{Error, ErrorKind, Result, bail, ensure},
    weights::Weights,
};
use serde_json::Value as Json;

/// Blocks of one kind. The released models have 48 at most.
const MOST_BLOCKS: usize = 256;

impl Config {
    /// The config of the transformer in `weights`, which go by our names (see [`Layout`]).
    ///
    /// Only the rotary axes leave no trace in the tensors: without diffusers' `config.json` (its text), heads must have
    /// the released width. With one, what follows from the tensors is compared with it.
    ///
    /// # Errors
    /// `Weights` if the two contradict each other (the message names both), and if tensors are missing or mis-shaped.
    pub fn detect(weights: &Weights, layout: Layout, config_json: Option<&str>) -> Result<Self> {
        let mut config = read(weights)?;
        let json = match config_json {
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Error::with_source(ErrorKind::Weights, "config.json of the transformer", e))?,
            None => Json::Null,
        };
        if let Some(theta) = json["rope_theta"].as_f64() {
            config.theta = theta;
        }
        config.axes = match (json["axes_dims_rope"].as_array(), config.version, config.head_dim()) {
            (Some(axes), ..) => axes_of(axes)?,
            (None, Version::Flux1, 128) => [16, 56, 56, 0],
            (None, Version::Flux2, d) => [d / 4; 4],
            (None, Version::Flux1, d) => bail!(
                Weights,
                "{}: heads of {d} features, not the released 128. How positions turn them cannot be told from tensors: \
                 put the transformer's config.json beside the weights",
                weights.origin()
            ),
        };
        compare(&config, &json, weights.origin())?;
        check_geometry(&config)?;
        weights.expect(tensors(&config, layout).iter())?;
        Ok(config)
    }
}

/// Whether the text is the `config.json` of a FLUX transformer.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_transformer(json: &str) -> bool {
    serde_json::from_str::<Json>(json).is_ok_and(|json| json["axes_dims_rope"].is_array())
}

/// What follows from the tensors; the axes do not.
fn read(weights: &Weights) -> Result<Config> {
    let version = match weights.has("double_stream_modulation_img.lin.weight") {
        true => Version::Flux2,
        false => Version::Flux1,
    };
    let [hidden, in_channels] = weights.axes("img_in.weight")?;
    let [_, context] = weights.axes("txt_in.weight")?;
    let [out_channels, _] = weights.axes("final_layer.linear.weight")?;
    let [head_dim] = weights.axes("double_blocks.0.img_attn.norm.key_norm.scale")?;
    let [mlp, _] = weights.axes("double_blocks.0.img_mlp.0.weight")?;
    ensure!(
        head_dim > 0 && hidden.is_multiple_of(head_dim),
        Weights,
        "{}: {hidden} features in heads of {head_dim}",
        weights.origin()
    );
    let pooled = match weights.has("vector_in.in_layer.weight") {
        true => Some(weights.axes::<2>("vector_in.in_layer.weight")?[1]),
        false => None,
    };
    let count = |blocks: &str, name: &str| (0..).take_while(|i| weights.at(blocks).at(i).has(name)).count();
    Ok(Config {
        version,
        hidden,
        heads: hidden / head_dim,
        double_blocks: count("double_blocks", "img_attn.proj.weight"),
        single_blocks: count("single_blocks", "linear2.weight"),
        mlp: if version == Version::Flux2 { mlp / 2 } else { mlp },
        context,
        pooled,
        in_channels,
        out_channels,
        guidance: weights.has("guidance_in.in_layer.weight"),
        axes: [0; 4],
        theta: if version == Version::Flux2 { 2000.0 } else { 10_000.0 },
    })
}

fn axes_of(json: &[Json]) -> Result<[usize; 4]> {
    ensure!((3..=4).contains(&json.len()), Weights, "config.json: {} rotary axes; FLUX has 3 or 4", json.len());
    let mut axes = [0; 4];
    for (axis, value) in axes.iter_mut().zip(json) {
        let Some(n) = value.as_u64() else { bail!(Weights, "config.json: a rotary axis of {value} features") };
        *axis = n as usize;
    }
    Ok(axes)
}

/// Every figure that both sides have.
fn compare(c: &Config, json: &Json, origin: &str) -> Result<()> {
    let mut contradictions = Vec::new();
    let mut one = |key: &str, found: u64| {
        if let Some(said) = json[key].as_u64().filter(|said| *said != found) {
            contradictions.push(format!("{key} is {said} by config.json, {found} by the tensors"));
        }
    };
    one("num_layers", c.double_blocks as u64);
    one("num_single_layers", c.single_blocks as u64);
    one("num_attention_heads", c.heads as u64);
    one("attention_head_dim", c.head_dim() as u64);
    one("joint_attention_dim", c.context as u64);
    one("in_channels", c.in_channels as u64);
    one("out_channels", c.out_channels as u64);
    if let Some(pooled) = c.pooled {
        one("pooled_projection_dim", pooled as u64);
    }
    if let Some(said) = json["guidance_embeds"].as_bool().filter(|said| *said != c.guidance) {
        contradictions.push(format!("guidance_embeds is {said} by config.json, {} by the tensors", c.guidance));
    }
    ensure!(
        contradictions.is_empty(),
        Weights,
        "config.json and the tensors of {origin} contradict each other: {}",
        contradictions.join("; ")
    );
    Ok(())
}

/// What the code divides by, and bounds for the list of tensors: a file of one tensor must not ask for a million.
fn check_geometry(c: &Config) -> Result<()> {
    let turned: usize = c.axes.iter().sum();
    ensure!(
        turned == c.head_dim() && c.axes.iter().all(|d| d % 2 == 0),
        Weights,
        "rotary axes {:?} for heads of {} features",
        c.axes,
        c.head_dim()
    );
    ensure!(c.head_dim().is_multiple_of(4), Weights, "heads of {} features, not a multiple of 4", c.head_dim());
    let most = c.double_blocks.max(c.single_blocks);
    ensure!(most <= MOST_BLOCKS, Weights, "{most} blocks; {MOST_BLOCKS} are the most");
    ensure!(
        (c.version == Version::Flux1) == c.pooled.is_some(),
        Weights,
        "a FLUX.1 transformer has a vector_in, a FLUX.2 one has none"
    );
    Ok(())
}
