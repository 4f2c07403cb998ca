//! What a step launches, for measuring kernels: a recording that needs no checkpoint and no memory for weights.

use super::{Config, Layout, Size, Transformer, tensors::tensors};
use crate::{
    error::Result,
    gpu::Gpu,
    graph::Graph,
    nn::{Storage, projection::Parameters},
    weights::Weights,
};

/// The recording of one step at 1024 x 1024 with 512 text tokens, matrices in f16. It cannot be played: its weights are
/// only declared.
///
/// # Errors
/// `OutOfMemory` if a value exceeds what the device binds.
pub fn recordings(gpu: &Gpu, config: &Config) -> Result<Vec<(&'static str, Graph)>> {
    let weights = Weights::blank(tensors(config, Layout::Bfl))?;
    let p = Parameters::new(gpu, Storage::F16);
    let (transformer, ..) = Transformer::declare(&p, &weights, config.clone(), false)?;
    let step = transformer.record(Graph::new(gpu.target()), Size { batch: 1, text: 512, image: 64 * 64 })?;
    Ok(vec![("step", step.graph)])
}
