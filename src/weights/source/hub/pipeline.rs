//! The files of a pipeline as diffusers saves one: a folder for each part, and `model_index.json` that names them.

use super::{is_file_name, shards};
use std::path::Path;

/// What makes a repository a pipeline.
pub(super) const MODEL_INDEX: &str = "model_index.json";

/// The parts of FLUX. What else a pipeline has (a checker, a feature extractor) is not fetched.
const PARTS: [&str; 7] =
    ["scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "transformer", "vae"];

/// The names of weights and of their indices, the ones to be preferred first.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
];

/// The files to fetch of those a repository has: of each part its small files, and its weights or their index.
pub(super) fn choose(files: &[String]) -> Vec<&str> {
    let mut chosen = vec![MODEL_INDEX];
    for part in PARTS {
        let inside = |file: &'_ String| -> bool {
            file.strip_prefix(part).and_then(|rest| rest.strip_prefix('/')).is_some_and(is_file_name)
        };
        let small = |file: &&String| {
            let ending = [".json", ".txt", ".model"].iter().any(|ending| file.ends_with(ending));
            inside(file) && ending && !file.ends_with(".safetensors.index.json")
        };
        chosen.extend(files.iter().filter(small).map(String::as_str));
        let weights = WEIGHTS.iter().find_map(|name| files.iter().find(|file| **file == format!("{part}/{name}")));
        chosen.extend(weights.map(String::as_str));
    }
    chosen
}

/// Whether the folder of a snapshot has every part that its index names, with whole weights.
pub(super) fn is_whole(folder: &Path) -> bool {
    let text = std::fs::read(folder.join(MODEL_INDEX)).unwrap_or_default();
    let Ok(index) = serde_json::from_slice::<serde_json::Value>(&text) else { return false };
    // A part is [library, class]; [null, null] where the pipeline has none.
    let named = PARTS.into_iter().filter(|part| index[*part][1].is_string());
    let has_weights = |part: &str| {
        let file = |name: &str| folder.join(part).join(name);
        WEIGHTS.iter().any(|name| match name.ends_with(".index.json") {
            false => file(name).is_file(),
            true => shards(&file(name)).is_ok_and(|all| all.iter().all(|shard| file(shard).is_file())),
        })
    };
    index.is_object()
        && named.into_iter().all(|part| match part {
            "scheduler" | "tokenizer" | "tokenizer_2" => folder.join(part).is_dir(),
            _ => has_weights(part),
        })
}
