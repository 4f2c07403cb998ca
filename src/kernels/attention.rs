//! Attention in one pass over the keys: `softmax(scale q kᵀ) v`. Shaders: `attention.wgsl` (operands, windows),
//! `attention_tile.wgsl` (GPU), `attention_lane.wgsl` (software).
//!
//! Where queries are few, the keys are split over workgroups and [`attention_merge`] combines
//! the parts.

mod cases;
mod cut;
mod masked;
mod ranges;
mod tiling;

use super::{attention_merge, prelude::*};
pub use cases::cases;
use cut::{Cut, Params};
pub use masked::{Bias, Masked};
pub use ranges::attention_over_ranges;
pub(crate) use ranges::combined;

/// Where element (batch `b`, token `t`, head `h`, `i`) of an operand is: `offset + b * batch + t * row + h * head + i`,
/// in f32 elements. All are multiples of 4; `batch` is 0 for an operand that the batch shares.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Operand {
    /// An f32 tensor; several operands may lie in one (a fused qkv projection).
    pub value: Value,
    /// The first element.
    pub offset: usize,
    /// From one batch element to the next.
    pub batch: usize,
    /// From one token to the next.
    pub row: usize,
    /// From one head to the next.
    pub head: usize,
}

/// One call of [`attention`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Attention {
    /// Batch elements.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head: a multiple of 4, at most 512.
    pub head_dim: usize,
    /// Queries of a batch element.
    pub queries: usize,
    /// Keys of a batch element.
    pub keys: usize,
    /// What the products are multiplied by, `head_dim^-1/2` as a rule.
    pub scale: f32,
    /// Queries.
    pub q: Operand,
    /// Keys.
    pub k: Operand,
    /// Values.
    pub v: Operand,
    /// Attend within windows of a grid only.
    pub windows: Option<Windows>,
}

/// Hiera's window attention, by index arithmetic.
///
/// Keys lie on a grid, row by row, cut in square windows. A grid that is no multiple of the window is padded at the
/// bottom and the right, and padded keys count: the reference pads before the qkv projection, so that their k and v are
/// its bias. Queries lie on the grid pooled by `pool`, their windows are `size / pool` wide; padded ones are not computed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Windows {
    /// Height and width: `keys = h * w` and `queries = (h / pool) * (w / pool)`.
    pub grid: [usize; 2],
    /// Side of a window of keys.
    pub size: usize,
    /// 1, or 2 where q was max-pooled. Divides `size` and both sides of the grid.
    pub pool: usize,
    /// One row in the layout of the rows of k and v, without their batch: a padded key's k is at
    /// `k.offset + h * k.head + i`, its v at `v.offset + h * v.head + i`. Read only where the grid is padded.
    pub pad: Value,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "attention",
    source: concat!(wgsl!("attention"), wgsl!("attention_tile"), wgsl!("attention_lane")),
    params: size_of::<Params>(),
    variants: tiling::VARIANTS,
};

/// `softmax(scale q kᵀ) v`, over all keys or those of the query's window: `(batch, queries, heads * head_dim)`.
///
/// As `torch.nn.functional.scaled_dot_product_attention` without mask; windows as `MultiScaleBlock` of SAM 2's
/// `hieradet.py`.
///
/// # Errors
/// `Shape` if the head width is no multiple of 4 or above 512, an offset or stride is no multiple of 4, an operand is
/// not f32 or shorter than its strides say, or windows do not fit grid, queries and keys.
pub fn attention(g: &mut Graph, a: Attention) -> Result<Value> {
    masked_attention(g, a.into())
}

/// The same with a mask, a bias, heads that share keys, or values of another width: `softmax(scale q kᵀ + bias) v`. A causal mask is that of
/// `scaled_dot_product_attention(is_causal=True)`; shared heads are repeated as `enable_gqa=True` does it.
///
/// # Errors
/// Those of [`attention`]; `Shape` if the heads cannot be shared so or the bias is too short, `Argument` with windows.
pub fn masked_attention(g: &mut Graph, masked: Masked) -> Result<Value> {
    let cut = Cut::of(g, masked)?;
    let a = cut.masked.call;
    if cut.splits == 1 && masked.parts.is_none() {
        let y = g.temp([a.batch, a.queries, a.heads * cut.value_dim], DType::F32);
        cut.launch(g, y)?;
        return Ok(y);
    }
    let parts = g.temp([cut.splits, cut.rows(), cut.value_dim + 4], DType::F32);
    cut.launch(g, parts)?;
    if masked.parts.is_some() {
        return Ok(parts);
    }
    let merged = attention_merge::merge(g, parts)?;
    g.reshape(merged, [a.batch, a.queries, a.heads * cut.value_dim])
}

