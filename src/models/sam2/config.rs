//! [`Config`]: what distinguishes one SAM 2 from another, and the four released sizes.
//!
//! Source: `sam2/configs/sam2/*.yaml` and `sam2.1/*.yaml` of `facebookresearch/sam2`, and the constructor defaults
//! of the classes that they name.

use std::{borrow::Cow, fmt};

/// SAM 2.0 or 2.1. The image path is the same; 2.1 adds tensors to the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Released July 2024.
    V2_0,
    /// Released September 2024.
    V2_1,
}

/// A SAM 2 model's sizes and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The version, unless the checkpoint holds the image path only, where the two do not differ.
    pub version: Option<Version>,
    /// Side of the square picture that the model was made for, in pixels.
    pub image_size: usize,
    /// The image encoder's trunk.
    pub hiera: Hiera,
    /// Channels of the image embedding, of prompt tokens and of the mask decoder.
    pub hidden: usize,
    /// Channels between the second and third convolution of a mask prompt.
    pub mask_channels: usize,
    /// The mask decoder.
    pub decoder: Decoder,
    /// Memory attention and memory encoder, if the checkpoint has them.
    pub memory: Option<Memory>,
}

/// The Hiera trunk: four stages, each at half the resolution of the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Hiera {
    /// Channels of each stage.
    pub dims: [usize; 4],
    /// Attention heads of each stage.
    pub heads: [usize; 4],
    /// Blocks of each stage.
    pub blocks: [usize; 4],
    /// Window side of each stage, in tokens of that stage (`window_spec`). The first block of a stage still uses the
    /// window of the stage before.
    pub windows: [usize; 4],
    /// Blocks, counted over all stages, that attend globally.
    pub global_blocks: Cow<'static, [usize]>,
    /// Height and width of the background position embedding (`window_pos_embed_bkg_spatial_size`).
    pub background: [usize; 2],
    /// Width of a block's MLP over its channels.
    pub mlp_ratio: usize,
}

/// The mask decoder and its two-way transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoder {
    /// Two-way blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP.
    pub mlp_dim: usize,
    /// By how much cross attention is narrower than `hidden`.
    pub attention_downsample: usize,
    /// Masks of a multimask answer; one more token predicts the single mask.
    pub multimask_outputs: usize,
    /// Width of the IoU head.
    pub iou_hidden: usize,
    /// Whether a single mask that is unstable gives way to the best of the multimask ones (builder behaviour).
    pub dynamic_multimask: bool,
    /// The logits around 0 between which stability is measured (`dynamic_multimask_stability_delta`).
    pub stability_delta: f32,
    /// The stability below which a mask gives way (`dynamic_multimask_stability_thresh`).
    pub stability_threshold: f32,
}

/// Memory attention, memory encoder and object pointers.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// Channels of a memory (`mem_dim`).
    pub dim: usize,
    /// Memories that are attended to: one conditioning slot and recent frames (`num_maskmem`).
    pub slots: usize,
    /// Memory attention layers.
    pub layers: usize,
    /// Memory attention heads.
    pub heads: usize,
    /// Width of the feed-forward of memory attention.
    pub mlp_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Blocks of the memory encoder's fuser.
    pub fuser_layers: usize,
    /// Inner width of a fuser block.
    pub fuser_dim: usize,
    /// Object pointers that are attended to (`max_obj_ptrs_in_encoder`).
    pub pointers: usize,
    /// Conditioning frames that are attended to, unless all are (`max_cond_frames_in_attn`).
    pub max_cond_frames: Option<usize>,
    /// Mask probabilities are multiplied by this before the memory encoder,
    pub sigmoid_scale: f32,
    /// and this is added.
    pub sigmoid_bias: f32,
    /// Tracking asks for several masks and keeps the best (`multimask_output_for_tracking`).
    pub multimask_for_tracking: bool,
    /// Least and most points with which a frame asks for several masks.
    pub multimask_points: (usize, usize),
}

impl Config {
    /// The name of the released size that this is, if it is one, whatever the version.
    pub fn size_name(&self) -> Option<&'static str> {
        let same = |size: &Config| {
            self.image_size == size.image_size && self.hiera == size.hiera && self.hidden == size.hidden
        };
        SIZES.iter().find(|(_, size)| same(size)).map(|(name, _)| *name)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.version {
            Some(Version::V2_0) => "SAM 2.0",
            Some(Version::V2_1) => "SAM 2.1",
            None => "SAM 2 (image path)",
        })?;
        match self.size_name() {
            Some(name) => write!(f, " {name}"),
            None => write!(
                f,
                " of {:?} channels and {:?} blocks, hidden {}, for {} px",
                self.hiera.dims, self.hiera.blocks, self.hidden, self.image_size
            ),
        }
    }
}

/// The released sizes and their names.
pub const SIZES: [(&str, Config); 4] =
    [("hiera-tiny", TINY), ("hiera-small", SMALL), ("hiera-base-plus", BASE_PLUS), ("hiera-large", LARGE)];

/// `sam2.1_hiera_t.yaml`
pub const TINY: Config = size(96, 1, [1, 2, 7, 2], [8, 4, 14, 7], &[5, 7, 9], [7, 7]);
/// `sam2.1_hiera_s.yaml`
pub const SMALL: Config = size(96, 1, [1, 2, 11, 2], [8, 4, 14, 7], &[7, 10, 13], [7, 7]);
/// `sam2.1_hiera_b+.yaml`
pub const BASE_PLUS: Config = size(112, 2, [2, 3, 16, 3], [8, 4, 14, 7], &[12, 16, 20], [14, 14]);
/// `sam2.1_hiera_l.yaml`
pub const LARGE: Config = size(144, 2, [2, 6, 36, 4], [8, 4, 16, 8], &[23, 33, 43], [7, 7]);

/// A released size: all that the yaml files have in common, with what they differ in.
const fn size(
    dim: usize,
    heads: usize,
    blocks: [usize; 4],
    windows: [usize; 4],
    global_blocks: &'static [usize],
    background: [usize; 2],
) -> Config {
    Config {
        version: Some(Version::V2_1),
        image_size: 1024,
        hiera: Hiera {
            dims: [dim, 2 * dim, 4 * dim, 8 * dim],
            heads: [heads, 2 * heads, 4 * heads, 8 * heads],
            blocks,
            windows,
            global_blocks: Cow::Borrowed(global_blocks),
            background,
            mlp_ratio: 4,
        },
        hidden: 256,
        mask_channels: 16,
        decoder: Decoder {
            layers: 2,
            heads: 8,
            mlp_dim: 2048,
            attention_downsample: 2,
            multimask_outputs: 3,
            iou_hidden: 256,
            dynamic_multimask: true,
            stability_delta: 0.05,
            stability_threshold: 0.98,
        },
        memory: Some(Memory {
            dim: 64,
            slots: 7,
            layers: 4,
            heads: 1,
            mlp_dim: 2048,
            rope_theta: 10_000.0,
            fuser_layers: 2,
            fuser_dim: 1024,
            pointers: 16,
            max_cond_frames: None,
            sigmoid_scale: 20.0,
            sigmoid_bias: -10.0,
            multimask_for_tracking: true,
            multimask_points: (0, 1),
        }),
    }
}
