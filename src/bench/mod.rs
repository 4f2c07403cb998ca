//! The kernel lab: what a kernel costs on a device, measured so that it can be believed.
//!
//! [`Work`] is what is measured: a call of a kernel, from a model's recording ([`works`]), the [`standard`] list or a
//! file. [`Lab`] verifies and times it, in every variant asked for, into [`Row`]s; [`Roofs`] say what the device could
//! do; [`compare()`](compare::compare) holds two [`Report`]s against each other; [`tune`] says what to remember.

pub mod compare;
mod lab;
pub mod roofs;
mod standard;
pub mod stats;
mod subject;
mod timer;
pub mod tune;
mod verify;
mod work;

pub use lab::{Lab, Options, Prepared, Variants};
pub use roofs::Roofs;
pub use standard::standard;
pub use work::{Work, works};

use crate::{gpu::AdapterInfo, graph::Clock};
use serde::{Deserialize, Serialize};

/// What one variant of a kernel costs on one shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The call, and how often its model makes it.
    pub work: Work,
    /// The call in words.
    pub shape: String,
    /// How the weights, or else the inputs, are stored.
    pub dtype: String,
    /// The variant.
    pub variant: String,
    /// Whether it is what the rules choose.
    pub default: bool,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that it cannot help to move: every operand once.
    pub bytes: u64,
    /// Microseconds of a play, one for each sample.
    pub samples: Vec<f64>,
    /// The median of the samples.
    pub median: f64,
    /// The tenth percentile.
    pub p10: f64,
    /// The ninetieth percentile.
    pub p90: f64,
    /// The median absolute deviation of the samples.
    pub mad: f64,
    /// The roof's time over the call's: 1 is what the device can do at best. The roof of arithmetic is sampled in turns
    /// with the call (the median of the ratios), as on a shared machine both move.
    pub of_roof: f64,
    /// Which roof is lower for this call.
    pub bound: Bound,
    /// The default's time over this one's, the median over pairs of samples taken in turns.
    pub speedup: f64,
    /// Normalised mean square error of the shape's result against another variant, checked.
    pub error: f64,
    /// Milliseconds of the first play beyond the median, building the pipeline included; about 0 where it was built before.
    pub compile: f64,
}

/// What limits a call on a perfect kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Multiply-adds.
    Compute,
    /// Bytes of device memory.
    Memory,
}

impl Row {
    /// `10^9` floating-point operations a second.
    pub fn gflops(&self) -> f64 {
        self.flops as f64 / self.median * 1e-3
    }

    /// `10^9` bytes a second.
    pub fn gbps(&self) -> f64 {
        self.bytes as f64 / self.median * 1e-3
    }
}

/// One run of `impasto bench`: what `--json` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Of impasto.
    pub version: String,
    /// The adapter: name, driver, backend, limits, features.
    pub adapter: AdapterInfo,
    /// Whether shaders ran with injected checks.
    pub checked: bool,
    /// Who measured.
    pub clock: Clock,
    /// What the device can do at best.
    pub roofs: Roofs,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What was not, and why.
    pub refused: Vec<String>,
}
