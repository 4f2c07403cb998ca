//! FLUX.1 and FLUX.2 (Black Forest Labs): [`Transformer`] computes a step's velocity, [`vectors`] what modulates it.
//!
//! File and type names follow black-forest-labs/flux; so do weight paths, which are also the scopes of the graph.

pub mod autoencoder;
mod blocks;
mod conditioning;
pub mod config;
mod denoiser;
mod detect;
pub mod lora;
#[cfg(not(target_arch = "wasm32"))]
mod mini;
pub mod names;
#[cfg(not(target_arch = "wasm32"))]
pub mod pipeline;
pub mod rope;
pub mod sampling;
pub mod tensors;
mod transformer;
mod workload;

pub use conditioning::{Condition, Vectors, vectors, vectors_with};
pub use config::{Config, Version};
pub use denoiser::{Denoiser, DenoiserOptions, DenoiserPlan};
#[cfg(not(target_arch = "wasm32"))]
pub use mini::mini;
pub use names::Layout;
pub use transformer::{Size, Step, Transformer};
pub use workload::recordings;

use crate::{error::Result, weights::Weights};

/// Opens a transformer of any layout and format, as [`Weights::open`] does, with the `config.json` beside it if there is
/// one. The weights then go by the authors' names.
///
/// # Errors
/// Those of [`Weights::open`] and of [`Config::detect`].
#[cfg(not(target_arch = "wasm32"))]
pub fn open(path: &std::path::Path) -> Result<(Config, Weights)> {
    let (weights, json) = Weights::open_with_config(path, detect::is_transformer)?;
    from_parts(&weights, json.as_deref())
}

/// [`open`] for weights that are already there (embedded, or fetched by a page), and the text of their `config.json`.
///
/// # Errors
/// Those of [`Config::detect`].
pub fn from_parts(weights: &Weights, config_json: Option<&str>) -> Result<(Config, Weights)> {
    let layout = Layout::detect(weights)?;
    let weights = weights.renamed(layout.names());
    let config = Config::detect(&weights, layout, config_json)?;
    Ok((config, weights))
}
