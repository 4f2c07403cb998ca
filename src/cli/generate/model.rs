//! Which model, from which files, and how it is kept.

use super::super::{
    failure::{Failure, Outcome},
    global::{Global, bytes},
    progress::Progress,
};
use clap::ValueEnum;
use impasto::{
    Error, ErrorKind,
    models::flux::{
        self,
        lora::{Lora, Modules},
        pipeline::{Locations, Model},
        sampling::AppliedLora,
    },
    nn::Storage,
    weights::{HostDType, Weights, source},
};
use std::path::{Path, PathBuf};

/// What `generate` uses when nothing else is said.
const DEFAULT_MODEL: &str = "black-forest-labs/FLUX.2-klein-4B";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelArgs {
    /// `mini`, a folder of diffusers, a Hugging Face id, or a file with the transformer
    #[arg(short, long, default_value = DEFAULT_MODEL, hide_default_value = true,
        help = format!("`mini`, a folder of diffusers, a transformer's file, or a Hugging Face id [default: {DEFAULT_MODEL}]"))]
    pub(super) model: String,
    /// The transformer: safetensors of any layout, or GGUF
    #[arg(long, value_name = "FILE|DIR")]
    transformer: Option<PathBuf>,
    /// The autoencoder
    #[arg(long, value_name = "FILE|DIR")]
    vae: Option<PathBuf>,
    /// The text encoder: CLIP for FLUX.1, Qwen3 or Mistral for FLUX.2
    #[arg(long, value_name = "FILE|DIR")]
    text_encoder: Option<PathBuf>,
    /// The second text encoder: T5, for FLUX.1
    #[arg(long, value_name = "FILE|DIR")]
    text_encoder_2: Option<PathBuf>,
    /// The text encoder's tokenizer: tokenizer.json, or a folder with it
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: Option<PathBuf>,
    /// The second text encoder's tokenizer
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer_2: Option<PathBuf>,
    /// A LoRA and its strength, 1 if none is said; may be repeated
    #[arg(long, value_name = "FILE[:STRENGTH]", value_parser = lora)]
    lora: Vec<LoraFile>,
    /// Keep the transformer's matrices as f32, f16, or blocks of 8 or 4 bits; by default as they are in the file, bf16 as
    /// f16
    #[arg(long, value_name = "TYPE")]
    quantize: Option<Quantize>,
    /// Use at most so much of the GPU's memory: 6GiB, 900MB; by default all there is, and less after an out-of-memory error
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(super) max_vram: Option<u64>,
}

/// A value of `--lora`.
#[derive(Debug, Clone, PartialEq)]
struct LoraFile {
    path: PathBuf,
    strength: f32,
}

