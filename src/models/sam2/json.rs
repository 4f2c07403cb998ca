//! transformers' `config.json` of `Sam2Model` and `Sam2VideoModel`.
//!
//! A field that is absent has the default of transformers' `Sam2*Config` classes. A field whose value impasto does
//! not implement is an error: a wrong picture would be the alternative.

use super::config::{Config, Decoder, Hiera, Memory, Version};
use crate::error::{ErrorKind, IntoError, Result, bail, ensure};
use serde::Deserialize;
use std::{borrow::Cow, fmt::Debug};

/// The model types that are SAM 2.
const MODEL_TYPES: [&str; 2] = ["sam2", "sam2_video"];

/// Whether `json` is a `config.json` of a SAM 2; `None` if it is not JSON with a model type.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn is_sam2(json: &str) -> Option<bool> {
    #[derive(Deserialize)]
    struct Type {
        model_type: String,
    }
    Some(MODEL_TYPES.contains(&serde_json::from_str::<Type>(json).ok()?.model_type.as_str()))
}

/// The config that `json` describes. `memory` is `None` for the image model, whose file says nothing of it.
///
/// # Errors
/// `Weights` if it is not readable, of another model, or asks for what is not implemented.
pub(super) fn parse(json: &str) -> Result<Config> {
    let top: Top = serde_json::from_str(json).error(ErrorKind::Weights, || "config.json cannot be read")?;
    ensure!(
        MODEL_TYPES.contains(&top.model_type.as_str()),
        Weights,
        "config.json is of a model of type {:?}, not \"sam2\" or \"sam2_video\"",
        top.model_type
    );
    let video = top.model_type == "sam2_video";
    let (vision, prompt, decoder) = (&top.vision_config, &top.prompt_encoder_config, &top.mask_decoder_config);
    let backbone = &vision.backbone_config;
    implemented(&top, video)?;

    let side = backbone.image_size.as_ref().map_or(Ok(1024), |s| s.side("vision_config.backbone_config.image_size"))?;
    agree(
        "vision_config.backbone_config.image_size",
        side,
        &[
            ("prompt_encoder_config.image_size", prompt.image_size.side("prompt_encoder_config.image_size")?),
            ("image_size", if video { top.image_size.side("image_size")? } else { side }),
        ],
    )?;
    let hidden = vision.fpn_hidden_size;
    agree(
        "vision_config.fpn_hidden_size",
        hidden,
        &[
            ("prompt_encoder_config.hidden_size", prompt.hidden_size),
            ("mask_decoder_config.hidden_size", decoder.hidden_size),
        ],
    )?;
    if video {
        agree(
            "vision_config.fpn_hidden_size",
            hidden,
            &[
                ("memory_attention_hidden_size", top.memory_attention_hidden_size),
                ("memory_encoder_hidden_size", top.memory_encoder_hidden_size),
                ("mask_downsampler_embed_dim", top.mask_downsampler_embed_dim),
                ("memory_fuser_embed_dim", top.memory_fuser_embed_dim),
            ],
        )?;
        agree(
            "enable_occlusion_spatial_embedding",
            top.enable_occlusion_spatial_embedding,
            &[(
                "enable_temporal_pos_encoding_for_object_pointers",
                top.enable_temporal_pos_encoding_for_object_pointers,
            )],
        )?;
    }
    let version = if top.enable_occlusion_spatial_embedding { Version::V2_1 } else { Version::V2_0 };
    let config = Config {
        version: video.then_some(version),
        image_size: side,
        hiera: backbone.hiera()?,
        hidden,
        mask_channels: prompt.mask_input_channels,
        decoder: Decoder {
            layers: decoder.num_hidden_layers,
            heads: decoder.num_attention_heads,
            mlp_dim: decoder.mlp_dim,
            attention_downsample: decoder.attention_downsample_rate,
            multimask_outputs: decoder.num_multimask_outputs,
            iou_hidden: decoder.iou_head_hidden_dim,
            dynamic_multimask: decoder.dynamic_multimask_via_stability,
            stability_delta: decoder.dynamic_multimask_stability_delta,
            stability_threshold: decoder.dynamic_multimask_stability_thresh,
        },
        memory: video.then(|| top.memory()),
    };
    if let Some(channels) = &vision.backbone_channel_list {
        let reversed: Vec<usize> = config.hiera.dims.iter().rev().copied().collect();
        agree("vision_config.backbone_channel_list", channels, &[("embed_dim_per_stage reversed", &reversed)])?;
    }
    Ok(config)
}

