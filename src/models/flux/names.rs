//! The names that FLUX transformers give their tensors. Ours are those of the authors' single files, which GGUF files
//! and ComfyUI keep; others are translated by a table, recognised by names.
//!
//! diffusers cuts some of the authors' matrices: `img_attn.qkv` is there `img_attn.qkv.q`, `.k` and `.v`, `linear1` of
//! FLUX.1 is `linear1.q`, `.k`, `.v` and `.mlp`, one under another. It also swaps the halves of the final modulation:
//! `final_layer.adaLN_modulation.1.swapped` are scale, shift in this order.

use crate::{
    error::{Result, bail},
    weights::{Names, Rule, Weights},
};

/// The key layouts in which FLUX transformers are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The authors' single files.
    Bfl,
    /// The same below `model.diffusion_model.`: checkpoints with everything in one file.
    Checkpoint,
    /// The same below `diffusion_model.`.
    Prefixed,
    /// `FluxTransformer2DModel` of diffusers.
    Diffusers1,
    /// `Flux2Transformer2DModel` of diffusers.
    Diffusers2,
}

/// A tensor that every layout has, and what of FLUX.2 tells diffusers' two layouts apart.
const PROBES: [&str; 2] = ["double_blocks.0.img_attn.proj.weight", "double_stream_modulation_img.lin.weight"];

impl Layout {
    /// The layout of `weights`.
    ///
    /// # Errors
    /// `Weights` if it is none of a FLUX transformer.
    pub fn detect(weights: &Weights) -> Result<Self> {
        let has = |layout: Self, probe: usize| weights.renamed(layout.names()).has(PROBES[probe]);
        let authors = [Self::Bfl, Self::Checkpoint, Self::Prefixed].into_iter().find(|l| has(*l, 0));
        let diffusers = || match (has(Self::Diffusers2, 1), has(Self::Diffusers1, 0)) {
            (true, _) => Some(Self::Diffusers2),
            (false, found) => found.then_some(Self::Diffusers1),
        };
        match authors.or_else(diffusers) {
            Some(layout) => Ok(layout),
            None => bail!(
                Weights,
                "{}: no FLUX transformer: it has no tensor '{}', under that name or diffusers'",
                weights.origin(),
                PROBES[0]
            ),
        }
    }

    /// The table from our names to this layout's.
    pub const fn names(self) -> Names {
        match self {
            Self::Bfl => Names(&[]),
            Self::Checkpoint => Names(&[("", "model.diffusion_model.")]),
            Self::Prefixed => Names(&[("", "diffusion_model.")]),
            Self::Diffusers1 => Names(DIFFUSERS_1),
            Self::Diffusers2 => Names(DIFFUSERS_2),
        }
    }

    /// Whether the authors' matrices are whole.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Bfl | Self::Checkpoint | Self::Prefixed)
    }
}

#[rustfmt::skip]
const DIFFUSERS_1: &[Rule] = &[
    ("img_in.", "x_embedder."),
    ("txt_in.", "context_embedder."),
    ("time_in.in_layer.", "time_text_embed.timestep_embedder.linear_1."),
    ("time_in.out_layer.", "time_text_embed.timestep_embedder.linear_2."),
    ("guidance_in.in_layer.", "time_text_embed.guidance_embedder.linear_1."),
    ("guidance_in.out_layer.", "time_text_embed.guidance_embedder.linear_2."),
    ("vector_in.in_layer.", "time_text_embed.text_embedder.linear_1."),
    ("vector_in.out_layer.", "time_text_embed.text_embedder.linear_2."),
    ("double_blocks.*.img_mod.lin.", "transformer_blocks.*.norm1.linear."),
    ("double_blocks.*.txt_mod.lin.", "transformer_blocks.*.norm1_context.linear."),
    ("double_blocks.*.img_attn.qkv.q.", "transformer_blocks.*.attn.to_q."),
    ("double_blocks.*.img_attn.qkv.k.", "transformer_blocks.*.attn.to_k."),
    ("double_blocks.*.img_attn.qkv.v.", "transformer_blocks.*.attn.to_v."),
    ("double_blocks.*.txt_attn.qkv.q.", "transformer_blocks.*.attn.add_q_proj."),
    ("double_blocks.*.txt_attn.qkv.k.", "transformer_blocks.*.attn.add_k_proj."),
    ("double_blocks.*.txt_attn.qkv.v.", "transformer_blocks.*.attn.add_v_proj."),
    ("double_blocks.*.img_attn.norm.query_norm.scale", "transformer_blocks.*.attn.norm_q.weight"),
    ("double_blocks.*.img_attn.norm.key_norm.scale", "transformer_blocks.*.attn.norm_k.weight"),
    ("double_blocks.*.txt_attn.norm.query_norm.scale", "transformer_blocks.*.attn.norm_added_q.weight"),
    ("double_blocks.*.txt_attn.norm.key_norm.scale", "transformer_blocks.*.attn.norm_added_k.weight"),
    ("double_blocks.*.img_attn.proj.", "transformer_blocks.*.attn.to_out.0."),
    ("double_blocks.*.txt_attn.proj.", "transformer_blocks.*.attn.to_add_out."),
    ("double_blocks.*.img_mlp.0.", "transformer_blocks.*.ff.net.0.proj."),
    ("double_blocks.*.img_mlp.2.", "transformer_blocks.*.ff.net.2."),
    ("double_blocks.*.txt_mlp.0.", "transformer_blocks.*.ff_context.net.0.proj."),
    ("double_blocks.*.txt_mlp.2.", "transformer_blocks.*.ff_context.net.2."),
    ("single_blocks.*.modulation.lin.", "single_transformer_blocks.*.norm.linear."),
    ("single_blocks.*.linear1.q.", "single_transformer_blocks.*.attn.to_q."),
    ("single_blocks.*.linear1.k.", "single_transformer_blocks.*.attn.to_k."),
    ("single_blocks.*.linear1.v.", "single_transformer_blocks.*.attn.to_v."),
    ("single_blocks.*.linear1.mlp.", "single_transformer_blocks.*.proj_mlp."),
    ("single_blocks.*.linear2.", "single_transformer_blocks.*.proj_out."),
    ("single_blocks.*.norm.query_norm.scale", "single_transformer_blocks.*.attn.norm_q.weight"),
    ("single_blocks.*.norm.key_norm.scale", "single_transformer_blocks.*.attn.norm_k.weight"),
    ("final_layer.adaLN_modulation.1.swapped.", "norm_out.linear."),
    ("final_layer.linear.", "proj_out."),
];

