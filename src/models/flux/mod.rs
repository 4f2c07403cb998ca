//! FLUX.1 and FLUX.2 (Black Forest Labs): [`Transformer`] computes a step's velocity, [`vectors`] what modulates it.
//!
//! File and type names follow black-forest-labs/flux; so do weight paths, which are also the scopes of the graph.

pub mod autoencoder;
mod blocks;
mod conditioning;
pub mod config;
mod detect;
pub mod lora;
pub mod names;
pub mod rope;
pub mod sampling;
pub mod tensors;
mod transformer;
mod workload;

pub use conditioning::{Condition, Vectors, vectors};
pub use config::{Config, Version};
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
    use crate::error::{ErrorKind, IntoError};
    let weights = Weights::open(path)?;
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(std::path::Path::new("")) };
    let file = folder.join("config.json");
    let json = match file.is_file() {
        true => {
            Some(std::fs::read_to_string(&file).error(ErrorKind::Io, || format!("cannot read '{}'", file.display()))?)
        }
        false => None,
    };
    // Beside a single file may lie the config.json of something else; in a model's folder it is the model's.
    let json = json.filter(|json| path.is_dir() || detect::is_transformer(json));
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
