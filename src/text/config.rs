//! Reading what an encoder is made of: from its tensors and, where they leave a choice, from
//! `config.json` or what a GGUF file says of itself.

use crate::{
    error::{ErrorKind, IntoError, Result, bail, ensure},
    weights::{Meta, Weights},
};

/// No encoder comes near; a file of one tensor must not ask for a million.
const MOST_LAYERS: usize = 256;

/// A `config.json`, or none.
pub(super) struct Json(serde_json::Value);

impl Json {
    /// The text encoder's part, where it is one of several (`text_config`).
    ///
    /// # Errors
    /// `Weights` if it is no JSON.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        Self::part(text, "text_config")
    }

    /// The encoder that goes by `part`, where there are several.
    ///
    /// # Errors
    /// `Weights` if it is no JSON.
    pub(super) fn part(text: Option<&str>, part: &str) -> Result<Self> {
        let Some(text) = text else { return Ok(Self(serde_json::Value::Null)) };
        let mut json: serde_json::Value =
            serde_json::from_str(text).error(ErrorKind::Weights, || "config.json of the encoder")?;
        let inner = json[part].take();
        Ok(Self(if inner.is_object() { inner } else { json }))
    }

    /// A positive integer.
    ///
    /// # Errors
    /// `Weights` if it is something else.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        match &self.0[key] {
            serde_json::Value::Null => Ok(None),
            value => match value.as_u64().filter(|n| (1..=u64::from(u32::MAX)).contains(n)) {
                Some(n) => Ok(Some(n as usize)),
                None => bail!(Weights, "config.json of the encoder: {key} is {value}"),
            },
        }
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.0[key].as_f64()
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0[key].as_str()
    }

    /// The object under `key`, empty if there is none.
    pub(super) fn inner(&self, key: &str) -> Self {
        Self(self.0[key].clone())
    }
}

/// What a GGUF file says of itself, under its architecture.
pub(super) struct Gguf<'a> {
    weights: &'a Weights,
    pub(super) architecture: String,
}

impl<'a> Gguf<'a> {
    pub(super) fn of(weights: &'a Weights) -> Self {
        let architecture = match weights.metadata("general.architecture") {
            Some(Meta::Text(name)) => name.clone(),
            _ => String::new(),
        };
        Self { weights, architecture }
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        match self.weights.metadata(&format!("{}.{key}", self.architecture)) {
            Some(Meta::Float(x)) => Some(*x),
            Some(Meta::Unsigned(n)) => Some(*n as f64),
            _ => None,
        }
    }

    pub(super) fn size(&self, key: &str) -> Option<usize> {
        self.number(key).map(|n| n as usize)
    }
}

/// Layers below `path` that have the tensor `name`.
///
/// # Errors
/// `Weights` if it has none.
pub(super) fn count_layers(w: &Weights, path: &str, name: &str) -> Result<usize> {
    let count = (0..MOST_LAYERS).take_while(|i| w.at(path).at(i).has(name)).count();
    ensure!(count > 0, Weights, "{}: no tensor '{path}.0.{name}'", w.origin());
    Ok(count)
}

/// # Errors
/// `Weights` if the config says another number of layers than there are.
pub(super) fn check_layers(w: &Weights, found: usize, said: Option<usize>) -> Result<()> {
    let said = said.unwrap_or(found);
    ensure!(said == found, Weights, "{}: {found} layers, {said} by its config.json", w.origin());
    Ok(())
}

/// # Errors
/// `Weights` unless `width` divides into heads that kernels read.
pub(super) fn check_heads(w: &Weights, width: usize, heads: usize) -> Result<()> {
    let fits = heads > 0 && width.is_multiple_of(heads) && (width / heads).is_multiple_of(4) && width / heads <= 512;
    ensure!(fits, Weights, "{}: {width} features in {heads} heads", w.origin());
    Ok(())
}