#[rustfmt::skip]
const DIFFUSERS_2: &[Rule] = &[
    ("img_in.", "x_embedder."),
    ("txt_in.", "context_embedder."),
    ("time_in.in_layer.", "time_guidance_embed.timestep_embedder.linear_1."),
    ("time_in.out_layer.", "time_guidance_embed.timestep_embedder.linear_2."),
    ("guidance_in.in_layer.", "time_guidance_embed.guidance_embedder.linear_1."),
    ("guidance_in.out_layer.", "time_guidance_embed.guidance_embedder.linear_2."),
    ("double_stream_modulation_img.lin.", "double_stream_modulation_img.linear."),
    ("double_stream_modulation_txt.lin.", "double_stream_modulation_txt.linear."),
    ("single_stream_modulation.lin.", "single_stream_modulation.linear."),
    ("double_blocks.*.img_attn.qkv.q.", "transformer_blocks.*.attn.to_q."),
    ("double_blocks.*.img_attn.qkv.k.", "transformer_blocks.*.attn.to_k."),
    ("double_blocks.*.img_attn.qkv.v.", "transformer_blocks.*.attn.to_v."),
    ("double_blocks.*.txt_attn.qkv.q.", "transformer_blocks.*.attn.add_q_proj."),
    ("double_blocks.*.txt_attn.qkv.k.", "transformer_blocks.*.attn.add_k_proj."),
    ("double_blocks.*.txt_attn.qkv.v.", "transformer_blocks.*.attn.add_v_proj."),
    ("double_blocks.*.img_attn.norm.query_norm.scale", "transformer_blocks.*.attn.norm_q.weight"),
    ("double_blocks.*.img_attn.norm.key_norm.scale", "transformer_blocks.*.attn.norm_k.weight"),
    ("double_blocks.*.txt_attn.norm.query_norm.scale", "transformer_blocks.*.attn.norm_added_q.weight"),
    ("double_blocks.*.txt_attn.norm.key_norm.scale", "transformer_blocks.*.attn.norm_added_k.weight"),
    ("double_blocks.*.img_attn.proj.", "transformer_blocks.*.attn.to_out.0."),
    ("double_blocks.*.txt_attn.proj.", "transformer_blocks.*.attn.to_add_out."),
    ("double_blocks.*.img_mlp.0.", "transformer_blocks.*.ff.linear_in."),
    ("double_blocks.*.img_mlp.2.", "transformer_blocks.*.ff.linear_out."),
    ("double_blocks.*.txt_mlp.0.", "transformer_blocks.*.ff_context.linear_in."),
    ("double_blocks.*.txt_mlp.2.", "transformer_blocks.*.ff_context.linear_out."),
    ("single_blocks.*.linear1.", "single_transformer_blocks.*.attn.to_qkv_mlp_proj."),
    ("single_blocks.*.linear2.", "single_transformer_blocks.*.attn.to_out."),
    ("single_blocks.*.norm.query_norm.scale", "single_transformer_blocks.*.attn.norm_q.weight"),
    ("single_blocks.*.norm.key_norm.scale", "single_transformer_blocks.*.attn.norm_k.weight"),
    ("final_layer.adaLN_modulation.1.swapped.", "norm_out.linear."),
    ("final_layer.linear.", "proj_out."),
];