/// What transformers can be told and impasto cannot.
fn implemented(top: &Top, video: bool) -> Result<()> {
    let (vision, prompt, decoder) = (&top.vision_config, &top.prompt_encoder_config, &top.mask_decoder_config);
    let backbone = &vision.backbone_config;
    let pair = |value: &Option<Sizes>, default: usize| value.as_ref().map_or([default; 2], Sizes::pair);
    only("vision_config.backbone_config.num_channels", &backbone.num_channels, &3)?;
    only("vision_config.backbone_config.patch_kernel_size", &pair(&backbone.patch_kernel_size, 7), &[7, 7])?;
    only("vision_config.backbone_config.patch_stride", &pair(&backbone.patch_stride, 4), &[4, 4])?;
    only("vision_config.backbone_config.patch_padding", &pair(&backbone.patch_padding, 3), &[3, 3])?;
    only("vision_config.backbone_config.query_stride", &pair(&backbone.query_stride, 2), &[2, 2])?;
    only("vision_config.backbone_config.num_query_pool_stages", &backbone.num_query_pool_stages, &3)?;
    only("vision_config.fpn_kernel_size", &vision.fpn_kernel_size, &1)?;
    only("vision_config.fpn_stride", &vision.fpn_stride, &1)?;
    only("vision_config.fpn_padding", &vision.fpn_padding, &0)?;
    let levels = vision.fpn_top_down_levels.clone().unwrap_or(vec![2, 3]);
    only("vision_config.fpn_top_down_levels", &levels, &vec![2, 3])?;
    only("vision_config.num_feature_levels", &vision.num_feature_levels, &3)?;
    only("prompt_encoder_config.patch_size", &prompt.patch_size.pair(), &[16, 16])?;
    only("prompt_encoder_config.num_point_embeddings", &prompt.num_point_embeddings, &4)?;
    only("prompt_encoder_config.scale", &prompt.scale, &1.0)?;
    only("mask_decoder_config.iou_head_depth", &decoder.iou_head_depth, &3)?;
    for (name, act) in [
        ("vision_config.backbone_config", &backbone.hidden_act),
        ("vision_config", &vision.hidden_act),
        ("prompt_encoder_config", &prompt.hidden_act),
        ("mask_decoder_config", &decoder.hidden_act),
    ] {
        only(&format!("{name}.hidden_act"), &act.as_str(), &"gelu")?;
    }
    for (name, eps) in [
        ("vision_config.backbone_config", backbone.layer_norm_eps),
        ("vision_config", vision.layer_norm_eps),
        ("prompt_encoder_config", prompt.layer_norm_eps),
    ] {
        only(&format!("{name}.layer_norm_eps"), &eps, &1e-6)?;
    }
    if video {
        only("memory_attention_downsample_rate", &top.memory_attention_downsample_rate, &1)?;
        only(
            "memory_attention_feed_forward_hidden_act",
            &top.memory_attention_feed_forward_hidden_act.as_str(),
            &"relu",
        )?;
        only("mask_downsampler_kernel_size", &top.mask_downsampler_kernel_size, &3)?;
        only("mask_downsampler_stride", &top.mask_downsampler_stride, &2)?;
        only("mask_downsampler_padding", &top.mask_downsampler_padding, &1)?;
        only("mask_downsampler_total_stride", &top.mask_downsampler_total_stride, &16)?;
        only("memory_fuser_kernel_size", &top.memory_fuser_kernel_size, &7)?;
        only("memory_fuser_padding", &top.memory_fuser_padding, &3)?;
        only("multimask_output_in_sam", &top.multimask_output_in_sam, &true)?;
    }
    Ok(())
}

fn only<T: PartialEq + Debug>(name: &str, said: &T, implemented: &T) -> Result<()> {
    ensure!(said == implemented, Weights, "config.json: {name} is {said:?}; impasto implements {implemented:?} only");
    Ok(())
}

