//! How objects are followed.

use crate::cli::{failure::Outcome, prompts::usage};
use clap::ValueEnum;
use impasto::models::sam2::{
    self,
    video::{
        MaskPrompts, Options,
        clip::{Course, Direction, Preprocess},
    },
};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How to follow")]
pub(super) struct Settings {
    /// From the last prompted frame to the beginning
    #[arg(long, conflicts_with = "both")]
    reverse: bool,
    /// From the first prompted frame to the end, and then from there to the beginning; implies --prompts-first
    #[arg(long)]
    both: bool,
    /// The first frame that is looked at
    #[arg(long, value_name = "FRAME", default_value_t = 0)]
    from: usize,
    /// The last one
    #[arg(long, value_name = "FRAME")]
    to: Option<usize>,
    /// Give all prompts before any frame is followed, as scripts of the reference do: frames then also attend to prompts behind
    /// them, and no prompt sees what was found on its frame
    #[arg(long)]
    prompts_first: bool,
    /// Fill holes of at most AREA pixels of the low-resolution mask (a quarter of the model's side) [default: by --postprocess]
    #[arg(long, value_name = "AREA")]
    fill_holes: Option<u64>,
    /// How memories are rounded; bf16 is what the model was released with
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    memory_dtype: MemoryType,
    /// Each pixel is of one object at most: the one that is surest of it
    #[arg(long)]
    non_overlap: bool,
    /// Take memories of every so many frames
    #[arg(long, value_name = "N", default_value_t = 1)]
    stride: usize,
    /// Attend to at most N prompted frames, the closest [default: the model's, which is all]
    #[arg(long, value_name = "N")]
    pub(super) max_cond_frames: Option<usize>,
    /// How frames become what the encoder sees. Both implementations squash them to its square
    #[arg(long, value_name = "AS", default_value = "transformers")]
    preprocess: Resize,
    /// What becomes of --mask
    #[arg(long, value_name = "AS", default_value = "transformers")]
    mask_prompts: MaskPromptsAs,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum MemoryType {
    Bf16,
    F32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Resize {
    /// Bilinear with antialiasing, in f32: transformers, and both with single pictures
    Transformers,
    /// Pillow's bicubic, in 8 bits: the official package with folders of pictures
    Official,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MaskPromptsAs {
    /// The memory is made of the mask as it is
    Transformers,
    /// Of the mask at a quarter of the model's side
    Official,
}

impl Settings {
    pub(super) fn check(&self) -> Outcome {
        usage(self.stride > 0, || "--stride takes a number from 1 on".into())?;
        usage(self.max_cond_frames.is_none_or(|n| n >= 2), || "--max-cond-frames takes a number from 2 on".into())?;
        usage(self.to.is_none_or(|to| self.from <= to), || "--from lies behind --to".into())
    }

    pub(super) fn course(&self) -> Course {
        Course {
            direction: match (self.reverse, self.both) {
                (true, _) => Direction::Reverse,
                (_, true) => Direction::Both,
                _ => Direction::Forward,
            },
            from: self.from,
            to: self.to,
            prompts_first: self.prompts_first,
            preprocess: match self.preprocess {
                Resize::Transformers => Preprocess::Transformers,
                Resize::Official => Preprocess::Official,
            },
            after: None,
        }
    }

    /// `frames`: of the clip, if that is known.
    pub(super) fn options(&self, model: &sam2::Options, frames: Option<usize>) -> Options {
        Options {
            image_size: model.image_size,
            storage: model.storage,
            behaviour: model.behaviour,
            hole_area: self.fill_holes,
            bf16: self.memory_dtype == MemoryType::Bf16,
            mask_prompts: match self.mask_prompts {
                MaskPromptsAs::Transformers => MaskPrompts::Transformers,
                MaskPromptsAs::Official => MaskPrompts::Official,
            },
            stride: self.stride,
            frames,
            non_overlap: self.non_overlap,
            max_bytes: model.max_bytes,
            ..Options::default()
        }
    }
}
