//! The names that FLUX autoencoders give their tensors. Ours are those of the authors' files (latent diffusion's);
//! diffusers' are translated by a table, recognised by names.

use crate::{
    error::{Result, bail},
    weights::{Names, Rule, Weights},
};

/// A tensor that every layout has.
const PROBE: &str = "decoder.mid.attn_1.q.weight";

/// The table from our names to those of `weights`.
///
/// # Errors
/// `Weights` if they are no autoencoder's.
pub(super) fn detect(weights: &Weights) -> Result<Names> {
    const TABLES: [&[Rule]; 4] = [&[], &[("", "vae.")], &[("", "first_stage_model.")], DIFFUSERS];
    let found = TABLES.into_iter().map(Names).find(|names| weights.renamed(*names).has(PROBE));
    match found {
        Some(names) => Ok(names),
        None => bail!(
            Weights,
            "{}: no FLUX autoencoder: it has no tensor '{PROBE}', under that name or diffusers'",
            weights.origin()
        ),
    }
}

/// Levels of the decoder count from the picture here, from the latent there.
#[rustfmt::skip]
const DIFFUSERS: &[Rule] = &[
    ("encoder.down.*.block.*.nin_shortcut.", "encoder.down_blocks.*.resnets.*.conv_shortcut."),
    ("encoder.down.*.block.*.", "encoder.down_blocks.*.resnets.*."),
    ("encoder.down.*.downsample.conv.", "encoder.down_blocks.*.downsamplers.0.conv."),
    ("decoder.up.0.block.*.nin_shortcut.", "decoder.up_blocks.3.resnets.*.conv_shortcut."),
    ("decoder.up.1.block.*.nin_shortcut.", "decoder.up_blocks.2.resnets.*.conv_shortcut."),
    ("decoder.up.2.block.*.nin_shortcut.", "decoder.up_blocks.1.resnets.*.conv_shortcut."),
    ("decoder.up.3.block.*.nin_shortcut.", "decoder.up_blocks.0.resnets.*.conv_shortcut."),
    ("decoder.up.0.block.*.", "decoder.up_blocks.3.resnets.*."),
    ("decoder.up.1.block.*.", "decoder.up_blocks.2.resnets.*."),
    ("decoder.up.2.block.*.", "decoder.up_blocks.1.resnets.*."),
    ("decoder.up.3.block.*.", "decoder.up_blocks.0.resnets.*."),
    ("decoder.up.1.upsample.conv.", "decoder.up_blocks.2.upsamplers.0.conv."),
    ("decoder.up.2.upsample.conv.", "decoder.up_blocks.1.upsamplers.0.conv."),
    ("decoder.up.3.upsample.conv.", "decoder.up_blocks.0.upsamplers.0.conv."),
    ("encoder.mid.block_1.", "encoder.mid_block.resnets.0."),
    ("encoder.mid.block_2.", "encoder.mid_block.resnets.1."),
    ("encoder.mid.attn_1.norm.", "encoder.mid_block.attentions.0.group_norm."),
    ("encoder.mid.attn_1.q.", "encoder.mid_block.attentions.0.to_q."),
    ("encoder.mid.attn_1.k.", "encoder.mid_block.attentions.0.to_k."),
    ("encoder.mid.attn_1.v.", "encoder.mid_block.attentions.0.to_v."),
    ("encoder.mid.attn_1.proj_out.", "encoder.mid_block.attentions.0.to_out.0."),
    ("decoder.mid.block_1.", "decoder.mid_block.resnets.0."),
    ("decoder.mid.block_2.", "decoder.mid_block.resnets.1."),
    ("decoder.mid.attn_1.norm.", "decoder.mid_block.attentions.0.group_norm."),
    ("decoder.mid.attn_1.q.", "decoder.mid_block.attentions.0.to_q."),
    ("decoder.mid.attn_1.k.", "decoder.mid_block.attentions.0.to_k."),
    ("decoder.mid.attn_1.v.", "decoder.mid_block.attentions.0.to_v."),
    ("decoder.mid.attn_1.proj_out.", "decoder.mid_block.attentions.0.to_out.0."),
    ("encoder.norm_out.", "encoder.conv_norm_out."),
    ("decoder.norm_out.", "decoder.conv_norm_out."),
    ("encoder.quant_conv.", "quant_conv."),
    ("decoder.post_quant_conv.", "post_quant_conv."),
];
