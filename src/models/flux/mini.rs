//! The miniature that is part of the program.

use super::pipeline::{Autoencoder, Defaults, Model, Text, TextEncoders};
use crate::{
    error::Result,
    text::{Clip, Encoder, Kind, T5, Tokenizer},
    weights::Weights,
};
use impasto_flux_mini as files;
use serde_json::json;
use std::sync::Arc;

/// A FLUX.1 of 4.3 M parameters for pictures of 128 x 128, trained for this project on synthetic pictures of coloured shapes
/// and letters: for demos and tests without a network, no substitute for the real ones.
///
/// # Errors
/// None, unless the program was built from damaged files.
pub fn mini() -> Result<Model> {
    let autoencoder = Autoencoder::new(&Weights::from_bytes(files::VAE)?, Some(files::VAE_CONFIG))?;
    let scheduler = json!({ "use_dynamic_shifting": true });
    let transformer = Weights::from_bytes(files::TRANSFORMER)?;
    let text = Text::Open(Arc::new(text()?));
    let model = Model::from_memory(&transformer, files::TRANSFORMER_CONFIG, autoencoder, text, &json!({}), &scheduler)?;
    Ok(Model { defaults: Defaults { max_sequence_length: 20, ..model.defaults.clone() }, ..model })
}

fn text() -> Result<TextEncoders> {
    Ok(TextEncoders::Flux1 {
        clip: Box::new(Encoder {
            model: Clip::new(&Weights::from_bytes(files::CLIP)?, Some(files::CLIP_CONFIG))?,
            tokenizer: Tokenizer::from_vocab(Kind::Clip, files::CLIP_VOCAB, files::CLIP_MERGES)?,
        }),
        t5: Box::new(Encoder {
            model: T5::new(&Weights::from_bytes(files::T5)?, Some(files::T5_CONFIG))?,
            tokenizer: Tokenizer::from_json(Kind::T5, files::T5_TOKENIZER)?,
        }),
    })
}
