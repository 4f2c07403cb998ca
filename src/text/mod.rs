//! Prompts to what FLUX's transformers read: tokenizers and text encoders.
//!
//! FLUX.1 takes a vector of [`Clip`] and every token of [`T5`] ([`flux1`]); FLUX.2 takes three states of a
//! [`LanguageModel`] ([`flux2`]). With [`Redux`] pictures are part of a prompt of FLUX.1.

#[cfg(not(target_arch = "wasm32"))]
pub mod cache;
mod clip;
mod config;
mod language_model;
mod layers;
mod names;
mod once;
#[cfg(not(target_arch = "wasm32"))]
mod open;
mod pre_norm;
mod redux;
mod siglip;
mod t5;
#[cfg(test)]
mod tests;
mod tokenizer;

#[cfg(not(target_arch = "wasm32"))]
pub use cache::Cache;
pub use clip::{Clip, ClipConfig, ClipOutput};
pub use language_model::{Family, LanguageModel, LanguageModelConfig};
pub use layers::{EncoderPlan, Run};
pub use redux::{Redux, Seen};
pub use siglip::{Siglip, SiglipConfig};
pub use t5::{T5, T5Config};
pub use tokenizer::{Kind, Tokenizer, Tokens};

use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    nn::Storage,
};
use std::ops::Range;

/// An encoder and its tokenizer.
#[derive(Debug)]
pub struct Encoder<M> {
    /// The encoder.
    pub model: M,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

/// What a transformer reads of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// `(tokens, width)`.
    pub prompt: Vec<f32>,
    /// Rows of it, padding included.
    pub tokens: usize,
    /// Features of a token.
    pub width: usize,
    /// One vector for the whole prompt, where the transformer takes it.
    pub pooled: Option<Vec<f32>>,
}

/// The longest sequence of tokens that FLUX was trained on.
pub const MOST_TOKENS: usize = 512;

/// What FLUX.1 reads of `prompt`: `max_sequence_length` tokens of T5 (256 for schnell, 512 for the others), and the pooled
/// vector of CLIP. As `encode_prompt` of diffusers' `FluxPipeline`.
///
/// # Errors
/// `Argument` if `max_sequence_length` is too small or above [`MOST_TOKENS`], and those of the encoders.
pub async fn flux1(
    run: Run<'_>,
    clip: &Encoder<Clip>,
    t5: &Encoder<T5>,
    prompt: &str,
    max_sequence_length: usize,
) -> Result<Embeddings> {
    check_length(max_sequence_length)?;
    let ids = clip.tokenizer.encode(prompt, clip.model.config.positions)?;
    warn_cut("CLIP", &ids);
    // A fortieth of the weights: not worth a progress of its own.
    let silent = crate::graph::Control { progress: None, ..run.control };
    let pooled = clip.model.encode(Run { control: silent, ..run }, &ids.ids).await?.pooled;
    let ids = t5.tokenizer.encode(prompt, max_sequence_length)?;
    warn_cut("T5", &ids);
    let prompt = t5.model.encode(run, &ids.ids).await?;
    Ok(Embeddings { prompt, tokens: max_sequence_length, width: t5.model.config.width, pooled: Some(pooled) })
}

/// What FLUX.2 reads of `prompt`: three states of `max_sequence_length` tokens (512), side by side.
///
/// Qwen3 as `encode_prompt` of diffusers' `Flux2KleinPipeline`: padding behind the prompt is not attended to, but its rows
/// are passed on. Mistral's padding stands before the prompt. There diffusers passes on rows of tokens that attend to
/// nothing, whose value depends on the version; here they are zeros, as in ComfyUI. The rows of the prompt are the same.
///
/// # Errors
/// `Argument` if `max_sequence_length` is too small or above [`MOST_TOKENS`], and those of the model.
pub async fn flux2(
    run: Run<'_>,
    encoder: &Encoder<LanguageModel>,
    prompt: &str,
    max_sequence_length: usize,
) -> Result<Embeddings> {
    check_length(max_sequence_length)?;
    let LanguageModel { config, outputs, .. } = &encoder.model;
    let tokens = encoder.tokenizer.encode(prompt, max_sequence_length)?;
    warn_cut(config.family.name(), &tokens);
    let range = read(config.family, &tokens);
    let states = encoder.model.hidden_states(run, &tokens.ids[range.clone()], tokens.real.len(), outputs).await?;
    let width = outputs.len() * config.width;
    let mut prompt = vec![0.0; max_sequence_length * width];
    for (t, row) in prompt.chunks_mut(width).skip(range.start).take(range.len()).enumerate() {
        for (part, state) in row.chunks_mut(config.width).zip(&states) {
            part.copy_from_slice(&state[t * config.width..][..config.width]);
        }
    }
    Ok(Embeddings { prompt, tokens: max_sequence_length, width, pooled: None })
}

/// The tokens that a language model reads.
fn read(family: Family, tokens: &Tokens) -> Range<usize> {
    match family {
        Family::Qwen3 => 0..tokens.ids.len(),
        Family::Mistral => tokens.real.clone(),
    }
}

/// What [`flux1`] takes of a device, one encoder after the other.
///
/// # Errors
/// Those of [`flux1`] before anything runs.
pub fn plan_flux1(
    gpu: &Gpu,
    storage: Storage,
    clip: &Encoder<Clip>,
    t5: &Encoder<T5>,
    max_sequence_length: usize,
) -> Result<Vec<EncoderPlan>> {
    check_length(max_sequence_length)?;
    let positions = clip.model.config.positions;
    Ok(vec![clip.model.plan(gpu, storage, positions)?, t5.model.plan(gpu, storage, max_sequence_length)?])
}

/// What [`flux2`] takes of a device.
///
/// # Errors
/// Those of [`flux2`] before anything runs.
pub fn plan_flux2(
    gpu: &Gpu,
    storage: Storage,
    encoder: &Encoder<LanguageModel>,
    prompt: &str,
    max_sequence_length: usize,
) -> Result<Vec<EncoderPlan>> {
    check_length(max_sequence_length)?;
    let tokens = encoder.tokenizer.encode(prompt, max_sequence_length)?;
    let read = read(encoder.model.config.family, &tokens).len();
    Ok(vec![encoder.model.plan(gpu, storage, read, tokens.real.len())?])
}

fn check_length(max_sequence_length: usize) -> Result<()> {
    ensure!(
        max_sequence_length <= MOST_TOKENS,
        Argument,
        "a sequence of {max_sequence_length} tokens: FLUX reads at most {MOST_TOKENS}"
    );
    Ok(())
}

fn warn_cut(who: &str, tokens: &Tokens) {
    if tokens.cut > 0 {
        tracing::warn!(
            "{who} reads {} tokens: it does not see the last {} of the prompt",
            tokens.ids.len(),
            tokens.cut
        );
    }
}
