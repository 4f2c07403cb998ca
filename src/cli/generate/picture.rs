//! What picture: its size, its steps, where it begins.

use super::super::failure::{Failure, Outcome};
use super::model::open_tensors;
use impasto::{
    Error, ErrorKind, Result,
    image::{Picture, resize},
    models::flux::{
        Version,
        pipeline::{Model, Options, Start},
        sampling::{Profile, Shift, Size},
    },
    text::MOST_TOKENS,
};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Picture")]
pub(super) struct PictureArgs {
    /// Pixels in a row, a multiple of 16 [default: the model's: 1024, or those of --image, rounded down]
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    /// Rows of pixels, a multiple of 16 [default: as --width's]
    #[arg(long, value_name = "N")]
    height: Option<usize>,
    /// Steps [default: the model's: 4 for schnell and klein, 28 for dev, 50 for klein's base models]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// The strength of guidance that a model embeds; for klein the same as --true-cfg [default: 3.5 for FLUX.1 dev, 4 for
    /// FLUX.2 dev]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// What is not to be seen: takes --true-cfg, and each step twice the time
    #[arg(long, value_name = "TEXT")]
    pub(super) negative: Option<String>,
    /// The scale of classifier-free guidance; 1 is off [default: 4 for klein's base models, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(super) true_cfg: Option<f32>,
    /// Tokens that a prompt is padded or cut to, at most 512 [default: 256 for schnell, else 512]
    #[arg(long, value_name = "N")]
    pub(super) max_sequence_length: Option<usize>,
    /// Where the noise begins
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Pictures of one prompt
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 1)]
    pub(super) count: usize,
    /// Begin with this picture (PNG, JPEG, WebP), resized to the size that is made
    #[arg(long, value_name = "PIC")]
    pub(super) image: Option<PathBuf>,
    /// How much of --image is replaced, 0 to 1: the share of the steps that are taken
    #[arg(long, value_name = "X", default_value_t = 0.6, requires = "image", allow_negative_numbers = true)]
    strength: f64,
    /// Noise levels as Black Forest Labs and diffusers have them, or as ComfyUI
    #[arg(long, value_name = "bfl|comfy", default_value = "bfl", value_parser = shift)]
    pub(super) schedule: Shift,
    /// Whose pictures a seed gives: diffusers, diffusers-bf16, comfy or bfl
    #[arg(long, value_name = "NAME", default_value = "diffusers", value_parser = profile)]
    pub(super) noise: Profile,
    /// Begin with these latents in place of noise (with --image: in place of picture and noise): safetensors with
    /// `latents`, (N, TOKENS, FEATURES)
    #[arg(long, value_name = "FILE")]
    pub(super) init_latents: Option<PathBuf>,
}

fn shift(text: &str) -> Result<Shift, String> {
    Shift::from_name(text).map_err(|e| e.to_string())
}

fn profile(text: &str) -> Result<Profile, String> {
    Profile::from_name(text).map_err(|e| e.to_string())
}

/// Pixels above which no model was trained.
const MANY: usize = 4 << 20;

impl PictureArgs {
    /// What can be found out without a model.
    pub(super) fn check(&self) -> Outcome {
        if self.steps == Some(0) {
            return Err(Error::new(ErrorKind::Argument, "0 steps: a picture takes at least one").into());
        }
        if self.count == 0 {
            return Err(Failure::Usage("-n 0: ask for at least one picture".into()));
        }
        if let Some(n) = self.max_sequence_length.filter(|n| !(1..=MOST_TOKENS).contains(n)) {
            let message = format!("--max-sequence-length {n}: FLUX reads 1 to {MOST_TOKENS} tokens");
            return Err(Error::new(ErrorKind::Argument, message).into());
        }
        for side in [self.width, self.height].into_iter().flatten() {
            Size::exact(side, 16)?;
        }
        Ok(())
    }

    /// For `model`, with the picture to begin with.
    pub(super) fn options(&self, model: &Model, picture: Option<Picture>) -> Outcome<Options> {
        let (width, height) = match &picture {
            Some(p) => (p.width() / 16 * 16, p.height() / 16 * 16),
            None => (model.defaults.side, model.defaults.side),
        };
        let size = Size::exact(self.width.unwrap_or(width), self.height.unwrap_or(height))?;
        if size.width() * size.height() > MANY {
            tracing::warn!("{}x{}: above 4 megapixels, which no model was trained for", size.width(), size.height());
        }
        let (steps, guidance, true_cfg) = (self.steps, self.guidance, self.true_cfg);
        let (shift, seed, images, profile) = (self.schedule, self.seed, self.count, self.noise);
        let start = picture.map(|p| resize::lanczos(&p, size.width(), size.height())).transpose()?;
        let start = start.map(|picture| Start { picture, strength: self.strength, mask: None });
        let init_latents = self.init_latents.as_ref().map(|path| latents(path, model, size)).transpose()?;
        let more = Options::new(size);
        Ok(Options { steps, guidance, true_cfg, shift, seed, images, profile, start, init_latents, ..more })
    }

    /// How much of `--image` is replaced, if there is one.
    pub(super) fn strength(&self) -> Option<f64> {
        self.image.as_ref().map(|_| self.strength)
    }
}

/// `latents` of a file as tokens: `(n, tokens, features)`, or as FLUX.2 draws them, `(n, features, rows, columns)`.
fn latents(path: &std::path::Path, model: &Model, size: Size) -> Outcome<Vec<f32>> {
    let file = open_tensors(path, "--init-latents")?;
    let tensor = file.tensor("latents")?;
    let (values, shape) = (tensor.to_f32()?, tensor.shape().to_vec());
    let features = model.config.out_channels;
    let tokens = size.tokens();
    match shape[..] {
        [_, t, f] if (t, f) == (tokens, features) => Ok(values),
        [_, f, rows, columns]
            if model.config.version == Version::Flux2
                && (f, rows, columns) == (features, size.rows(), size.columns()) =>
        {
            let picture = |v: &[f32]| (0..tokens * f).map(|i| v[i % f * tokens + i / f]).collect::<Vec<f32>>();
            Ok(values.chunks(tokens * f).flat_map(picture).collect())
        }
        _ => {
            let (w, h) = (size.width(), size.height());
            let message =
                format!("{}: latents {shape:?}; a picture of {w}x{h} takes (N, {tokens}, {features})", path.display());
            Err(Error::new(ErrorKind::Argument, message).into())
        }
    }
}
