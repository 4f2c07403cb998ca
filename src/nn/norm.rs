//! Layer norm with its weights.

use super::Loader;
use crate::{
    error::Result,
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::layer_norm::layer_norm,
    weights::Weights,
};

/// `torch.nn.LayerNorm` over the last axis; on NHWC images SAM's `LayerNorm2d`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// `weight` and `bias` of `cols` under `w`.
    ///
    /// # Errors
    /// `Weights`, `OutOfMemory`.
    pub fn load(l: &Loader<'_>, w: &Weights, cols: usize, eps: f32) -> Result<Self> {
        let load = |name| l.values(w.prefix(), [cols], &w.get(name, &[cols])?.to_f32()?);
        Ok(Self { weight: load("weight")?, bias: load("bias")?, eps })
    }

    /// Normalised `x`.
    ///
    /// # Errors
    /// `Shape`.
    pub fn forward(&self, g: &mut Graph, x: Value) -> Result<Value> {
        self.run(g, x, false)
    }

    /// GELU of the normalised `x`.
    ///
    /// # Errors
    /// `Shape`.
    pub fn gelu(&self, g: &mut Graph, x: Value) -> Result<Value> {
        self.run(g, x, true)
    }

    fn run(&self, g: &mut Graph, x: Value, gelu: bool) -> Result<Value> {
        let (weight, bias) = (g.tensor(&self.weight), g.tensor(&self.bias));
        layer_norm(g, x, weight, bias, self.eps, gelu)
    }
}
