//! Norms with their weights.

use super::projection::{Parameter, Parameters};
use crate::{
    error::Result,
    graph::{Graph, Value},
    kernels::{activation::Activation, group_norm::group_norm, group_stats::group_stats, layer_norm::layer_norm},
    weights::Weights,
};

/// `torch.nn.LayerNorm` over the last axis; on NHWC images SAM's `LayerNorm2d`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f32,
}

impl LayerNorm {
    /// `weight` and `bias` of `cols` under `w`.
    ///
    /// # Errors
    /// `Weights`, `OutOfMemory`.
    pub fn load<'a>(p: impl Into<Parameters<'a>>, w: &Weights, cols: usize, eps: f32) -> Result<Self> {
        let p = p.into();
        Ok(Self { weight: p.vector(w, "weight", cols)?, bias: p.vector(w, "bias", cols)?, eps })
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
        let (weight, bias) = (self.weight.value(g), self.bias.value(g));
        layer_norm(g, x, weight, bias, self.eps, gelu)
    }
}

/// `torch.nn.GroupNorm` on NHWC images.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Parameter,
    bias: Parameter,
    groups: usize,
    eps: f32,
}

impl GroupNorm {
    /// `weight` and `bias` of `channels` under `w`.
    ///
    /// # Errors
    /// `Weights`, `OutOfMemory`.
    pub fn load<'a>(
        p: impl Into<Parameters<'a>>,
        w: &Weights,
        channels: usize,
        groups: usize,
        eps: f32,
    ) -> Result<Self> {
        let p = p.into();
        Ok(Self { weight: p.vector(w, "weight", channels)?, bias: p.vector(w, "bias", channels)?, groups, eps })
    }

    /// `activation` of the normalised `x (n, h, w, channels)`.
    ///
    /// # Errors
    /// `Shape`.
    pub fn forward(&self, g: &mut Graph, x: Value, activation: Activation) -> Result<Value> {
        let stats = group_stats(g, x, self.groups, self.eps)?;
        self.with(g, x, stats, activation)
    }

    /// The same with statistics `(n, groups, 2)` of mean and inverse deviation, of a larger picture perhaps.
    ///
    /// # Errors
    /// `Shape`.
    pub fn with(&self, g: &mut Graph, x: Value, stats: Value, activation: Activation) -> Result<Value> {
        let (weight, bias) = (self.weight.value(g), self.bias.value(g));
        group_norm(g, x, stats, weight, bias, activation)
    }

    /// Runs of channels that are normalised together.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// What is added to variances.
    pub fn eps(&self) -> f32 {
        self.eps
    }
}
