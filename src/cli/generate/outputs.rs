//! The files that `generate` writes.

use super::super::{
    failure::Outcome,
    pattern::{self, Pattern},
    terminal::Terminal,
};
use clap::ValueEnum;
use impasto::{
    Error, ErrorKind, Result,
    error::IntoError,
    image::{
        Picture,
        output::{self, Format},
    },
    models::flux::{
        pipeline::{Embeddings, Made, Prompts},
        sampling::{Recipe, Size},
    },
};
use safetensors::{Dtype, tensor::TensorView};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct Outputs {
    /// The picture; {seed} in it is the seed. Several pictures are numbered: fox.0.png, fox.1.png
    #[arg(short, long, value_name = "PATTERN", default_value = "impasto-{seed}.png")]
    out: String,
    /// The format, where PATTERN's extension does not say it
    #[arg(long, value_name = "FORMAT")]
    format: Option<FileFormat>,
    /// A small picture of what it is going to be, anew after every step: a file, or `terminal` for one that shows pictures
    #[arg(long, value_name = "FILE|terminal", value_parser = preview)]
    pub(super) preview: Option<PreviewTo>,
    /// Say what the run would take (memory part by part, work), and end
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print JSON on stdout, and nothing else
    #[arg(long)]
    pub(super) json: bool,
    /// Raw tensors, f32: prompt_embeds, pooled_prompt_embeds, latents_init, latents_step_N (after step N, from 0), latents
    /// (N, TOKENS, FEATURES), image (N, 3, HEIGHT, WIDTH) from 0 to 1
    #[arg(long, value_name = "FILE.safetensors")]
    save_tensors: Option<PathBuf>,
}

/// Where previews are shown.
#[derive(Debug, Clone)]
pub(super) enum PreviewTo {
    File(PathBuf),
    Terminal(Terminal),
}

fn preview(text: &str) -> Result<PreviewTo, String> {
    match text {
        "terminal" => Terminal::of_stderr().map(PreviewTo::Terminal),
        file => Ok(PreviewTo::File(file.into())),
    }
}

impl PreviewTo {
    /// Shows how picture `index` is expected to become after a step, over what was shown after the step before.
    ///
    /// # Errors
    /// Those of writing it.
    pub(super) fn show(&self, picture: &Picture, index: usize, step: usize) -> Result<()> {
        match self {
            Self::File(path) => output::save_picture(path, picture),
            Self::Terminal(terminal) => terminal.show(picture, index, step == 0),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    Png,
    Jpeg,
    Webp,
}

impl FileFormat {
    fn is(self, format: Format) -> bool {
        format == [Format::Png, Format::Jpeg, Format::WebP][self as usize]
    }

    fn extension(self) -> &'static str {
        ["png", "jpg", "webp"][self as usize]
    }
}

impl Outputs {
    /// The files of `images` pictures.
    ///
    /// # Errors
    /// `Argument` if the extension is none, or not that of `--format`.
    pub(super) fn pictures(&self, seed: u64, images: usize) -> Result<Vec<PathBuf>> {
        let mut pattern = self.out.replace("{seed}", &seed.to_string());
        if let (Some(format), None) = (self.format, Path::new(&pattern).extension()) {
            pattern = format!("{pattern}.{}", format.extension());
        }
        let found = Format::of(Path::new(&pattern))?;
        if let Some(format) = self.format.filter(|format| !format.is(found)) {
            let message = format!("--out {pattern} is not a name for --format {}", format.extension());
            return Err(Error::new(ErrorKind::Argument, message));
        }
        let pattern = Pattern::from(pattern.as_str());
        Ok((0..images).map(|i| pattern.path("", if images > 1 { vec![i] } else { vec![] }.as_slice())).collect())
    }

