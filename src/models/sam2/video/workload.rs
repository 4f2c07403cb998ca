//! What a frame of video launches, for measuring kernels: recordings that need no checkpoint.

use super::{
    bank::Bank,
    model::{Base, Sizes, VideoModel},
};
use crate::{
    error::{Result, bail},
    gpu::Gpu,
    graph::Graph,
    models::sam2::{
        config::Config,
        model::Model,
        tensors::{image_tensors, memory_tensors},
    },
    nn::{Loader, Storage},
    weights::Weights,
};

/// The recordings of a frame in the steady state, with one object that recalls as much as it can, by name.
///
/// # Errors
/// `Argument` for a model without memory, `OutOfMemory` if the weights (blank ones) do not fit the device; what the device
/// reports.
pub async fn recordings(gpu: &Gpu, config: &Config) -> Result<Vec<(&'static str, Graph)>> {
    let Some(memory) = &config.memory else { bail!(Argument, "an image model follows nothing") };
    let weights = Weights::blank([image_tensors(config), memory_tensors(config)].concat())?;
    let side = config.image_size;
    let video = VideoModel::load(&Loader { gpu, storage: Storage::AsStored }, &weights, config, side)?;
    let image = Model::load(gpu, &weights, config.clone(), side, Storage::AsStored).await?;
    let embedding = image.embedding(gpu)?;
    let bank = Bank::new(gpu, memory.slots, [(side / 16).pow(2), memory.dim])?;
    let (encode, _) = image.record_encode(Graph::new(gpu.target()), &embedding)?;
    let pointers = memory.pointers * (config.hidden / memory.dim);
    let sizes = Sizes {
        objects: 1,
        points: 2,
        mask: false,
        base: Base::Memories { memories: memory.slots, pointers, padded: false },
    };
    let track = video.record(&image, Graph::new(gpu.target()), &embedding, &bank.tensor, sizes)?;
    let low = [1, side / 4, side];
    let remember = video.record_remember(Graph::new(gpu.target()), &embedding, &bank.tensor, low, true)?;
    Ok(vec![("encode", encode), ("track", track.graph), ("remember", remember.graph)])
}
