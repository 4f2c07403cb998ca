//! Segment Anything 2 and 2.1 (Ravi et al. 2024, <https://arxiv.org/abs/2408.00714>) on pictures: [`Predictor`] answers prompts, [`amg`] finds every mask.
//!
//! File and type names follow facebookresearch/sam2; so do weight paths, which are also the scopes of the graph.

pub mod amg;
pub mod config;
mod decoders;
mod detect;
mod embedding;
pub mod grid;
mod hiera;
mod image_encoder;
mod json;
mod judge;
mod mask_decoder;
mod memory_attention;
mod memory_encoder;
mod mini;
mod model;
pub mod names;
mod predictor;
mod prompt;
mod prompt_encoder;
mod result;
pub mod tensors;
#[cfg(test)]
mod tests;
mod together;
mod two_way;
pub mod video;
mod workload;

pub use config::{Config, Version};
pub use embedding::Embedding;
pub use mini::mini;
pub use predictor::{Ask, Behaviour, Options, Predictor};
pub use prompt::{MaskPrompt, Point, Prompt};
pub use result::{Candidate, Prediction, Statistics};
pub use workload::recordings;

use crate::{error::Result, weights::Weights};

/// Opens a checkpoint of any layout and format, as [`Weights::open`] does, with the `config.json` beside it if there
/// is one. The weights then go by the official names.
///
/// # Errors
/// Those of [`Weights::open`] and of [`Config::detect`].
#[cfg(not(target_arch = "wasm32"))]
pub fn open(path: &std::path::Path) -> Result<(Config, Weights)> {
    let (weights, json) = Weights::open_with_config(path, |json| json::is_sam2(json) == Some(true))?;
    from_parts(&weights, json.as_deref())
}

/// [`open`] for weights that are already there (embedded, or fetched by a page), and the text of their `config.json`.
///
/// # Errors
/// Those of [`Config::detect`].
pub fn from_parts(weights: &Weights, config_json: Option<&str>) -> Result<(Config, Weights)> {
    let weights = weights.renamed(names::Layout::detect(weights)?.names());
    let config = Config::detect(&weights, config_json)?;
    Ok((config, weights))
}
