//! How a session is built.

use crate::{models::sam2::predictor::Behaviour, nn::Storage};

/// How to build a [`Session`](super::Session).
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Pixels along the side of the square that the encoder sees; the model's own when `None`. A multiple of 32.
    pub image_size: Option<usize>,
    /// How matrices are kept on the device.
    pub storage: Storage,
    /// Builder or raw: `build_sam2_video_predictor` also cuts masks of prompted frames at 0 before they are remembered, and fills
    /// holes of up to 8 pixels.
    pub behaviour: Behaviour,
    /// Fill background regions of at most this many low-resolution pixels; by the behaviour when `None`.
    pub hole_area: Option<u64>,
    /// Round memories to bfloat16, as both official implementations do.
    pub bf16: bool,
    /// A prompt on a frame that was tracked before makes it a conditioning frame, and so is never overwritten
    /// (`add_all_frames_to_correct_as_cond`, which the reference leaves off: it tracks the frame anew and forgets the prompt).
    pub corrections_condition: bool,
    /// Which implementation a mask prompt follows.
    pub mask_prompts: MaskPrompts,
    /// Take memories of every so many frames (`memory_temporal_stride_for_eval`).
    pub stride: usize,
    /// Frames of the clip. The reference's object pointers depend on it in clips of fewer than 16; a stream has no length.
    pub frames: Option<usize>,
    /// Where objects overlap on a tracked frame, only the one with the highest logit has the pixel (`non_overlap_masks`). This is
    /// for [`Tracked::logits`](super::Tracked::logits) and [`Tracked::mask`](super::Tracked::mask), at the frame's size: what is
    /// remembered is not changed.
    pub non_overlap: bool,
    /// Keep memories of at least so many frames around the present one, for corrections there. Fewer than later frames can
    /// attend to, 15 as a rule, are never kept. On the host each costs the bytes of a memory an object, 1 MiB at 1024 pixels, and
    /// of a mask, 256 KiB; on the device there are only those that are attended to.
    pub kept_frames: usize,
    /// Refuse plans that need more bytes on the device than this, weights included.
    pub max_bytes: Option<u64>,
}

/// What becomes of a mask prompt: here the two implementations differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaskPrompts {
    /// As transformers: the memory is made from the mask as it was given, the object pointer is that of the best of three masks.
    #[default]
    Transformers,
    /// As the official package: from the mask at a quarter of the side, and that of the single mask.
    Official,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image_size: None,
            storage: Storage::default(),
            behaviour: Behaviour::default(),
            hole_area: None,
            bf16: true,
            corrections_condition: true,
            mask_prompts: MaskPrompts::default(),
            stride: 1,
            frames: None,
            non_overlap: false,
            kept_frames: 0,
            max_bytes: None,
        }
    }
}

impl Options {
    pub(super) fn holes(&self) -> u64 {
        self.hole_area.unwrap_or(if self.cuts_prompted_masks() { 8 } else { 0 })
    }

    pub(super) fn cuts_prompted_masks(&self) -> bool {
        self.behaviour == Behaviour::Builder
    }
}
