//! The alphas that PEFT writes into a file's metadata, in place of keys: `lora_adapter_metadata`, as diffusers reads it.

use super::names;
use crate::{
    error::{ErrorKind, IntoError, Result, ensure},
    weights::{Meta, Weights},
};
use std::collections::BTreeMap;

/// The alpha of each adapter that has no key for it.
#[derive(Debug, Default)]
pub(super) struct Alphas {
    all: Option<f32>,
    /// By the end of a layer's name.
    patterns: BTreeMap<String, f32>,
    /// By the square root of the rank, not by the rank.
    root: bool,
}

/// A `LoraConfig`, its keys after the name of the part that it is for.
#[derive(serde::Deserialize)]
struct Config {
    #[serde(rename = "transformer.lora_alpha")]
    alpha: Option<f32>,
    #[serde(rename = "transformer.alpha_pattern", default)]
    patterns: BTreeMap<String, f32>,
    #[serde(rename = "transformer.use_rslora", default)]
    root: bool,
}

impl Alphas {
    /// Those of a file; none if it says nothing.
    pub(super) fn read(file: &Weights) -> Result<Self> {
        let Some(Meta::Text(json)) = file.metadata("lora_adapter_metadata") else { return Ok(Self::default()) };
        let c: Config = serde_json::from_str(json)
            .error(ErrorKind::Weights, || format!("{}: its lora_adapter_metadata cannot be read", file.origin()))?;
        let finite = c.alpha.iter().chain(c.patterns.values()).all(|alpha| alpha.is_finite());
        ensure!(finite, Weights, "{}: an alpha of its lora_adapter_metadata is not finite", file.origin());
        Ok(Self { all: c.alpha, patterns: c.patterns, root: c.root })
    }

    /// The factor of the adapter whose `A` has this key.
    pub(super) fn scale(&self, key: &str, rank: f32) -> f32 {
        let path = names::split(key).map_or("", |(path, _)| path);
        let ends = |pattern: &str| path.strip_suffix(pattern).is_some_and(|p| p.is_empty() || p.ends_with('.'));
        let pattern = self.patterns.iter().find(|(pattern, _)| ends(pattern));
        match pattern.map(|(_, alpha)| *alpha).or(self.all) {
            Some(alpha) if self.root => alpha / rank.sqrt(),
            Some(alpha) => alpha / rank,
            None => 1.0,
        }
    }
}
