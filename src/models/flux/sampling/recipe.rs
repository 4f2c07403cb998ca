//! What a picture's file says about how it was made.

use crate::{
    error::{ErrorKind, IntoError, Result},
    image::metadata::Metadata,
};
use serde::{Deserialize, Serialize};

/// Everything that remakes a picture on the same adapter, byte for byte. The picture's file holds it as JSON, and as
/// the text that other tools read ([`Recipe::metadata`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The version of impasto.
    pub version: String,
    /// The model as it was asked for: an id or the name of a file.
    pub model: String,
    /// The first ten digits of the SHA-256 of the transformer's file, where that is known. Only this is what other tools take
    /// for the hash of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_hash: Option<String>,
    /// The [`digest`](crate::weights::Weights::digest) of the transformer's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// `q8` or `q4`, if the weights were quantised when they were loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<String>,
    /// The prompt.
    pub prompt: String,
    /// The negative prompt of true CFG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Tokens that the prompt was padded or cut to.
    pub max_sequence_length: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Steps of the schedule, before `strength` shortens it.
    pub steps: usize,
    /// The guidance that the model embeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// The scale of classifier-free guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_cfg: Option<f32>,
    /// The name of the [`Shift`](super::Shift).
    pub schedule: String,
    /// The seed of the whole batch.
    pub seed: u64,
    /// The name of the noise [`Profile`](super::Profile).
    pub noise: String,
    /// Pictures in the batch.
    pub images: usize,
    /// This picture's place in it, from 0.
    pub index: usize,
    /// The name of the picture that the run began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How much of it was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// The name of the file with the embedded prompt that took the place of text encoders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeds: Option<String>,
    /// The name of the file with the latents that the run began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_latents: Option<String>,
    /// Adapters, in the order in which they were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<AppliedLora>,
}

/// A LoRA that took part in a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppliedLora {
    /// Its file, without the folder.
    pub file: String,
    /// The factor that it was given.
    pub strength: f32,
}

impl Recipe {
    /// The text that the web UI of AUTOMATIC1111 began and Forge, Civitai and others read: the prompt with its LoRAs, the
    /// negative prompt, and one line of settings, of which the embedded guidance goes by Forge's name.
    pub fn parameters(&self) -> String {
        let mut text = self.prompt.clone();
        for lora in &self.loras {
            let name = lora.file.rsplit_once('.').map_or(lora.file.as_str(), |(stem, _)| stem);
            text += &format!(" <lora:{name}:{}>", lora.strength);
        }
        if let Some(negative) = &self.negative_prompt {
            text += &format!("\nNegative prompt: {negative}");
        }
        let mut settings = vec![
            ("Steps", self.steps.to_string()),
            ("Sampler", "Euler".into()),
            ("Schedule type", "Simple".into()),
            ("CFG scale", self.true_cfg.unwrap_or(1.0).to_string()),
        ];
        settings.extend(self.guidance.map(|g| ("Distilled CFG Scale", g.to_string())));
        settings.push(("Seed", self.seed.to_string()));
        settings.push(("Size", format!("{}x{}", self.width, self.height)));
        settings.extend(self.model_hash.clone().map(|h| ("Model hash", h)));
        settings.push(("Model", self.model.clone()));
        settings.extend(self.strength.map(|s| ("Denoising strength", s.to_string())));
        if self.images > 1 {
            settings.push(("Batch size", self.images.to_string()));
            settings.push(("Batch pos", self.index.to_string()));
        }
        settings.push(("Version", format!("impasto {}", self.version)));
        let settings: Vec<String> =
            settings.into_iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
        format!("{text}\n{}", settings.join(", ")).replace('\0', "\u{fffd}")
    }

    /// What is written into the picture's file.
    pub fn metadata(&self) -> Metadata {
        let json = serde_json::to_string(self).expect("strings and numbers are JSON");
        Metadata { parameters: self.parameters(), json }
    }

    /// The recipe of a picture that impasto made, from [`Metadata::json`].
    ///
    /// # Errors
    /// `Input` if the JSON is of no recipe.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).error(ErrorKind::Input, || "the picture's metadata is no recipe of impasto")
    }
}

/// A value of the settings: quoted as JSON where it would end too early.
fn quoted(value: String) -> String {
    match value.contains([',', '\n', ':']) {
        true => serde_json::Value::String(value).to_string(),
        false => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            version: "0.1.0".into(),
            model: "black-forest-labs/FLUX.1-dev".into(),
            model_hash: None,
            weights: Some("0123456789abcdef".into()),
            quantize: Some("q8".into()),
            prompt: "a fox,\nin the snow".into(),
            negative_prompt: Some("blurry".into()),
            max_sequence_length: 512,
            width: 1024,
            height: 768,
            steps: 28,
            guidance: Some(3.5),
            true_cfg: Some(2.0),
            schedule: "bfl".into(),
            seed: u64::MAX,
            noise: "diffusers".into(),
            images: 4,
            index: 2,
            image: Some("start.png".into()),
            strength: Some(0.6),
            embeds: Some("fox.safetensors".into()),
            init_latents: None,
            loras: vec![AppliedLora { file: "ink.v2.safetensors".into(), strength: 0.8 }],
        }
    }

    #[test]
    fn json_gives_the_recipe_back() {
        let metadata = recipe().metadata();
        assert_eq!(metadata.parameters, recipe().parameters());
        assert_eq!(Recipe::from_json(&metadata.json).unwrap(), recipe());
        // What is absent is not written, and a newer version's additions do not hinder.
        let plain = Recipe { guidance: None, loras: vec![], image: None, ..recipe() };
        let json = plain.metadata().json;
        assert!(!json.contains("guidance") && !json.contains("loras"));
        let newer = json.replacen('{', r#"{"new":1,"#, 1);
        assert_eq!(Recipe::from_json(&newer).unwrap(), plain);
        assert_eq!(Recipe::from_json("{}").unwrap_err().kind(), ErrorKind::Input);
    }

    #[test]
    fn parameters_are_in_the_common_form() {
        let text = "a fox,\nin the snow <lora:ink.v2:0.8>\nNegative prompt: blurry\nSteps: 28, Sampler: Euler, \
            Schedule type: Simple, CFG scale: 2, Distilled CFG Scale: 3.5, Seed: 18446744073709551615, Size: 1024x768, \
            Model: black-forest-labs/FLUX.1-dev, Denoising strength: 0.6, Batch size: 4, Batch pos: 2, \
            Version: impasto 0.1.0";
        assert_eq!(recipe().parameters(), text);
        let known = Recipe { model_hash: Some("4610115bb0".into()), ..recipe() };
        assert!(known.parameters().contains("Size: 1024x768, Model hash: 4610115bb0, Model: black"));
        let odd = Recipe { model: "C:\\a, b.gguf".into(), prompt: "nul \0".into(), ..recipe() };
        assert!(odd.parameters().contains(r#", Model: "C:\\a, b.gguf", "#));
        assert!(odd.parameters().starts_with("nul \u{fffd} <"));
    }
}