fn agree<T: PartialEq + Debug>(name: &str, value: T, others: &[(&str, T)]) -> Result<()> {
    match others.iter().find(|(_, other)| *other != value) {
        Some((other_name, other)) => {
            bail!(Weights, "config.json contradicts itself: {name} is {value:?}, {other_name} is {other:?}")
        }
        None => Ok(()),
    }
}

/// A number, or one for each axis.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum Sizes {
    One(usize),
    Two([usize; 2]),
}

impl Sizes {
    fn pair(&self) -> [usize; 2] {
        match *self {
            Self::One(n) => [n, n],
            Self::Two(pair) => pair,
        }
    }

    fn side(&self, name: &str) -> Result<usize> {
        let [height, width] = self.pair();
        ensure!(height == width, Weights, "config.json: {name} is {height} x {width}; SAM 2 takes squares");
        Ok(height)
    }
}

/// A struct of `config.json` fields with transformers' defaults.
macro_rules! section {
    ($name:ident { $($field:ident: $type:ty = $default:expr),* $(,)? }) => {
        #[derive(Deserialize)]
        #[serde(default)]
        struct $name { $($field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section!(Top {
    model_type: String = String::new(),
    image_size: Sizes = Sizes::One(1024),
    vision_config: Vision = Vision::default(),
    prompt_encoder_config: Prompt = Prompt::default(),
    mask_decoder_config: MaskDecoder = MaskDecoder::default(),
    num_maskmem: usize = 7,
    sigmoid_scale_for_mem_enc: f32 = 20.0,
    sigmoid_bias_for_mem_enc: f32 = -10.0,
    enable_occlusion_spatial_embedding: bool = true,
    enable_temporal_pos_encoding_for_object_pointers: bool = true,
    multimask_output_in_sam: bool = true,
    multimask_min_pt_num: usize = 0,
    multimask_max_pt_num: usize = 1,
    multimask_output_for_tracking: bool = true,
    max_object_pointers_in_encoder: usize = 16,
    max_cond_frame_num: i64 = -1,
    memory_attention_hidden_size: usize = 256,
    memory_attention_num_layers: usize = 4,
    memory_attention_num_attention_heads: usize = 1,
    memory_attention_downsample_rate: usize = 1,
    memory_attention_feed_forward_hidden_size: usize = 2048,
    memory_attention_feed_forward_hidden_act: String = "relu".to_owned(),
    memory_attention_rope_theta: Option<f32> = None,
    rope_parameters: Option<Rope> = None,
    memory_encoder_hidden_size: usize = 256,
    memory_encoder_output_channels: usize = 64,
    mask_downsampler_embed_dim: usize = 256,
    mask_downsampler_kernel_size: usize = 3,
    mask_downsampler_stride: usize = 2,
    mask_downsampler_padding: usize = 1,
    mask_downsampler_total_stride: usize = 16,
    memory_fuser_num_layers: usize = 2,
    memory_fuser_embed_dim: usize = 256,
    memory_fuser_intermediate_dim: usize = 1024,
    memory_fuser_kernel_size: usize = 7,
    memory_fuser_padding: usize = 3,
});

section!(Rope { rope_theta: f32 = 10_000.0 });

section!(Vision {
    backbone_config: Backbone = Backbone::default(),
    backbone_channel_list: Option<Vec<usize>> = None,
    fpn_hidden_size: usize = 256,
    fpn_kernel_size: usize = 1,
    fpn_stride: usize = 1,
    fpn_padding: usize = 0,
    fpn_top_down_levels: Option<Vec<usize>> = None,
    num_feature_levels: usize = 3,
    hidden_act: String = "gelu".to_owned(),
    layer_norm_eps: f64 = 1e-6,
});

section!(Backbone {
    num_channels: usize = 3,
    image_size: Option<Sizes> = None,
    patch_kernel_size: Option<Sizes> = None,
    patch_stride: Option<Sizes> = None,
    patch_padding: Option<Sizes> = None,
    query_stride: Option<Sizes> = None,
    window_positional_embedding_background_size: Option<[usize; 2]> = None,
    num_query_pool_stages: usize = 3,
    blocks_per_stage: Option<Vec<usize>> = None,
    embed_dim_per_stage: Option<Vec<usize>> = None,
    num_attention_heads_per_stage: Option<Vec<usize>> = None,
    window_size_per_stage: Option<Vec<usize>> = None,
    global_attention_blocks: Option<Vec<usize>> = None,
    mlp_ratio: f64 = 4.0,
    hidden_act: String = "gelu".to_owned(),
    layer_norm_eps: f64 = 1e-6,
});

section!(Prompt {
    hidden_size: usize = 256,
    image_size: Sizes = Sizes::One(1024),
    patch_size: Sizes = Sizes::One(16),
    mask_input_channels: usize = 16,
    num_point_embeddings: usize = 4,
    hidden_act: String = "gelu".to_owned(),
    layer_norm_eps: f64 = 1e-6,
    scale: f64 = 1.0,
});

section!(MaskDecoder {
    hidden_size: usize = 256,
    hidden_act: String = "gelu".to_owned(),
    mlp_dim: usize = 2048,
    num_hidden_layers: usize = 2,
    num_attention_heads: usize = 8,
    attention_downsample_rate: usize = 2,
    num_multimask_outputs: usize = 3,
    iou_head_depth: usize = 3,
    iou_head_hidden_dim: usize = 256,
    dynamic_multimask_via_stability: bool = true,
    dynamic_multimask_stability_delta: f32 = 0.05,
    dynamic_multimask_stability_thresh: f32 = 0.98,
});

impl Backbone {
    fn hiera(&self) -> Result<Hiera> {
        let four = |name: &str, list: &Option<Vec<usize>>, default: [usize; 4]| match list.as_deref() {
            None => Ok(default),
            Some(&[a, b, c, d]) => Ok([a, b, c, d]),
            Some(list) => bail!(Weights, "config.json: {name} is {list:?}; a Hiera trunk has four stages"),
        };
        ensure!(
            self.mlp_ratio.fract() == 0.0 && (1.0..=64.0).contains(&self.mlp_ratio),
            Weights,
            "config.json: vision_config.backbone_config.mlp_ratio is {}; impasto takes whole numbers up to 64",
            self.mlp_ratio
        );
        Ok(Hiera {
            dims: four("embed_dim_per_stage", &self.embed_dim_per_stage, [96, 192, 384, 768])?,
            heads: four("num_attention_heads_per_stage", &self.num_attention_heads_per_stage, [1, 2, 4, 8])?,
            blocks: four("blocks_per_stage", &self.blocks_per_stage, [1, 2, 7, 2])?,
            windows: four("window_size_per_stage", &self.window_size_per_stage, [8, 4, 14, 7])?,
            global_blocks: Cow::Owned(self.global_attention_blocks.clone().unwrap_or(vec![5, 7, 9])),
            background: self.window_positional_embedding_background_size.unwrap_or([7, 7]),
            mlp_ratio: self.mlp_ratio as usize,
        })
    }
}

impl Top {
    fn memory(&self) -> Memory {
        let theta = self.rope_parameters.as_ref().map(|r| r.rope_theta).or(self.memory_attention_rope_theta);
        Memory {
            dim: self.memory_encoder_output_channels,
            slots: self.num_maskmem,
            layers: self.memory_attention_num_layers,
            heads: self.memory_attention_num_attention_heads,
            mlp_dim: self.memory_attention_feed_forward_hidden_size,
            rope_theta: theta.unwrap_or(10_000.0),
            fuser_layers: self.memory_fuser_num_layers,
            fuser_dim: self.memory_fuser_intermediate_dim,
            pointers: self.max_object_pointers_in_encoder,
            max_cond_frames: usize::try_from(self.max_cond_frame_num).ok(),
            sigmoid_scale: self.sigmoid_scale_for_mem_enc,
            sigmoid_bias: self.sigmoid_bias_for_mem_enc,
            multimask_for_tracking: self.multimask_output_for_tracking,
            multimask_points: (self.multimask_min_pt_num, self.multimask_max_pt_num),
        }
    }
}
