//! The models, each in the words of its paper and its reference implementation.

pub mod flux;
pub mod sam2;

#[cfg(not(target_arch = "wasm32"))]
use crate::{
    error::Result,
    weights::{Summary, Weights},
};

/// What [`inspect`] finds.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Format, sizes, types and tensors.
    pub summary: Summary,
    /// The model, as `SAM 2.1 hiera-tiny`; or why it is none that impasto runs.
    pub model: std::result::Result<String, String>,
}

/// Reads what a file or folder holds, for `impasto models inspect`.
///
/// # Errors
/// Those of [`Weights::open`]: a file that is whole but of another model is no error.
#[cfg(not(target_arch = "wasm32"))]
pub fn inspect(path: &std::path::Path) -> Result<Inspection> {
    let weights = Weights::open(path)?;
    let model = match flux::Layout::detect(&weights) {
        Ok(_) => flux::open(path).map(|(config, _)| config.to_string()),
        Err(_) => sam2::open(path).map(|(config, _)| config.to_string()),
    };
    let (summary, model) = (weights.summary(), model.map_err(|e| e.to_string()));
    Ok(Inspection { summary, model })
}
