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
pub mod depthwise_conv2d;
pub mod elementwise;
pub mod layer_norm;
pub mod mask_stats;
pub mod matmul;
pub mod max_pool2d;
pub mod resize;
pub mod rope;

pub use case::{Case, Input, Random, deviation};

use crate::{
    error::{Result, ensure},
    graph::{Graph, Value},
    kernel::Kernel,
    shape::DType,
};

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
    Entry { kernel: &attention::KERNEL, cases: attention::cases },
    Entry { kernel: &attention_merge::KERNEL, cases: attention_merge::cases },
    Entry { kernel: &conv2d::KERNEL, cases: conv2d::cases },
    Entry { kernel: &conv_transpose2d::KERNEL, cases: conv_transpose2d::cases },
    Entry { kernel: &depthwise_conv2d::KERNEL, cases: depthwise_conv2d::cases },
    Entry { kernel: &elementwise::KERNEL, cases: elementwise::cases },
    Entry { kernel: &layer_norm::KERNEL, cases: layer_norm::cases },
    Entry { kernel: &mask_stats::KERNEL, cases: mask_stats::cases },
    Entry { kernel: &matmul::KERNEL, cases: matmul::cases },
    Entry { kernel: &max_pool2d::KERNEL, cases: max_pool2d::cases },
    Entry { kernel: &resize::KERNEL, cases: resize::cases },
    Entry { kernel: &rope::KERNEL, cases: rope::cases },
];

/// # Errors
/// `Shape` if one of the values is not stored as f32.
fn expect_f32(g: &Graph, kernel: &str, values: &[Value]) -> Result<()> {
    for &v in values {
        ensure!(g.dtype(v) == DType::F32, Shape, "{kernel}: {} is stored as {:?}, not F32", g.shape(v), g.dtype(v));
    }
    Ok(())
}

/// What a kernel file needs.
mod prelude {
    pub(super) use super::{
        case::{Case, Input, Random},
        expect_f32,
    };
    pub(super) use crate::{
        error::{Result, bail, ensure},
        graph::{Dispatch, Graph, Value},
        kernel::{Class, Kernel, Target, Variant, wgsl},
        shape::DType,
    };
    pub(super) use bytemuck::{Pod, Zeroable, bytes_of};
}
