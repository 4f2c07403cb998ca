//! Which SAM 2 a checkpoint is: told by its tensors and its `config.json`, never by a file's name.

use super::{
    config::{Config, Hiera, Memory, SIZES, TINY, Version},
    json,
    tensors::{image_tensors, memory_tensors},
};
use crate::{
    error::{Result, bail, ensure},
    weights::Weights,
};
use std::fmt::Debug;

/// Layers of one kind. The released models have 48 at most.
const MOST_LAYERS: usize = 256;

impl Config {
    /// The config of the model in `weights`, which go by the official names (see [`Layout`](super::names::Layout)).
    ///
    /// With a `config.json` (its text), what follows from the tensors is compared with it. Without one the size must
    /// be a released one, since head counts, windows and global blocks leave no trace in the tensors.
    ///
    /// # Errors
    /// `Weights` if the tensors are of no released size and there is no `config.json`, if the two contradict each
    /// other (the message names both), and if tensors are missing or mis-shaped.
    pub fn detect(weights: &Weights, config_json: Option<&str>) -> Result<Self> {
        let found = Found::read(weights)?;
        let mut config = match config_json {
            Some(json) => json::parse(json)?,
            None => found.released(weights)?,
        };
        let by = if config_json.is_some() { "config.json" } else { "the released model of this size" };
        // The image model's config.json says nothing of a memory; the file may hold one all the same.
        let said_memory = config.memory.is_some();
        config.memory = match (&found.memory, config.memory.take()) {
            (None, _) => None,
            (Some(found), None) => Some(found.clone()),
            (Some(_), Some(said)) => Some(said),
        };
        if !said_memory || config_json.is_none() {
            config.version = found.version;
        }
        found.compare(&config, by, weights)?;
        config.version = config.version.or(found.version);
        config.check_geometry()?;
        let (image, memory) = (image_tensors(&config), memory_tensors(&config));
        weights.expect(image.iter().chain(&memory))?;
        Ok(config)
    }

    /// What holds for every Hiera and two-way transformer, and what the code may therefore divide by.
    fn check_geometry(&self) -> Result<()> {
        let (hiera, decoder) = (&self.hiera, &self.decoder);
        let divides = |a: usize, b: usize| a != 0 && b.is_multiple_of(a);
        for stage in 0..4 {
            let (dim, heads) = (hiera.dims[stage], hiera.heads[stage]);
            ensure!(divides(heads, dim), Weights, "stage {stage}: {dim} channels cannot be split over {heads} heads");
            // Queries are pooled 2x2 inside the window of the stage before.
            let window = hiera.windows[stage];
            ensure!(
                window > 0 && (stage == 3 || window % 2 == 0),
                Weights,
                "stage {stage}: a window of {window} tokens"
            );
        }
        let total: usize = hiera.blocks.iter().sum();
        let memory = self.memory.as_ref().map_or([0, 0], |m| [m.layers, m.fuser_layers]);
        let most = [total, decoder.layers, decoder.multimask_outputs, memory[0], memory[1]].into_iter().max();
        // The list of tensors is made from these: a file of one tensor must not ask for a million.
        ensure!(most <= Some(MOST_LAYERS), Weights, "{most:?} layers, blocks or masks; {MOST_LAYERS} are the most");
        ensure!(hiera.blocks.iter().all(|&n| n > 0), Weights, "a stage without blocks: {:?}", hiera.blocks);
        ensure!(
            hiera.global_blocks.iter().all(|&i| i < total),
            Weights,
            "global blocks {:?} of {total} blocks",
            hiera.global_blocks
        );
        ensure!(
            divides(32, self.image_size) && self.image_size <= 8192,
            Weights,
            "a picture side of {} is no multiple of 32 up to 8192",
            self.image_size
        );
        ensure!(divides(8, self.hidden), Weights, "{} channels are no multiple of 8", self.hidden);
        ensure!(divides(4, self.mask_channels), Weights, "{} mask channels are no multiple of 4", self.mask_channels);
        ensure!(
            divides(decoder.attention_downsample, self.hidden)
                && divides(decoder.heads, self.hidden / decoder.attention_downsample),
            Weights,
            "the mask decoder's {} channels cannot be reduced {}-fold and split over {} heads",
            self.hidden,
            decoder.attention_downsample,
            decoder.heads
        );
        if let Some(memory) = &self.memory {
            let splits = divides(memory.dim, self.hidden) && divides(memory.heads, self.hidden);
            ensure!(splits, Weights, "{} channels for memories of {}, {} heads", self.hidden, memory.dim, memory.heads);
        }
        Ok(())
    }
}

