//! Encoders from files: the weights, and the tokenizer that belongs to them.

use super::{Clip, Encoder, Family, Kind, LanguageModel, T5, Tokenizer};
use crate::{
    error::{Result, bail},
    weights::Weights,
};
use std::path::{Path, PathBuf};

impl Encoder<Clip> {
    /// CLIP in a file or folder. `tokenizer`: the folder of its tokenizer; without, it is looked for with the weights, and
    /// where diffusers' pipelines have it (`tokenizer` beside `text_encoder`).
    ///
    /// # Errors
    /// `NotFound` if there are no weights or no tokenizer, `Weights` if they are damaged or of something else, `Io`.
    pub fn open(weights: &Path, tokenizer: Option<&Path>) -> Result<Self> {
        let (found, json) = open(weights)?;
        Ok(Self { model: Clip::new(&found, json.as_deref())?, tokenizer: find(Kind::Clip, weights, tokenizer)? })
    }
}

impl Encoder<T5> {
    /// T5 in a file or folder, as for CLIP.
    ///
    /// # Errors
    /// Those for CLIP.
    pub fn open(weights: &Path, tokenizer: Option<&Path>) -> Result<Self> {
        let (found, json) = open(weights)?;
        Ok(Self { model: T5::new(&found, json.as_deref())?, tokenizer: find(Kind::T5, weights, tokenizer)? })
    }
}

impl Encoder<LanguageModel> {
    /// Qwen3 or Mistral in a file or folder, as for CLIP.
    ///
    /// # Errors
    /// Those for CLIP.
    pub fn open(weights: &Path, tokenizer: Option<&Path>) -> Result<Self> {
        let (found, json) = open(weights)?;
        let model = LanguageModel::new(&found, json.as_deref(), None)?;
        let kind = match model.config.family {
            Family::Qwen3 => Kind::Qwen3,
            Family::Mistral => Kind::Mistral,
        };
        Ok(Self { model, tokenizer: find(kind, weights, tokenizer)? })
    }
}

fn open(path: &Path) -> Result<(Weights, Option<String>)> {
    // Beside a single file may lie the config of another part of a pipeline.
    let is_ours = |json: &str| {
        let json: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        ["vocab_size", "text_config"].iter().any(|key| !json[key].is_null())
    };
    Weights::open_with_config(path, is_ours)
}

/// The tokenizer in `given`, or else in the first likely folder that has one.
fn find(kind: Kind, weights: &Path, given: Option<&Path>) -> Result<Tokenizer> {
    if let Some(folder) = given {
        return Tokenizer::open(kind, folder);
    }
    let folder = if weights.is_dir() { weights } else { weights.parent().unwrap_or(Path::new("")) };
    let mut likely: Vec<PathBuf> = vec![folder.to_owned()];
    let name = folder.file_name().and_then(|name| name.to_str());
    if let Some(number) = name.and_then(|name| name.strip_prefix("text_encoder")) {
        likely.push(folder.with_file_name(format!("tokenizer{number}")));
    }
    match likely.iter().find(|folder| Tokenizer::is_in(folder)) {
        Some(folder) => Tokenizer::open(kind, folder),
        None => bail!(
            NotFound,
            "no tokenizer for the {kind:?} encoder '{}': there is none in {}. Name the folder with its {}",
            weights.display(),
            likely.iter().map(|folder| format!("'{}'", folder.display())).collect::<Vec<_>>().join(" or "),
            match kind {
                Kind::Clip => "vocab.json and merges.txt (of openai/clip-vit-large-patch14, for one)",
                Kind::T5 => "tokenizer.json (tokenizer_2 of a FLUX.1 model)",
                Kind::Qwen3 => "tokenizer.json (of Qwen/Qwen3-4B, or the tokenizer of a FLUX.2 klein)",
                Kind::Mistral => "tokenizer.json (the tokenizer of FLUX.2 dev)",
            }
        ),
    }
}
