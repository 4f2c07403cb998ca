//! The miniature that is part of the program.

use super::pipeline::{Autoencoder, Defaults, Model, Text, TextEncoders};
use crate::{
    error::Result,
    text::{Clip, Encoder, Kind, T5, Tokenizer},
    weights::Weights,
};
use serde_json::json;
use std::sync::Arc;

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
    let text = Text::Open(Arc::new(text()?));
    let model = Model::from_memory(&transformer, config, autoencoder, text, &json!({}), &scheduler)?;
    Ok(Model { defaults: Defaults { max_sequence_length: 20, ..model.defaults.clone() }, ..model })
}

fn text() -> Result<TextEncoders> {
    let clip = include_bytes!("../../../assets/flux-mini/text_encoder/model.safetensors");
    let clip_config = include_str!("../../../assets/flux-mini/text_encoder/config.json");
    let vocab = include_bytes!("../../../assets/flux-mini/tokenizer/vocab.json");
    let merges = include_bytes!("../../../assets/flux-mini/tokenizer/merges.txt");
    let t5 = include_bytes!("../../../assets/flux-mini/text_encoder_2/model.safetensors");
    let t5_config = include_str!("../../../assets/flux-mini/text_encoder_2/config.json");
    let unigram = include_bytes!("../../../assets/flux-mini/tokenizer_2/tokenizer.json");
    Ok(TextEncoders::Flux1 {
        clip: Box::new(Encoder {
            model: Clip::new(&Weights::from_bytes(clip.as_slice())?, Some(clip_config))?,
            tokenizer: Tokenizer::from_vocab(Kind::Clip, vocab, merges)?,
        }),
        t5: Box::new(Encoder {
            model: T5::new(&Weights::from_bytes(t5.as_slice())?, Some(t5_config))?,
            tokenizer: Tokenizer::from_json(Kind::T5, unigram)?,
        }),
    })
}