fn lora(text: &str) -> Result<LoraFile, String> {
    // A colon may also be a drive's.
    if let Some((path, strength)) = text.rsplit_once(':')
        && let Ok(strength) = strength.parse::<f32>()
    {
        return match strength.is_finite() && !path.is_empty() {
            true => Ok(LoraFile { path: path.into(), strength }),
            false => Err("expected FILE or FILE:STRENGTH".into()),
        };
    }
    Ok(LoraFile { path: text.into(), strength: 1.0 })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Quantize {
    F32,
    F16,
    Q8,
    Q4,
}

impl ModelArgs {
    /// Opens the files, and checks that they belong together.
    pub(super) fn open(&self, global: &Global, progress: &Progress) -> Outcome<Model> {
        progress.stage(format!("opening {}", self.model));
        if self.model == "mini" {
            let parts = [&self.transformer, &self.vae, &self.text_encoder, &self.text_encoder_2];
            if parts.into_iter().any(Option::is_some) {
                return Err(Failure::Usage("--model mini is one piece: its parts cannot be replaced".into()));
            }
            return Ok(flux::mini()?);
        }
        // With a transformer's file nothing is fetched that was not asked for.
        let implied = self.transformer.is_some() && self.model == DEFAULT_MODEL;
        let model = match implied {
            true => None,
            false => Some(progress.beside(|| source::resolve_pipeline(&self.model, &global.source_options()))?),
        };
        let locations = Locations {
            model,
            transformer: self.transformer.clone(),
            vae: self.vae.clone(),
            text_encoder: self.text_encoder.clone(),
            text_encoder_2: self.text_encoder_2.clone(),
            tokenizer: self.tokenizer.clone(),
            tokenizer_2: self.tokenizer_2.clone(),
        };
        Ok(Model::open(&locations)?)
    }

    /// What the model is called: by the transformer's file, if one is named.
    pub(super) fn name(&self) -> String {
        match &self.transformer {
            Some(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            None => self.model.clone(),
        }
    }

    /// How the transformer's matrices are kept.
    pub(super) fn storage(&self, model: &Model) -> Storage {
        match self.asked() {
            Storage::AsStored if model.transformer.summary().dtypes.contains_key(&HostDType::BF16) => Storage::F16,
            asked => asked,
        }
    }

    /// What `--quantize` asks for.
    pub(super) fn asked(&self) -> Storage {
        match self.quantize {
            Some(Quantize::F32) => Storage::F32,
            Some(Quantize::F16) => Storage::F16,
            Some(Quantize::Q8) => Storage::Q8,
            Some(Quantize::Q4) => Storage::Q4,
            None => Storage::AsStored,
        }
    }

    /// What `--quantize` says, for the picture's metadata.
    pub(super) fn quantized(&self) -> Option<String> {
        self.quantize.and_then(|q| Some(q.to_possible_value()?.get_name().to_owned()))
    }

    /// The LoRAs for this transformer. Keys that it does not have are told.
    pub(super) fn loras(&self, model: &Model) -> Outcome<Vec<(Lora, f32)>> {
        let modules = Modules::of_config(&model.config);
        let mut loras = Vec::new();
        for file in &self.lora {
            let lora = Lora::resolve(&Weights::open(&file.path)?, &modules)?;
            let skipped = lora.unmatched.len();
            if skipped > 0 {
                let first = lora.unmatched.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
                tracing::warn!("{}: {skipped} keys are for no layer of this model: {first}", file.path.display());
            }
            loras.push((lora, file.strength));
        }
        Ok(loras)
    }

    /// The LoRAs' names, for the picture's metadata.
    pub(super) fn applied(&self) -> Vec<AppliedLora> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.lora.iter().map(|l| AppliedLora { file: name(&l.path), strength: l.strength }).collect()
    }

    /// Every file that is read and must not be written.
    pub(super) fn inputs(&self) -> Vec<PathBuf> {
        let parts = [&self.transformer, &self.vae, &self.text_encoder, &self.text_encoder_2];
        let files = parts.into_iter().flatten().cloned();
        files.chain(self.lora.iter().map(|l| l.path.clone())).filter(|path| path.is_file()).collect()
    }
}

/// The first ten digits of the SHA-256 of the transformer's file, if the Hub's cache tells it: a download is checked
/// against it, and named after it.
pub(super) fn model_hash(model: &Model) -> Option<String> {
    blob_hash(Path::new(model.transformer.origin()))
}

fn blob_hash(file: &Path) -> Option<String> {
    let blob = file.canonicalize().ok()?;
    let name = blob.file_name()?.to_str()?;
    let sha256 = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    (sha256 && blob.parent()?.ends_with("blobs")).then(|| name[..10].to_owned())
}

/// Tensors that the user gives in place of a part's result.
pub(super) fn open_tensors(path: &Path, flag: &str) -> Outcome<Weights> {
    Weights::open(path).map_err(|e: Error| {
        let hint = if e.kind() == ErrorKind::NotFound { "" } else { ": not a safetensors file that can be read" };
        Failure::Error(e.context(format!("{flag}{hint}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hub_s_cache_tells_a_hash() {
        let folder = tempfile::tempdir().unwrap();
        let sha256 = "4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7";
        let hash = |path: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            blob_hash(&path)
        };
        assert_eq!(hash(&format!("blobs/{sha256}")).as_deref(), Some("4610115bb0"));
        // Small files are blobs by another hash; and any file may have such a name.
        assert_eq!(hash(&format!("blobs/{}", &sha256[..40])), None);
        assert_eq!(hash(&format!("models/{sha256}")), None);
        assert_eq!(blob_hash(Path::new("embedded weights")), None);
    }

    #[test]
    fn loras_have_strengths() {
        let of = |text: &str| lora(text).map(|l| (l.path.display().to_string(), l.strength));
        assert_eq!(of("ink.safetensors"), Ok(("ink.safetensors".into(), 1.0)));
        assert_eq!(of("a/ink.safetensors:0.8"), Ok(("a/ink.safetensors".into(), 0.8)));
        assert_eq!(of("a/ink.safetensors:-1"), Ok(("a/ink.safetensors".into(), -1.0)));
        assert_eq!(of("C:\\ink.safetensors"), Ok(("C:\\ink.safetensors".into(), 1.0)));
        assert!(of(":0.5").is_err() && of("ink:inf").is_err());
    }
}
