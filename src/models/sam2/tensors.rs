//! The tensors of a SAM 2 checkpoint: every name and shape that follows from a [`Config`].

use super::config::{Config, Memory, Version};

/// A tensor's official name and its shape.
pub type Tensor = (String, Vec<usize>);

/// The tensors of the image path: encoder, prompt encoder, mask decoder and `no_mem_embed`.
pub fn image_tensors(config: &Config) -> Vec<Tensor> {
    let mut list = List::default();
    trunk(config, &mut list.at("image_encoder.trunk"));
    neck(config, &mut list.at("image_encoder.neck"));
    prompt_encoder(config, &mut list.at("sam_prompt_encoder"));
    mask_decoder(config, &mut list.at("sam_mask_decoder"));
    list.add("no_mem_embed", &[1, 1, config.hidden]);
    list.tensors
}

/// The tensors that video needs besides, if the model has a memory.
pub fn memory_tensors(config: &Config) -> Vec<Tensor> {
    let mut list = List::default();
    if let Some(memory) = &config.memory {
        memory_attention(config, memory, &mut list.at("memory_attention"));
        memory_encoder(config, memory, &mut list.at("memory_encoder"));
        pointers(config, memory, &mut list);
    }
    list.tensors
}

/// Collects names below a prefix.
#[derive(Default)]
struct List {
    prefix: String,
    tensors: Vec<Tensor>,
}

/// A prefix of a list, which ends where it goes out of scope.
struct At<'a> {
    list: &'a mut List,
    outer: usize,
}

impl List {
    fn at(&mut self, step: &str) -> At<'_> {
        let outer = self.prefix.len();
        self.prefix += step;
        self.prefix += ".";
        At { list: self, outer }
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        self.tensors.push((format!("{}{name}", self.prefix), shape.to_vec()));
    }

    /// `weight` of `shape`, and `bias` of `out`.
    fn layer(&mut self, name: &str, shape: &[usize], out: usize) {
        self.add(&format!("{name}.weight"), shape);
        self.add(&format!("{name}.bias"), &[out]);
    }

    fn linear(&mut self, name: &str, input: usize, out: usize) {
        self.layer(name, &[out, input], out);
    }

    fn norm(&mut self, name: &str, dim: usize) {
        self.layer(name, &[dim], dim);
    }

    fn conv(&mut self, name: &str, input: usize, out: usize, side: usize) {
        self.layer(name, &[out, input, side, side], out);
    }

    /// The transposed convolution of stride 2: its weight has the input channels first.
    fn up(&mut self, name: &str, input: usize, out: usize) {
        self.layer(name, &[input, out, 2, 2], out);
    }

    fn mlp(&mut self, name: &str, dims: &[usize]) {
        for (i, pair) in dims.windows(2).enumerate() {
            self.linear(&format!("{name}.layers.{i}"), pair[0], pair[1]);
        }
    }

    /// Attention with separate projections: `dim` wide outside, `inner` inside, keys and values from `memory`.
    fn attention(&mut self, name: &str, dim: usize, inner: usize, memory: usize) {
        self.linear(&format!("{name}.q_proj"), dim, inner);
        self.linear(&format!("{name}.k_proj"), memory, inner);
        self.linear(&format!("{name}.v_proj"), memory, inner);
        self.linear(&format!("{name}.out_proj"), inner, dim);
    }
}

impl std::ops::Deref for At<'_> {
    type Target = List;
    fn deref(&self) -> &List {
        self.list
    }
}

impl std::ops::DerefMut for At<'_> {
    fn deref_mut(&mut self) -> &mut List {
        self.list
    }
}

impl Drop for At<'_> {
    fn drop(&mut self) {
        self.list.prefix.truncate(self.outer);
    }
}

fn trunk(config: &Config, list: &mut List) {
    let hiera = &config.hiera;
    let [height, width] = hiera.background;
    list.add("pos_embed", &[1, hiera.dims[0], height, width]);
    list.add("pos_embed_window", &[1, hiera.dims[0], hiera.windows[0], hiera.windows[0]]);
    list.conv("patch_embed.proj", 3, hiera.dims[0], 7);
    let mut input = hiera.dims[0];
    let stages = hiera.dims.iter().zip(hiera.blocks).flat_map(|(&dim, blocks)| std::iter::repeat_n(dim, blocks));
    for (i, dim) in stages.enumerate() {
        let mut block = list.at(&format!("blocks.{i}"));
        block.norm("norm1", input);
        block.linear("attn.qkv", input, 3 * dim);
        block.linear("attn.proj", dim, dim);
        block.norm("norm2", dim);
        block.mlp("mlp", &[dim, dim * hiera.mlp_ratio, dim]);
        if dim != input {
            block.linear("proj", input, dim);
        }
        input = dim;
    }
}

/// `convs.0` is the coarsest level.
fn neck(config: &Config, list: &mut List) {
    for (i, &dim) in config.hiera.dims.iter().rev().enumerate() {
        list.conv(&format!("convs.{i}.conv"), dim, config.hidden, 1);
    }
}

