//! The names that LoRA files give the layers of FLUX.

use std::collections::{BTreeMap, HashMap};

/// Rows of a layer that one name stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    pub(super) module: String,
    /// The first of them, and the one after the last.
    pub(super) rows: (usize, usize),
    /// The file has the second half of the rows first.
    pub(super) halves_swapped: bool,
}

/// Which tensor of an adapter a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    A,
    B,
    Bias,
    Alpha,
}

/// The place of a foreign layer's outputs among those of the authors'. `n` is the layer's inputs: q, k and v have as many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    All,
    /// Rows `k n .. (k + 1) n`: q, k or v.
    Third(usize),
    /// The first `3 n` rows: q, k and v.
    Qkv,
    /// What comes after them.
    Rest,
    /// All, second half first: diffusers has (scale, shift) where the authors have (shift, scale).
    Swapped,
}

/// The authors' name of a layer, what others call it or a part of it, and which part. `*` is the number of a block.
type Name = (&'static str, &'static str, Place);

/// Of FLUX.1 and FLUX.2 (diffusers' `convert_flux_to_diffusers.py`, `convert_flux2_to_diffusers.py`).
#[rustfmt::skip]
const BOTH: &[Name] = &[
    ("img_in", "x_embedder", Place::All),
    ("txt_in", "context_embedder", Place::All),
    ("final_layer.linear", "proj_out", Place::All),
    ("final_layer.adaLN_modulation.1", "norm_out.linear", Place::Swapped),
    ("double_blocks.*.img_attn.qkv", "transformer_blocks.*.attn.to_q", Place::Third(0)),
    ("double_blocks.*.img_attn.qkv", "transformer_blocks.*.attn.to_k", Place::Third(1)),
    ("double_blocks.*.img_attn.qkv", "transformer_blocks.*.attn.to_v", Place::Third(2)),
    ("double_blocks.*.txt_attn.qkv", "transformer_blocks.*.attn.add_q_proj", Place::Third(0)),
    ("double_blocks.*.txt_attn.qkv", "transformer_blocks.*.attn.add_k_proj", Place::Third(1)),
    ("double_blocks.*.txt_attn.qkv", "transformer_blocks.*.attn.add_v_proj", Place::Third(2)),
    ("double_blocks.*.img_attn.proj", "transformer_blocks.*.attn.to_out.0", Place::All),
    ("double_blocks.*.txt_attn.proj", "transformer_blocks.*.attn.to_add_out", Place::All),
];

/// Of FLUX.1 only; the last ones are XLabs' (diffusers' `lora_conversion_utils.py`).
#[rustfmt::skip]
const FLUX1: &[Name] = &[
    ("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1", Place::All),
    ("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2", Place::All),
    ("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1", Place::All),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2", Place::All),
    ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1", Place::All),
    ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2", Place::All),
    ("double_blocks.*.img_mod.lin", "transformer_blocks.*.norm1.linear", Place::All),
    ("double_blocks.*.txt_mod.lin", "transformer_blocks.*.norm1_context.linear", Place::All),
    ("double_blocks.*.img_mlp.0", "transformer_blocks.*.ff.net.0.proj", Place::All),
    ("double_blocks.*.img_mlp.2", "transformer_blocks.*.ff.net.2", Place::All),
    ("double_blocks.*.txt_mlp.0", "transformer_blocks.*.ff_context.net.0.proj", Place::All),
    ("double_blocks.*.txt_mlp.2", "transformer_blocks.*.ff_context.net.2", Place::All),
    ("single_blocks.*.modulation.lin", "single_transformer_blocks.*.norm.linear", Place::All),
    ("single_blocks.*.linear1", "single_transformer_blocks.*.attn.to_q", Place::Third(0)),
    ("single_blocks.*.linear1", "single_transformer_blocks.*.attn.to_k", Place::Third(1)),
    ("single_blocks.*.linear1", "single_transformer_blocks.*.attn.to_v", Place::Third(2)),
    ("single_blocks.*.linear1", "single_transformer_blocks.*.proj_mlp", Place::Rest),
    ("single_blocks.*.linear2", "single_transformer_blocks.*.proj_out", Place::All),
    ("double_blocks.*.img_attn.qkv", "double_blocks.*.processor.qkv_lora1", Place::All),
    ("double_blocks.*.txt_attn.qkv", "double_blocks.*.processor.qkv_lora2", Place::All),
    ("double_blocks.*.img_attn.proj", "double_blocks.*.processor.proj_lora1", Place::All),
    ("double_blocks.*.txt_attn.proj", "double_blocks.*.processor.proj_lora2", Place::All),
    ("single_blocks.*.linear1", "single_blocks.*.processor.qkv_lora", Place::Qkv),
    ("single_blocks.*.linear2", "single_blocks.*.processor.proj_lora", Place::All),
];