fn check(g: &Graph, masked: &Masked) -> Result<()> {
    let Masked { call: a, share, bias, causal, value_dim, parts } = masked;
    let plain = !causal && *share == 1 && bias.is_none() && value_dim.is_none() && parts.is_none();
    ensure!(
        plain || a.windows.is_none(),
        Argument,
        "attention: windows with a mask, a bias, shared heads, values of another width or uncombined parts"
    );
    ensure!(*share > 0 && a.heads % share == 0, Shape, "attention: {} heads of q, {share} for one of k", a.heads);
    let value_dim = value_dim.unwrap_or(a.head_dim);
    let sizes = [a.batch, a.heads, a.head_dim, value_dim, a.queries, a.keys];
    ensure!(sizes.iter().all(|n| *n > 0), Shape, "attention: an axis is empty: {a:?}");
    for width in [a.head_dim, value_dim] {
        let fits = width.is_multiple_of(4) && width <= 512;
        ensure!(fits, Shape, "attention: heads of {width} elements, not a multiple of 4 up to 512");
    }
    ensure!(a.scale.is_finite(), Argument, "attention: the scale is {}", a.scale);
    let kv_heads = a.heads / share;
    for (name, o, tokens, heads, width) in [
        ("q", &a.q, a.queries, a.heads, a.head_dim),
        ("k", &a.k, a.keys, kv_heads, a.head_dim),
        ("v", &a.v, a.keys, kv_heads, value_dim),
    ] {
        let strides = [o.offset, o.batch, o.row, o.head];
        ensure!(
            strides.iter().all(|n| n % 4 == 0),
            Shape,
            "attention: offset and strides of {name} are not multiples of 4: {strides:?}"
        );
        let end = o.offset + (a.batch - 1) * o.batch + (tokens - 1) * o.row + (heads - 1) * o.head + width;
        let (shape, dtype) = (g.shape(o.value), g.dtype(o.value));
        ensure!(
            dtype == DType::F32 && end <= shape.count() && end / 4 <= u32::MAX as usize,
            Shape,
            "attention: {name} is {shape} {dtype:?}, of which {end} f32 elements are asked"
        );
    }
    if let Some(bias) = bias {
        bias.check(g, a)?;
    }
    let Some(w) = &a.windows else { return Ok(()) };
    // 1024: what the shader's division by a side is exact for.
    let fits = (1..=1024).contains(&w.size)
        && (w.pool == 1 || w.pool == 2)
        && w.grid.iter().chain([&w.size]).all(|n| n % w.pool == 0)
        && w.grid[0] * w.grid[1] == a.keys
        && w.grid[0] * w.grid[1] == a.queries * w.pool * w.pool;
    ensure!(fits, Shape, "attention: {w:?} for {} queries and {} keys", a.queries, a.keys);
    let end = (a.k.offset + (a.heads - 1) * a.k.head).max(a.v.offset + (a.heads - 1) * a.v.head) + a.head_dim;
    let (shape, dtype) = (g.shape(w.pad), g.dtype(w.pad));
    ensure!(
        dtype == DType::F32 && end <= shape.count(),
        Shape,
        "attention: the padding is {shape} {dtype:?}, of which {end} f32 elements are asked"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::ErrorKind,
        kernel::{Family, Feature},
    };

    /// A call on fused rows `[q | k | v]` of one image.
    pub(super) fn fused(g: &mut Graph, heads: usize, head_dim: usize, tokens: usize) -> Attention {
        let dim = heads * head_dim;
        let value = g.input("qkv", [tokens, 3 * dim], DType::F32);
        let part = |n: usize| Operand { value, offset: n * dim, batch: 0, row: 3 * dim, head: head_dim };
        let (q, k, v) = (part(0), part(1), part(2));
        Attention { batch: 1, heads, head_dim, queries: tokens, keys: tokens, scale: 0.1, q, k, v, windows: None }
    }

    #[test]
    fn chooses_by_shape() {
        let software = Target { subgroup: Some(8), features: vec![Feature::Int64], ..Target::of(Family::Software) };
        for (target, heads, head_dim, tokens, queries, variant, dispatches) in [
            (Target::default(), 4, 96, 4096, 4096, "tile64", 1),
            (Target::default(), 12, 128, 4608, 4608, "tile64", 1),
            (Target::default(), 8, 16, 4096, 8, "tile16", 2),
            (Target::default(), 1, 256, 4096, 4096, "wide64", 2),
            (Target::default(), 1, 512, 16384, 16384, "wide32", 1),
            (software.clone(), 4, 96, 4096, 4096, "subgroup8x4", 1),
            (software.clone(), 8, 16, 4096, 8, "subgroup8", 2),
            (Target { subgroup: Some(16), ..software }, 4, 96, 4096, 4096, "lane", 1),
        ] {
            let mut g = Graph::new(&target);
            let call = Attention { queries, ..fused(&mut g, heads, head_dim, tokens) };
            let y = attention(&mut g, call).unwrap();
            assert_eq!(&*g.shape(y), [1, queries, heads * head_dim]);
            let chosen = (g.dispatches()[0].variant.name, g.dispatches().len());
            assert_eq!(chosen, (variant, dispatches), "{queries} of {tokens} tokens, {heads} heads of {head_dim}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let refused = |change: &dyn Fn(&mut Attention)| {
            let mut g = Graph::new(&Target::default());
            let mut call = fused(&mut g, 2, 16, 64);
            change(&mut call);
            attention(&mut g, call).is_err_and(|e| e.kind() == ErrorKind::Shape)
        };
        let windows = |a: &Attention| Windows { grid: [8, 8], size: 4, pool: 1, pad: a.q.value };
        assert!(!refused(&|_| ()));
        assert!(!refused(&|a| a.windows = Some(windows(a))));
        assert!(refused(&|a| a.keys = 0));
        assert!(refused(&|a| a.keys = 65));
        assert!(refused(&|a| a.head_dim = 14));
        assert!(refused(&|a| a.head_dim = 516));
        assert!(refused(&|a| a.k.offset = 2));
        assert!(refused(&|a| a.v.offset = 80));
        assert!(refused(&|a| (a.batch, a.q.batch) = (2, 4096)));
        assert!(refused(&|a| a.windows = Some(Windows { grid: [8, 7], ..windows(a) })));
        assert!(refused(&|a| a.windows = Some(Windows { size: 0, ..windows(a) })));
        assert!(refused(&|a| a.windows = Some(Windows { pool: 2, ..windows(a) })));
        assert!(refused(&|a| a.windows = Some(Windows { pool: 3, ..windows(a) })));
    }
}