/// What follows from the tensors.
struct Found {
    version: Option<Version>,
    dims: [usize; 4],
    blocks: [usize; 4],
    background: [usize; 2],
    window: usize,
    mlp_ratio: usize,
    hidden: usize,
    mask_channels: usize,
    layers: usize,
    mlp_dim: usize,
    attention_downsample: usize,
    mask_tokens: usize,
    iou_hidden: usize,
    memory: Option<Memory>,
}

impl Found {
    fn read(weights: &Weights) -> Result<Self> {
        let trunk = weights.at("image_encoder.trunk");
        let (dims, blocks) = stages(&trunk)?;
        let [_, _, height, width] = trunk.axes("pos_embed")?;
        let [_, _, window, _] = trunk.axes("pos_embed_window")?;
        let [mlp, _] = trunk.axes("blocks.0.mlp.layers.0.weight")?;
        let [hidden, ..] = weights.axes::<4>("image_encoder.neck.convs.0.conv.weight")?;
        let [mask_channels, ..] = weights.axes::<4>("sam_prompt_encoder.mask_downscaling.3.weight")?;

        let decoder = weights.at("sam_mask_decoder");
        let [mask_tokens, _] = decoder.axes("mask_tokens.weight")?;
        let [iou_hidden, _] = decoder.axes("iou_prediction_head.layers.0.weight")?;
        let [mlp_dim, _] = decoder.axes("transformer.layers.0.mlp.layers.0.weight")?;
        let [inner, _] = decoder.axes("transformer.final_attn_token_to_image.q_proj.weight")?;
        let has_memory = weights.has("maskmem_tpos_enc");
        let version = has_memory.then(|| match weights.has("no_obj_embed_spatial") {
            true => Version::V2_1,
            false => Version::V2_0,
        });
        Ok(Self {
            version,
            dims,
            blocks,
            background: [height, width],
            window,
            mlp_ratio: mlp / dims[0].max(1),
            hidden,
            mask_channels,
            layers: count(&decoder.at("transformer.layers"), "norm1.weight"),
            mlp_dim,
            attention_downsample: hidden / inner.max(1),
            mask_tokens,
            iou_hidden,
            memory: if has_memory { Some(memory(weights)?) } else { None },
        })
    }

    /// The released config of this size.
    fn released(&self, weights: &Weights) -> Result<Config> {
        let same =
            |hiera: &Hiera| (hiera.dims, hiera.blocks, hiera.background) == (self.dims, self.blocks, self.background);
        match SIZES.into_iter().find(|(_, config)| same(&config.hiera)) {
            Some((_, config)) => Ok(config),
            None => bail!(
                Weights,
                "{}: channels {:?}, blocks {:?} and background {:?} are none of the released sizes ({}). Head counts and \
                 windows cannot be told from tensors: put the model's config.json beside the weights",
                weights.origin(),
                self.dims,
                self.blocks,
                self.background,
                SIZES.map(|(name, _)| name).join(", ")
            ),
        }
    }