/// Of FLUX.2 only.
#[rustfmt::skip]
const FLUX2: &[Name] = &[
    ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1", Place::All),
    ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2", Place::All),
    ("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1", Place::All),
    ("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2", Place::All),
    ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear", Place::All),
    ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear", Place::All),
    ("single_stream_modulation.lin", "single_stream_modulation.linear", Place::All),
    ("double_blocks.*.img_mlp.0", "transformer_blocks.*.ff.linear_in", Place::All),
    ("double_blocks.*.img_mlp.2", "transformer_blocks.*.ff.linear_out", Place::All),
    ("double_blocks.*.txt_mlp.0", "transformer_blocks.*.ff_context.linear_in", Place::All),
    ("double_blocks.*.txt_mlp.2", "transformer_blocks.*.ff_context.linear_out", Place::All),
    ("single_blocks.*.linear1", "single_transformer_blocks.*.attn.to_qkv_mlp_proj", Place::All),
    ("single_blocks.*.linear2", "single_transformer_blocks.*.attn.to_out", Place::All),
];

/// What stands before the name of a layer; several may follow each other.
const PREFIXES: &[&str] = &[
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
];

const TEXT_ENCODERS: &[&str] = &["lora_te", "text_encoder", "text_encoders."];

/// What stands between the name of a layer and that of the tensor's field.
const MARKERS: &[(&str, Part)] = &[
    (".lora_A.", Part::A),
    (".lora_B.", Part::B),
    (".lora_down.", Part::A),
    (".lora_up.", Part::B),
    (".lora.down.", Part::A),
    (".lora.up.", Part::B),
    (".down.", Part::A),
    (".up.", Part::B),
];

pub(super) fn is_text_encoder(key: &str) -> bool {
    let key = key.strip_prefix("base_model.model.").unwrap_or(key);
    TEXT_ENCODERS.iter().any(|prefix| key.starts_with(prefix))
}

/// The layer that a key names, without what stands before it, and which tensor of the adapter it is.
pub(super) fn split(key: &str) -> Option<(&str, Part)> {
    let mut key = key;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| key.strip_prefix(prefix)) {
        key = rest;
    }
    if let Some(path) = key.strip_suffix(".alpha") {
        return Some((path, Part::Alpha));
    }
    let (path, field, part) =
        MARKERS.iter().find_map(|(marker, part)| key.split_once(marker).map(|(path, field)| (path, field, *part)))?;
    match (field, part) {
        ("bias", Part::B) => Some((path, Part::Bias)),
        ("weight", _) => Some((path, part)),
        // PEFT puts the adapter's name in between.
        (field, _) if field.strip_suffix(".weight").is_some_and(|name| !name.contains('.')) => Some((path, part)),
        _ => None,
    }
}

/// Every name that a layer of these may have, with dots and with underscores in their place.
pub(super) fn targets(modules: &BTreeMap<String, [usize; 2]>) -> HashMap<String, Target> {
    // A LoRA of one generation may have the shapes of the other: each is known by its own names only.
    let own = if modules.contains_key("double_stream_modulation_img.lin") { FLUX2 } else { FLUX1 };
    let mut targets = HashMap::new();
    for (module, &[outputs, inputs]) in modules {
        let mut add = |name: String, place: Place| {
            let rows = match place {
                Place::All | Place::Swapped => (0, outputs),
                Place::Third(k) => (k * inputs, (k + 1) * inputs),
                Place::Qkv => (0, 3 * inputs),
                Place::Rest => (3 * inputs, outputs),
            };
            // A layer without such rows goes by no such name.
            if rows.0 >= rows.1 || rows.1 > outputs {
                return;
            }
            let target = Target { module: module.clone(), rows, halves_swapped: place == Place::Swapped };
            targets.insert(name.replace('.', "_"), target.clone());
            targets.insert(name, target);
        };
        add(module.clone(), Place::All);
        for (ours, theirs, place) in BOTH.iter().chain(own) {
            let Some(block) = number(module, ours) else { continue };
            let name = theirs.replacen('*', block, 1);
            // Some files have lost the first letters.
            if let Some(rest) = name.strip_prefix("tran").filter(|rest| rest.starts_with("sformer_blocks.")) {
                add(rest.to_owned(), *place);
            }
            add(name, *place);
        }
    }
    targets
}

/// What stands for `*` in `pattern` if the module is of it; an empty text if the pattern has none.
fn number<'a>(module: &'a str, pattern: &str) -> Option<&'a str> {
    match pattern.split_once('*') {
        None => (module == pattern).then_some(""),
        Some((before, after)) => {
            let number = module.strip_prefix(before)?.strip_suffix(after)?;
            number.bytes().all(|b| b.is_ascii_digit()).then_some(number)
        }
    }
}
