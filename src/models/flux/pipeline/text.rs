//! Prompts through a model's own text encoders.

use super::{
    super::{Config, Version},
    Embeddings,
};
use crate::{
    error::{Result, bail},
    nn::Storage,
    text::{
        Cache, Clip, Encoder, EncoderPlan, LanguageModel, Run, T5,
        cache::{flux1_key, flux2_key},
        flux1, flux2, plan_flux1, plan_flux2,
    },
    weights::HostDType,
};
use serde::Serialize;
use std::{path::PathBuf, sync::Arc};

/// Where the parts are that embed texts. They are opened when a text is to be embedded, and closed after it.
#[derive(Debug, Clone, Default)]
pub struct TextParts {
    /// CLIP for FLUX.1, a language model for FLUX.2.
    pub text_encoder: Option<PathBuf>,
    /// T5, for FLUX.1.
    pub text_encoder_2: Option<PathBuf>,
    /// The folder of the tokenizer of `text_encoder`; without, it is looked for beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// That of T5.
    pub tokenizer_2: Option<PathBuf>,
}

/// A model's text encoders.
#[derive(Debug, Clone)]
pub enum Text {
    /// In files.
    Parts(TextParts),
    /// Open already.
    Open(Arc<TextEncoders>),
}

/// Text encoders whose files are open and checked, and of which nothing is on a device.
#[derive(Debug)]
pub enum TextEncoders {
    /// Of FLUX.1.
    Flux1 {
        /// For the whole text.
        clip: Box<Encoder<Clip>>,
        /// For every token.
        t5: Box<Encoder<T5>>,
    },
    /// Of FLUX.2.
    Flux2(Box<Encoder<LanguageModel>>),
}

impl Text {
    /// The encoders for a transformer.
    ///
    /// # Errors
    /// `NotFound` for a part that is missing, with the flag that names it; those of opening weights and tokenizers.
    pub fn open(&self, config: &Config) -> Result<Arc<TextEncoders>> {
        let parts = match self {
            Self::Open(encoders) => return Ok(encoders.clone()),
            Self::Parts(parts) => parts,
        };
        let of = |weights: &'_ Option<PathBuf>, what: &str, flag: &str| -> Result<PathBuf> {
            let Some(path) = weights.clone() else {
                bail!(NotFound, "the text encoder {what} is missing: give {flag} FILE, or embedded texts")
            };
            Ok(path)
        };
        let (tokenizer, tokenizer_2) = (parts.tokenizer.as_deref(), parts.tokenizer_2.as_deref());
        Ok(Arc::new(match config.version {
            Version::Flux1 => {
                let clip = of(&parts.text_encoder, "CLIP", "--text-encoder")?;
                let t5 = of(&parts.text_encoder_2, "T5", "--text-encoder-2")?;
                TextEncoders::Flux1 {
                    clip: Box::new(Encoder::<Clip>::open(&clip, tokenizer)?),
                    t5: Box::new(Encoder::<T5>::open(&t5, tokenizer_2)?),
                }
            }
            Version::Flux2 => {
                let path = of(&parts.text_encoder, "(Qwen3 or Mistral)", "--text-encoder")?;
                TextEncoders::Flux2(Box::new(Encoder::<LanguageModel>::open(&path, tokenizer)?))
            }
        }))
    }
}

/// What embedding a text takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPlan {
    /// Nothing: it is given embedded.
    Given,
    /// Nothing: it was embedded before.
    Cached,
    /// These encoders run, one after the other.
    Encoded(Vec<EncoderPlan>),
}

impl TextPlan {
    /// The encoders that run.
    pub fn encoders(&self) -> &[EncoderPlan] {
        match self {
            Self::Given | Self::Cached => &[],
            Self::Encoded(encoders) => encoders,
        }
    }
}

impl TextEncoders {
    /// What [`embed`](Self::embed) takes. Reads the headers of the weights only, and the cache.
    ///
    /// # Errors
    /// `Argument` for a length that is too small or above [`MOST_TOKENS`](crate::text::MOST_TOKENS).
    pub fn plan(&self, run: Run<'_>, text: &str, length: usize, cache: Option<&Cache>) -> Result<TextPlan> {
        let run = self.stored(run);
        if let Some(cache) = cache
            && cache.get(&self.key(&run, text, length)?).is_some()
        {
            return Ok(TextPlan::Cached);
        }
        Ok(TextPlan::Encoded(match self {
            Self::Flux1 { clip, t5 } => plan_flux1(run.gpu, run.storage, clip, t5, length)?,
            Self::Flux2(encoder) => plan_flux2(run.gpu, run.storage, encoder, text, length)?,
        }))
    }

    /// With the storage that is meant: bf16 is kept as f16.
    fn stored<'a>(&self, run: Run<'a>) -> Run<'a> {
        let weights = match self {
            Self::Flux1 { t5, .. } => t5.model.weights(),
            Self::Flux2(encoder) => encoder.model.weights(),
        };
        let bf16 = weights.summary().dtypes.contains_key(&HostDType::BF16);
        let storage = if run.storage == Storage::AsStored && bf16 { Storage::F16 } else { run.storage };
        Run { storage, ..run }
    }

    fn key(&self, run: &Run<'_>, text: &str, length: usize) -> Result<String> {
        match self {
            Self::Flux1 { clip, t5 } => flux1_key(run, clip, t5, text, length),
            Self::Flux2(encoder) => flux2_key(run, encoder, text, length),
        }
    }

    /// Embeds a text in `length` tokens: from `cache`, if it was embedded before.
    ///
    /// bf16 weights are kept as f16 unless `run.storage` says something else: half the memory of f32.
    ///
    /// # Errors
    /// `Argument` for a length that is too small or above [`MOST_TOKENS`](crate::text::MOST_TOKENS), `Numeric` naming the
    /// layer from which values are not finite, `Cancelled`, and what the device reports.
    pub async fn embed(&self, run: Run<'_>, text: &str, length: usize, cache: Option<&Cache>) -> Result<Embeddings> {
        let run = self.stored(run);
        let key = self.key(&run, text, length)?;
        if let Some(known) = cache.and_then(|cache| cache.get(&key)) {
            return Ok(known);
        }
        let embeddings = match self {
            Self::Flux1 { clip, t5 } => flux1(run, clip, t5, text, length).await?,
            Self::Flux2(encoder) => flux2(run, encoder, text, length).await?,
        };
        // A cache that cannot be written to is no reason to stop.
        if let Some(Err(e)) = cache.map(|cache| cache.put(&key, &embeddings)) {
            tracing::warn!("the embedded text is not kept: {e}");
        }
        Ok(embeddings)
    }
}