    /// Every figure that both sides have.
    fn compare(&self, config: &Config, by: &str, weights: &Weights) -> Result<()> {
        let mut compare = Compare { by, origin: weights.origin(), contradictions: Vec::new() };
        let (hiera, decoder) = (&config.hiera, &config.decoder);
        compare.one("embed_dim_per_stage", &hiera.dims, &self.dims);
        compare.one("blocks_per_stage", &hiera.blocks, &self.blocks);
        compare.one("window_positional_embedding_background_size", &hiera.background, &self.background);
        compare.one("window_size_per_stage[0]", &hiera.windows[0], &self.window);
        compare.one("mlp_ratio", &hiera.mlp_ratio, &self.mlp_ratio);
        compare.one("hidden_size", &config.hidden, &self.hidden);
        compare.one("mask_input_channels", &config.mask_channels, &self.mask_channels);
        compare.one("mask_decoder_config.num_hidden_layers", &decoder.layers, &self.layers);
        compare.one("mask_decoder_config.mlp_dim", &decoder.mlp_dim, &self.mlp_dim);
        compare.one("attention_downsample_rate", &decoder.attention_downsample, &self.attention_downsample);
        compare.one("num_multimask_outputs", &decoder.multimask_outputs, &self.mask_tokens.saturating_sub(1));
        compare.one("iou_head_hidden_dim", &decoder.iou_hidden, &self.iou_hidden);
        if let (Some(said), Some(found)) = (&config.memory, &self.memory) {
            compare.one("version (enable_occlusion_spatial_embedding)", &config.version, &self.version);
            compare.one("num_maskmem", &said.slots, &found.slots);
            compare.one("memory_encoder_output_channels", &said.dim, &found.dim);
            compare.one("memory_attention_num_layers", &said.layers, &found.layers);
            compare.one("memory_attention_feed_forward_hidden_size", &said.mlp_dim, &found.mlp_dim);
            compare.one("memory_fuser_num_layers", &said.fuser_layers, &found.fuser_layers);
            compare.one("memory_fuser_intermediate_dim", &said.fuser_dim, &found.fuser_dim);
        }
        compare.done()
    }
}

struct Compare<'a> {
    by: &'a str,
    origin: &'a str,
    contradictions: Vec<String>,
}

impl Compare<'_> {
    fn one<T: PartialEq + Debug>(&mut self, what: &str, said: &T, found: &T) {
        if said != found {
            self.contradictions.push(format!("{what} is {said:?} by {}, {found:?} by the tensors", self.by));
        }
    }

    fn done(self) -> Result<()> {
        let (origin, by) = (self.origin, self.by);
        ensure!(
            self.contradictions.is_empty(),
            Weights,
            "{by} and the tensors of {origin} contradict each other: {}",
            self.contradictions.join("; ")
        );
        Ok(())
    }
}

/// Channels and blocks of each stage. A stage begins where a block projects its input to more channels.
fn stages(trunk: &Weights) -> Result<([usize; 4], [usize; 4])> {
    let (mut dims, mut blocks) = (Vec::new(), Vec::new());
    for i in 0..count(&trunk.at("blocks"), "norm1.weight") {
        let block = trunk.at("blocks").at(i);
        if i == 0 || block.has("proj.weight") {
            let [dim] = block.axes("norm2.weight")?;
            dims.push(dim);
            blocks.push(0);
        }
        if let Some(last) = blocks.last_mut() {
            *last += 1;
        }
    }
    match (<[usize; 4]>::try_from(dims), <[usize; 4]>::try_from(blocks)) {
        (Ok(dims), Ok(blocks)) => Ok((dims, blocks)),
        (Err(dims), _) | (_, Err(dims)) => {
            bail!(Weights, "{}: a trunk of {} stages; Hiera has four", trunk.origin(), dims.len())
        }
    }
}

/// The memory, with the released constants where tensors do not tell.
fn memory(weights: &Weights) -> Result<Memory> {
    let [slots, _, _, dim] = weights.axes("maskmem_tpos_enc")?;
    let [mlp_dim, _] = weights.axes("memory_attention.layers.0.linear1.weight")?;
    let [fuser_dim, _] = weights.axes("memory_encoder.fuser.layers.0.pwconv1.weight")?;
    let Some(released) = TINY.memory else { bail!(Internal, "the released sizes have a memory") };
    Ok(Memory {
        slots,
        dim,
        mlp_dim,
        fuser_dim,
        layers: count(&weights.at("memory_attention.layers"), "norm1.weight"),
        fuser_layers: count(&weights.at("memory_encoder.fuser.layers"), "norm.weight"),
        ..released
    })
}

/// How many of `0.name`, `1.name`, ... there are.
fn count(weights: &Weights, name: &str) -> usize {
    (0..).take_while(|i| weights.at(i).has(name)).count()
}
