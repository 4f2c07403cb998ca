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
pub mod group_norm;
pub mod group_stats;
pub mod layer_norm;
pub mod mask_stats;
pub mod matmul;
pub mod matmul_merge;
pub mod max_pool2d;
pub mod memory_mask;
pub mod memory_store;
pub mod memory_tokens;
pub mod modulate;
pub mod qk_norm_rope;
pub mod quantize_rows;
pub mod resize;
pub mod rms_norm;
pub mod roofline;
pub mod rope;
pub mod rope_halves;

pub use case::{Case, Input, Random, deviation};

use crate::{
    error::{Result, ensure},
    graph::{Call, Graph, Value},
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
    /// Records a call of the kernel again. `None` for a kernel that only others call.
    pub replay: Option<Replay>,
}

/// Records a [`Call`] on another graph.
pub type Replay = fn(&mut Graph, &Call) -> Result<Value>;

/// A kernel's line in [`ALL`]: its stem, and the arguments of its function (named where it has another name).
macro_rules! entry {
    ($stem:ident($($arg:ident),*)) => {
        entry!($stem $stem($($arg),*))
    };
    ($stem:ident $function:ident($($arg:ident),*)) => {
        Entry {
            kernel: &$stem::KERNEL,
            cases: $stem::cases,
            replay: Some(|g, recorded| {
                let ($($arg,)*) = recorded.args()?;
                $stem::$function(g, $($arg),*)
            }),
        }
    };
}

/// Every kernel.
pub const ALL: &[Entry] = &[
    entry!(attention masked_attention(a)),
    entry!(attention_merge(parts)),
    entry!(conv2d(x, weight, bias, options)),
    entry!(conv_transpose2d(x, weight, bias, skip, activation)),
    entry!(depthwise_conv2d(x, weight, bias)),
    entry!(elementwise(a, b, op)),
    entry!(group_norm(x, stats, weight, bias, activation)),
    entry!(group_stats(x, groups, eps)),
    entry!(layer_norm(x, weight, bias, eps, gelu)),
    entry!(mask_stats(logits, height, width, threshold, offset)),
    entry!(matmul matmul_batched(x, w, batched, epilogue)),
    Entry { kernel: &matmul_merge::KERNEL, cases: matmul_merge::cases, replay: None },
    entry!(max_pool2d(x, offset, channels)),
    entry!(memory_mask(x, hard, side, scale, shift)),
    entry!(memory_store(x, places, mark, bank, bf16)),
    Entry {
        kernel: &memory_tokens::KERNEL,
        cases: memory_tokens::cases,
        replay: Some(|g, recorded| {
            let (bank, places, pointers) = recorded.args()?;
            Ok(memory_tokens::memory_tokens(g, bank, places, pointers)?.0)
        }),
    },
    entry!(modulate(x, modulation, eps)),
    entry!(qk_norm_rope(x, weight, table, heads, split, eps)),
    Entry { kernel: &quantize_rows::KERNEL, cases: quantize_rows::cases, replay: None },
    entry!(resize(x, height, width, mode)),
    entry!(rms_norm(x, weight, eps)),
    entry!(roofline(x, probe, iterations, invocations)),
    entry!(rope(x, table, exclude)),
    entry!(rope_halves(x, weight, table, heads, eps)),
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
        kernel::{Class, Kernel, MOST_ITERATIONS, Target, Variant, wgsl},
        shape::DType,
    };
    pub(super) use bytemuck::{Pod, Zeroable, bytes_of};
    pub(super) use serde::{Deserialize, Serialize};
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{graph::Dispatch, kernel::Target};

    #[test]
    fn a_recorded_call_records_the_same_again() {
        for entry in ALL {
            for case in (entry.cases)() {
                let mut g = Graph::new(&Target::default());
                // Some cases are for adapters with more than WebGPU's limits.
                if case.graph(&mut g).is_err() {
                    continue;
                }
                assert_eq!(g.calls().count() > 0, entry.replay.is_some(), "{} {}", entry.kernel.name, case.name);
                for recorded in g.calls() {
                    let text = serde_json::to_string(&recorded.call).unwrap();
                    let call: Call = serde_json::from_str(&text).unwrap();
                    let mut again = Graph::new(&Target::default());
                    call.inputs(&mut again);
                    // A call may be one of several, of other kernels, too.
                    let of = ALL.iter().find(|e| e.kernel.name == call.kernel).unwrap();
                    of.replay.unwrap()(&mut again, &call).unwrap();
                    let text = |d: &[Dispatch]| format!("{:?}", d.iter().map(facts).collect::<Vec<_>>());
                    let name = format!("{} {}", entry.kernel.name, case.name);
                    assert_eq!(text(again.dispatches()), text(&g.dispatches()[recorded.dispatches]), "{name}");
                    assert_eq!(again.calls().next().unwrap().call, call, "{name}");
                }
            }
        }
    }

    /// All of a dispatch but the numbers of its values.
    fn facts(d: &Dispatch) -> impl std::fmt::Debug {
        (d.kernel.name, d.variant.name, d.defines.clone(), d.params.clone(), d.grid, d.flops)
    }
}
