//! What a model launches, for measuring kernels: recordings that need no checkpoint.

use super::{config::Config, model::Model, tensors::image_tensors};
use crate::{error::Result, gpu::Gpu, graph::Graph, nn::Storage, weights::Weights};

/// The recordings of one picture and of one click on it, by name.
///
/// # Errors
/// `OutOfMemory` if the weights (blank ones) do not fit the device; what the device reports.
pub async fn recordings(gpu: &Gpu, config: &Config) -> Result<Vec<(&'static str, Graph)>> {
    let weights = Weights::blank(image_tensors(config))?;
    let model = Model::load(gpu, &weights, config.clone(), config.image_size, Storage::AsStored).await?;
    let embedding = model.embedding(gpu)?;
    let (encode, _) = model.record_encode(Graph::new(gpu.target()), &embedding)?;
    // A click is two points: it is padded with one that counts as none.
    let click = model.record_decode(Graph::new(gpu.target()), &embedding, 1, 2, false)?;
    Ok(vec![("encode", encode), ("click", click.graph)])
}