    /// Finds out before the work whether all files can be written.
    pub(super) fn check(&self, inputs: &[PathBuf], pictures: Vec<PathBuf>) -> Outcome {
        let preview = match &self.preview {
            Some(PreviewTo::File(path)) => Some(path),
            Some(PreviewTo::Terminal(_)) | None => None,
        };
        if let Some(path) = preview {
            Format::of(path)?;
        }
        let more = preview.into_iter().chain(&self.save_tensors).cloned();
        pattern::check(inputs, pictures.into_iter().chain(more))
    }

    /// Writes a picture with its recipe.
    pub(super) fn write(path: &Path, picture: &Picture, recipe: &Recipe) -> Result<()> {
        let metadata = recipe.metadata();
        let bytes = match Format::of(path)? {
            Format::Png => metadata.png(picture)?,
            Format::Jpeg => metadata.jpeg(picture)?,
            Format::WebP => metadata.webp(picture)?,
        };
        output::write(path, &bytes)
    }

    /// Writes `--save-tensors`.
    pub(super) fn write_tensors(&self, prompts: &Prompts, made: &Made, size: Size) -> Result<()> {
        let Some(path) = &self.save_tensors else { return Ok(()) };
        let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
        let sides = [("", Some(&prompts.prompt)), ("negative_", prompts.negative.as_ref())];
        for (prefix, e) in sides {
            let Some(Embeddings { prompt, tokens, width, pooled }) = e else { continue };
            tensors.push((format!("{prefix}prompt_embeds"), vec![1, *tokens, *width], prompt.clone()));
            if let Some(pooled) = pooled {
                tensors.push((format!("{prefix}pooled_prompt_embeds"), vec![1, pooled.len()], pooled.clone()));
            }
        }
        let (n, tokens) = (made.images.len(), size.tokens());
        let features = made.init.first().map_or(0, Vec::len) / tokens;
        let mut latents = |name: String, of: &dyn Fn(usize) -> Vec<f32>| {
            tensors.push((name, vec![n, tokens, features], (0..n).flat_map(of).collect()));
        };
        latents("latents_init".into(), &|i| made.init[i].clone());
        let steps = made.steps.first().map_or(0, Vec::len);
        for step in 0..steps {
            latents(format!("latents_step_{step}"), &|i| made.steps[i][step].clone());
        }
        latents("latents".into(), &|i| made.steps[i][steps - 1].clone());
        let planes = |image: &Vec<f32>| -> Vec<f32> {
            (0..3).flat_map(|c| image.iter().skip(c).step_by(3).copied().collect::<Vec<f32>>()).collect()
        };
        let image = made.images.iter().flat_map(planes).collect();
        tensors.push(("image".into(), vec![n, 3, size.height(), size.width()], image));
        let views = tensors.iter().map(|(name, shape, values)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values))?))
        });
        let bytes = views
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .and_then(|views| safetensors::serialize(views, None))
            .error(ErrorKind::Internal, || "cannot serialise tensors")?;
        output::write(path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(out: &str, format: Option<FileFormat>) -> Outputs {
        Outputs { out: out.into(), format, preview: None, dry_run: false, json: false, save_tensors: None }
    }

    #[test]
    fn pictures_have_names() {
        let names = |out: &str, format, images| outputs(out, format).pictures(7, images);
        assert_eq!(names("impasto-{seed}.png", None, 1).unwrap(), [Path::new("impasto-7.png")]);
        assert_eq!(names("a/fox.webp", None, 2).unwrap(), [Path::new("a/fox.0.webp"), Path::new("a/fox.1.webp")]);
        assert_eq!(names("fox", Some(FileFormat::Jpeg), 1).unwrap(), [Path::new("fox.jpg")]);
        assert!(names("fox.jpeg", Some(FileFormat::Jpeg), 1).is_ok());
        for (out, format) in [("fox", None), ("fox.png", Some(FileFormat::Webp)), ("fox.gif", None)] {
            assert_eq!(names(out, format, 1).unwrap_err().kind(), ErrorKind::Argument, "{out}");
        }
    }
}
