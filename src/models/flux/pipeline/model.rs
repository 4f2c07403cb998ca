//! Where a model's parts are, and what they are: from a folder of diffusers, from single files, or from a mix.

use super::{
    super::{Config, Version, config::Reads, from_parts, open, sampling::Curve},
    autoencoder::Autoencoder,
    text::{Text, TextParts},
};
use crate::{
    error::{Context, ErrorKind, IntoError, Result, bail, ensure},
    weights::Weights,
};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Files and folders that a user names. Each wins over what the model's folder has.
#[derive(Debug, Clone, Default)]
pub struct Locations {
    /// A folder of diffusers (with `model_index.json`), or a transformer.
    pub model: Option<PathBuf>,
    /// A transformer: a file or a folder.
    pub transformer: Option<PathBuf>,
    /// An autoencoder: a file or a folder.
    pub vae: Option<PathBuf>,
    /// The text encoder: CLIP for FLUX.1, a language model for FLUX.2.
    pub text_encoder: Option<PathBuf>,
    /// T5, for FLUX.1.
    pub text_encoder_2: Option<PathBuf>,
    /// The tokenizer of the text encoder.
    pub tokenizer: Option<PathBuf>,
    /// That of T5.
    pub tokenizer_2: Option<PathBuf>,
}

impl Locations {
    /// The folder of diffusers, if that is what `model` is.
    fn pipeline(&self) -> Option<&Path> {
        self.model.as_deref().filter(|folder| folder.join("model_index.json").is_file())
    }

    /// What was named, or the pipeline's own part `name`.
    fn part(&self, named: &Option<PathBuf>, name: &str) -> Option<PathBuf> {
        let own = || self.pipeline().map(|folder| folder.join(name)).filter(|folder| folder.is_dir());
        named.clone().or_else(own)
    }

    /// What is there, of the parts that embed texts.
    fn text(&self) -> TextParts {
        TextParts {
            text_encoder: self.part(&self.text_encoder, "text_encoder"),
            text_encoder_2: self.part(&self.text_encoder_2, "text_encoder_2"),
            tokenizer: self.part(&self.tokenizer, "tokenizer"),
            tokenizer_2: self.part(&self.tokenizer_2, "tokenizer_2"),
        }
    }
}

/// What a model is made for, where a user says nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Its noise levels.
    pub curve: Curve,
    /// Steps.
    pub steps: usize,
    /// The guidance that it embeds, if it does.
    pub guidance: Option<f32>,
    /// The scale of classifier-free guidance, for models that need it.
    pub true_cfg: Option<f32>,
    /// Tokens of a prompt, at most.
    pub max_sequence_length: usize,
    /// Side of a square picture.
    pub side: usize,
}

/// A FLUX model whose files are open and checked, and of which nothing is on a device.
#[derive(Debug, Clone)]
pub struct Model {
    /// The transformer.
    pub config: Config,
    /// Its weights, by our names.
    pub transformer: Weights,
    /// The autoencoder.
    pub autoencoder: Autoencoder,
    /// Its text encoders.
    pub text: Text,
    /// What it is made for.
    pub defaults: Defaults,
}

impl Model {
    /// Opens the parts, and checks that they belong together. Text encoders are opened when they are needed.
    ///
    /// # Errors
    /// `NotFound` for a part that is missing, with what would give it; `Weights` for one that is damaged, is something else
    /// or belongs to another model.
    pub fn open(at: &Locations) -> Result<Self> {
        let folder = at.pipeline();
        // A model that is no pipeline is a transformer, perhaps with the rest in the same file.
        let single = || at.model.clone().filter(|_| folder.is_none());
        let Some(transformer) = at.part(&at.transformer, "transformer").or_else(single) else {
            bail!(NotFound, "the transformer is missing: {}", advice(folder, "--transformer FILE"))
        };
        let (config, weights) = open(&transformer)?;
        let autoencoder = match at.part(&at.vae, "vae") {
            Some(path) => Autoencoder::open(&path)?,
            None => match Autoencoder::new(&Weights::open(&transformer)?, None) {
                Ok(inside) => inside,
                Err(_) => bail!(NotFound, "the autoencoder is missing: {}", advice(folder, "--vae FILE")),
            },
        };
        let index = read_json(folder, "model_index.json")?;
        let scheduler = read_json(folder, "scheduler/scheduler_config.json")?;
        Self::new(config, weights, autoencoder, Text::Parts(at.text()), &index, &scheduler)
    }

    /// From parts in memory: `config_json` is the transformer's, `index` and `scheduler` are diffusers' files or null.
    ///
    /// # Errors
    /// `Weights` if they are no FLUX model or do not belong together.
    pub fn from_memory(
        transformer: &Weights,
        config_json: &str,
        autoencoder: Autoencoder,
        text: Text,
        index: &Json,
        scheduler: &Json,
    ) -> Result<Self> {
        let (config, weights) = from_parts(transformer, Some(config_json))?;
        Self::new(config, weights, autoencoder, text, index, scheduler)
    }