fn prompt_encoder(config: &Config, list: &mut List) {
    let (dim, channels) = (config.hidden, config.mask_channels);
    list.add("pe_layer.positional_encoding_gaussian_matrix", &[2, dim / 2]);
    for i in 0..4 {
        list.add(&format!("point_embeddings.{i}.weight"), &[1, dim]);
    }
    list.add("not_a_point_embed.weight", &[1, dim]);
    list.add("no_mask_embed.weight", &[1, dim]);
    let mut mask = list.at("mask_downscaling");
    mask.conv("0", 1, channels / 4, 2);
    mask.norm("1", channels / 4);
    mask.conv("3", channels / 4, channels, 2);
    mask.norm("4", channels);
    mask.conv("6", channels, dim, 1);
}

fn mask_decoder(config: &Config, list: &mut List) {
    let (dim, decoder) = (config.hidden, &config.decoder);
    let tokens = decoder.multimask_outputs + 1;
    list.add("iou_token.weight", &[1, dim]);
    list.add("obj_score_token.weight", &[1, dim]);
    list.add("mask_tokens.weight", &[tokens, dim]);
    let inner = dim / decoder.attention_downsample;
    for i in 0..decoder.layers {
        let mut layer = list.at(&format!("transformer.layers.{i}"));
        layer.attention("self_attn", dim, dim, dim);
        layer.attention("cross_attn_token_to_image", dim, inner, dim);
        layer.attention("cross_attn_image_to_token", dim, inner, dim);
        layer.mlp("mlp", &[dim, decoder.mlp_dim, dim]);
        for n in 1..=4 {
            layer.norm(&format!("norm{n}"), dim);
        }
    }
    list.attention("transformer.final_attn_token_to_image", dim, inner, dim);
    list.norm("transformer.norm_final_attn", dim);
    list.up("output_upscaling.0", dim, dim / 4);
    list.norm("output_upscaling.1", dim / 4);
    list.up("output_upscaling.3", dim / 4, dim / 8);
    list.conv("conv_s0", dim, dim / 8, 1);
    list.conv("conv_s1", dim, dim / 4, 1);
    for i in 0..tokens {
        list.mlp(&format!("output_hypernetworks_mlps.{i}"), &[dim, dim, dim, dim / 8]);
    }
    list.mlp("iou_prediction_head", &[dim, decoder.iou_hidden, decoder.iou_hidden, tokens]);
    list.mlp("pred_obj_score_head", &[dim, dim, dim, 1]);
}

fn memory_attention(config: &Config, memory: &Memory, list: &mut List) {
    let dim = config.hidden;
    for i in 0..memory.layers {
        let mut layer = list.at(&format!("layers.{i}"));
        layer.attention("self_attn", dim, dim, dim);
        layer.attention("cross_attn_image", dim, dim, memory.dim);
        layer.linear("linear1", dim, memory.mlp_dim);
        layer.linear("linear2", memory.mlp_dim, dim);
        for n in 1..=3 {
            layer.norm(&format!("norm{n}"), dim);
        }
    }
    list.norm("norm", dim);
}

fn memory_encoder(config: &Config, memory: &Memory, list: &mut List) {
    let dim = config.hidden;
    // Four convolutions of stride 2, each with four times the channels, each with norm and GELU; then 1x1.
    for i in 0..4usize {
        let (input, out) = (4usize.pow(i as u32), 4usize.pow(i as u32 + 1));
        list.conv(&format!("mask_downsampler.encoder.{}", 3 * i), input, out, 3);
        list.norm(&format!("mask_downsampler.encoder.{}", 3 * i + 1), out);
    }
    list.conv("mask_downsampler.encoder.12", 256, dim, 1);
    list.conv("pix_feat_proj", dim, dim, 1);
    for i in 0..memory.fuser_layers {
        let mut layer = list.at(&format!("fuser.layers.{i}"));
        layer.conv("dwconv", 1, dim, 7);
        layer.norm("norm", dim);
        layer.linear("pwconv1", dim, memory.fuser_dim);
        layer.linear("pwconv2", memory.fuser_dim, dim);
        layer.add("gamma", &[dim]);
    }
    list.conv("out_proj", dim, memory.dim, 1);
}

fn pointers(config: &Config, memory: &Memory, list: &mut List) {
    let dim = config.hidden;
    list.add("maskmem_tpos_enc", &[memory.slots, 1, 1, memory.dim]);
    list.add("no_mem_pos_enc", &[1, 1, dim]);
    list.add("no_obj_ptr", &[1, dim]);
    list.conv("mask_downsample", 1, 1, 4);
    list.mlp("obj_ptr_proj", &[dim, dim, dim, dim]);
    if config.version == Some(Version::V2_1) {
        list.add("no_obj_embed_spatial", &[1, memory.dim]);
        list.linear("obj_ptr_tpos_proj", dim, memory.dim);
    }
}
