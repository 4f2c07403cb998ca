//! Round shapes that people quote, for every kernel that dominates a model.

use super::{Work, works};
use crate::{
    error::Result,
    graph::Graph,
    kernels::{
        attention::{Attention, Operand, attention},
        conv2d::{Conv2d, conv2d},
        layer_norm::layer_norm,
        matmul::{Epilogue, matmul},
    },
    shape::DType,
};

/// Square and thin matrix products, attention at the models' head widths, 3x3 convolutions, norms.
///
/// # Errors
/// What the kernels' functions report: nothing on a correct build.
pub fn standard() -> Result<Vec<Work>> {
    let mut g = Graph::default();
    let g = &mut g;
    for (m, n, k) in [(1024, 1024, 1024), (4096, 1024, 1024), (1, 4096, 4096), (8, 1024, 4096)] {
        for dtype in [DType::F32, DType::F16, DType::Q8] {
            let (x, w) = (g.input("x", [m, k], DType::F32), g.input("w", [n, k], dtype));
            matmul(g, x, w, Epilogue::default())?;
        }
    }
    for (heads, head_dim, queries, keys) in
        [(4, 64, 1024, 1024), (4, 128, 1536, 1536), (1, 256, 1024, 4096), (8, 16, 8, 4096)]
    {
        let width = heads * head_dim;
        let mut operand = |tokens: usize| {
            let value = g.input("tokens", [tokens, width], DType::F32);
            Operand { value, offset: 0, batch: 0, row: width, head: head_dim }
        };
        let (q, k, v) = (operand(queries), operand(keys), operand(keys));
        let scale = (head_dim as f32).powf(-0.5);
        attention(g, Attention { batch: 1, heads, head_dim, queries, keys, scale, q, k, v, windows: None })?;
    }
    for (side, channels) in [(64, 128), (32, 512)] {
        let x = g.input("x", [1, side, side, channels], DType::F32);
        let weight = g.input("weight", [channels, 3, 3, channels], DType::F32);
        let bias = g.input("bias", [channels], DType::F32);
        conv2d(g, x, weight, bias, Conv2d { stride: 1, padding: 1, ..Conv2d::default() })?;
    }
    for (rows, cols) in [(16384, 96), (4096, 768)] {
        let x = g.input("x", [rows, cols], DType::F32);
        let [weight, bias] = ["weight", "bias"].map(|name| g.input(name, [cols], DType::F32));
        layer_norm(g, x, weight, bias, 1e-6, false)?;
    }
    Ok(works(g))
}