    fn new(
        config: Config,
        transformer: Weights,
        autoencoder: Autoencoder,
        text: Text,
        index: &Json,
        scheduler: &Json,
    ) -> Result<Self> {
        config.reads().context(|| transformer.origin().to_owned())?;
        ensure!(
            4 * autoencoder.latent_channels == config.out_channels && autoencoder.version() == config.version,
            Weights,
            "the autoencoder {} ({} latent channels) is not one for this {config}",
            autoencoder.weights.origin(),
            autoencoder.latent_channels
        );
        let defaults = Defaults::of(&config, index, scheduler, autoencoder.side)?;
        Ok(Self { config, transformer, autoencoder, text, defaults })
    }
}

fn advice(folder: Option<&Path>, flag: &str) -> String {
    match folder {
        Some(folder) => format!("'{}' has none; give {flag}", folder.display()),
        None => format!("give {flag}, or the folder of a whole model"),
    }
}

fn read_json(folder: Option<&Path>, name: &str) -> Result<Json> {
    let Some(path) = folder.map(|folder| folder.join(name)).filter(|path| path.is_file()) else {
        return Ok(Json::Null);
    };
    let text = std::fs::read_to_string(&path).error(ErrorKind::Io, || format!("cannot read '{}'", path.display()))?;
    serde_json::from_str(&text).error(ErrorKind::Weights, || format!("'{}' is no JSON", path.display()))
}

impl Defaults {
    /// Those of a transformer, with what diffusers' files say and tensors do not: whether the levels are shifted, and
    /// whether a FLUX.2 klein is distilled. Nothing tells Depth, whose guidance is 10, from Canny. Without the files FLUX.1 without guidance is schnell, and klein the distilled one.
    fn of(c: &Config, index: &Json, scheduler: &Json, side: usize) -> Result<Self> {
        let shifted = scheduler["use_dynamic_shifting"].as_bool();
        let is = |key: &str, value: f64| scheduler[key].as_f64().is_none_or(|said| (said - value).abs() < 1e-9);
        let constants = match shifted {
            Some(false) => is("shift", 1.0),
            _ => {
                [("base_shift", 0.5), ("max_shift", 1.15), ("base_image_seq_len", 256.0), ("max_image_seq_len", 4096.0)]
                    .into_iter()
                    .all(|(key, value)| is(key, value))
            }
        };
        ensure!(constants, Weights, "scheduler_config.json: a shift of the noise levels that no FLUX model has");
        let base =
            |steps| Self { curve: Curve::Flux1, steps, guidance: None, true_cfg: None, max_sequence_length: 512, side };
        Ok(match (c.version, c.guidance) {
            (Version::Flux1, true) if c.reads()? != Reads::Latents => Self { guidance: Some(30.0), ..base(50) },
            (Version::Flux1, true) => Self { guidance: Some(3.5), ..base(28) },
            (Version::Flux1, false) if shifted == Some(true) => base(28),
            (Version::Flux1, false) => Self { curve: Curve::Linear, max_sequence_length: 256, ..base(4) },
            (Version::Flux2, true) => Self { curve: Curve::Flux2, guidance: Some(4.0), ..base(28) },
            (Version::Flux2, false) if index["is_distilled"].as_bool() == Some(false) => {
                Self { curve: Curve::Flux2, true_cfg: Some(4.0), ..base(50) }
            }
            (Version::Flux2, false) => Self { curve: Curve::Flux2, ..base(4) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::config::RELEASED, *};
    use serde_json::json;

    #[test]
    fn defaults_are_those_of_the_released_models() {
        let of = |name: &str, index: Json, scheduler: Json| {
            let (_, c) = RELEASED.iter().find(|(n, _)| *n == name).unwrap();
            let d = Defaults::of(c, &index, &scheduler, 1024).unwrap();
            (d.curve, d.steps, d.guidance, d.true_cfg, d.max_sequence_length)
        };
        let none = || Json::Null;
        assert_eq!(of("flux1-dev", none(), none()), (Curve::Flux1, 28, Some(3.5), None, 512));
        for name in ["flux1-fill-dev", "flux1-canny-dev"] {
            assert_eq!(of(name, none(), none()), (Curve::Flux1, 50, Some(30.0), None, 512));
        }
        let even = json!({"use_dynamic_shifting": false, "shift": 1.0});
        for scheduler in [none(), even] {
            assert_eq!(of("flux1-schnell", none(), scheduler), (Curve::Linear, 4, None, None, 256));
        }
        assert_eq!(of("flux2-dev", none(), none()), (Curve::Flux2, 28, Some(4.0), None, 512));
        assert_eq!(of("flux2-klein-4b", none(), none()), (Curve::Flux2, 4, None, None, 512));
        let base = json!({"is_distilled": false});
        assert_eq!(of("flux2-klein-9b", base, none()), (Curve::Flux2, 50, None, Some(4.0), 512));
        for scheduler in [json!({"use_dynamic_shifting": false, "shift": 3.0}), json!({"max_shift": 2.0})] {
            assert!(Defaults::of(&RELEASED[0].1, &none(), &scheduler, 1024).is_err());
        }
    }
}
