//! The names that encoders give their tensors. Ours are those of transformers, without the prefix that releases
//! put before them; each other layout has a table, and is recognised by names.

use crate::{
    error::{Result, bail},
    weights::{Names, Rule, Weights},
};

/// The layouts of an encoder, and a tensor that all of them have, by our name.
pub(super) struct Layouts {
    pub(super) what: &'static str,
    pub(super) probe: &'static str,
    pub(super) tables: &'static [&'static [Rule]],
}

impl Layouts {
    /// `weights` under our names.
    ///
    /// # Errors
    /// `Weights` if they are of something else.
    pub(super) fn apply(&self, weights: &Weights) -> Result<Weights> {
        let renamed = self.tables.iter().map(|table| weights.renamed(Names(table)));
        match renamed.into_iter().find(|w| w.has(self.probe)) {
            Some(weights) => Ok(weights),
            None => bail!(
                Weights,
                "{}: no {}: it has no tensor '{}', under that or any other known name",
                weights.origin(),
                self.what,
                self.probe
            ),
        }
    }
}

pub(super) const CLIP: Layouts = Layouts {
    what: "CLIP text encoder",
    probe: "embeddings.token_embedding.weight",
    tables: &[
        &[],
        &[("", "text_model.")],
        &[("", "text_encoders.clip_l.transformer.text_model.")],
        &[("", "cond_stage_model.transformer.text_model.")],
    ],
};

pub(super) const SIGLIP: Layouts = Layouts {
    what: "SigLIP picture encoder",
    probe: "embeddings.patch_embedding.weight",
    tables: &[&[], &[("", "vision_model.")]],
};

pub(super) const REDUX: Layouts = Layouts { what: "image embedder of Redux", probe: "redux_up.weight", tables: &[&[]] };

pub(super) const T5: Layouts = Layouts {
    what: "T5 encoder",
    probe: "encoder.final_layer_norm.weight",
    tables: &[
        &[("shared.weight", "shared.weight"), ("shared.weight", "encoder.embed_tokens.weight")],
        T5_GGUF,
        &[("", "text_encoders.t5xxl.transformer.")],
    ],
};

pub(super) const LANGUAGE_MODEL: Layouts = Layouts {
    what: "Qwen3 or Mistral language model",
    probe: "layers.0.input_layernorm.weight",
    tables: &[
        &[("", "model.")],
        &[],
        &[("", "language_model.model.")],
        &[("", "model.language_model.")],
        &[("", "language_model.")],
        LANGUAGE_MODEL_GGUF,
    ],
};

#[rustfmt::skip]
const T5_GGUF: &[Rule] = &[
    ("shared.weight", "token_embd.weight"),
    ("encoder.block.*.layer.0.SelfAttention.q.", "enc.blk.*.attn_q."),
    ("encoder.block.*.layer.0.SelfAttention.k.", "enc.blk.*.attn_k."),
    ("encoder.block.*.layer.0.SelfAttention.v.", "enc.blk.*.attn_v."),
    ("encoder.block.*.layer.0.SelfAttention.o.", "enc.blk.*.attn_o."),
    ("encoder.block.*.layer.0.SelfAttention.relative_attention_bias.", "enc.blk.*.attn_rel_b."),
    ("encoder.block.*.layer.0.layer_norm.", "enc.blk.*.attn_norm."),
    ("encoder.block.*.layer.1.DenseReluDense.wi_0.", "enc.blk.*.ffn_gate."),
    ("encoder.block.*.layer.1.DenseReluDense.wi_1.", "enc.blk.*.ffn_up."),
    ("encoder.block.*.layer.1.DenseReluDense.wo.", "enc.blk.*.ffn_down."),
    ("encoder.block.*.layer.1.layer_norm.", "enc.blk.*.ffn_norm."),
    ("encoder.final_layer_norm.", "enc.output_norm."),
];

#[rustfmt::skip]
const LANGUAGE_MODEL_GGUF: &[Rule] = &[
    ("embed_tokens.", "token_embd."),
    ("layers.*.input_layernorm.", "blk.*.attn_norm."),
    ("layers.*.self_attn.q_proj.", "blk.*.attn_q."),
    ("layers.*.self_attn.k_proj.", "blk.*.attn_k."),
    ("layers.*.self_attn.v_proj.", "blk.*.attn_v."),
    ("layers.*.self_attn.o_proj.", "blk.*.attn_output."),
    ("layers.*.self_attn.q_norm.", "blk.*.attn_q_norm."),
    ("layers.*.self_attn.k_norm.", "blk.*.attn_k_norm."),
    ("layers.*.post_attention_layernorm.", "blk.*.ffn_norm."),
    ("layers.*.mlp.gate_proj.", "blk.*.ffn_gate."),
    ("layers.*.mlp.up_proj.", "blk.*.ffn_up."),
    ("layers.*.mlp.down_proj.", "blk.*.ffn_down."),
];
