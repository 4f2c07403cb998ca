//! The kernels: one file each, with the same stem as its shader. A kernel function checks shapes, chooses a
//! variant and records a dispatch; its plain CPU twin and its cases stand beside it.
//!
//! From [`ALL`] follow naga and tint validation, the test of every variant against its twin, the benchmark and
//! `impasto doctor`'s self-test. A new kernel is two files, its `mod` line and its line in `ALL`.

pub mod activation;
pub mod attention;
pub mod attention_merge;
mod case;
pub mod conv2d;
pub mod conv_transpose2d;
pub mod layer_norm;
pub mod matmul;

pub use case::{Case, Input, Random, deviation};

use crate::kernel::Kernel;

/// A kernel with the cases that prove it.
#[derive(Debug)]
pub struct Entry {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Shapes that can fail, with inputs and the twin's answer.
    pub cases: fn() -> Vec<Case>,
}

/// Every kernel.
pub const ALL: &[Entry] = &[
    Entry { kernel: &conv2d::KERNEL, cases: conv2d::cases },
    Entry { kernel: &conv_transpose2d::KERNEL, cases: conv_transpose2d::cases },
    Entry { kernel: &attention::KERNEL, cases: attention::cases },
    Entry { kernel: &attention_merge::KERNEL, cases: attention_merge::cases },
    Entry { kernel: &layer_norm::KERNEL, cases: layer_norm::cases },
    Entry { kernel: &layer_norm::KERNEL, cases: layer_norm::cases },
    Entry { kernel: &matmul::KERNEL, cases: matmul::cases },
];

/// What a kernel file needs.
mod prelude {
    pub(super) use super::case::{Case, Input, Random};
    pub(super) use crate::{
        error::{Result, bail, ensure},
        graph::{Dispatch, Graph, Value},
        kernel::{Class, Kernel, Target, Variant, wgsl},
        shape::DType,
    };
    pub(super) use bytemuck::{Pod, Zeroable, bytes_of};
}
