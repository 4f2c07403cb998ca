//! The miniature that is part of the program.

use super::pipeline::{Autoencoder, Defaults, Model, TextParts};
use crate::{error::Result, weights::Weights};
use serde_json::json;

/// A FLUX.1 of 4.3 M parameters for pictures of 128 x 128, trained for this project on synthetic pictures of coloured shapes
/// and letters: for demos and tests without a network, no substitute for the real ones.
///
/// # Errors
/// None, unless the program was built from damaged files.
pub fn mini() -> Result<Model> {
    let transformer = include_bytes!("../../../assets/flux-mini/transformer/diffusion_pytorch_model.safetensors");
    let vae = include_bytes!("../../../assets/flux-mini/vae/diffusion_pytorch_model.safetensors");
    let config = include_str!("../../../assets/flux-mini/transformer/config.json");
    let vae_config = include_str!("../../../assets/flux-mini/vae/config.json");
    let autoencoder = Autoencoder::new(&Weights::from_bytes(vae.as_slice())?, Some(vae_config))?;
    let scheduler = json!({ "use_dynamic_shifting": true });
    let transformer = Weights::from_bytes(transformer.as_slice())?;
    let model = Model::from_memory(&transformer, config, autoencoder, TextParts::default(), &json!({}), &scheduler)?;
    Ok(Model { defaults: Defaults { max_sequence_length: 20, ..model.defaults.clone() }, ..model })
}
