//! Attention in one pass over the keys: `softmax(scale q kᵀ) v`. Shaders: `attention.wgsl` (operands, windows),
//! `attention_tile.wgsl` (GPU), `attention_lane.wgsl` (software).
//!
//! Where queries are few, the keys are split over workgroups and [`attention_merge`](super::attention_merge) combines
//! the parts.

mod cases;
mod masked;
mod tiling;

use super::{attention_merge::attention_merge, prelude::*};
pub use cases::cases;
pub use masked::{Bias, Masked};
use tiling::{Tiling, split};

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

/// Mirrors `Params` in the shader, after `base`. Strides in vec4s.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    q: [u32; 4],
    k: [u32; 4],
    v: [u32; 4],
    batch: u32,
    heads: u32,
    width: u32,
    scale: f32,
    queries: u32,
    keys: u32,
    tokens: u32,
    splits: u32,
    split_keys: u32,
    key_side: u32,
    query_side: u32,
    across: u32,
    windows: u32,
    key_inverse: f32,
    query_inverse: f32,
    values: u32,
    key_grid: [u32; 2],
    query_grid: [u32; 2],
    /// offset, head, row, batch; in elements.
    bias: [u32; 4],
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
    g.call(&KERNEL, &(masked,))?;
    let Masked { mut call, causal, share, bias, value_dim } = masked;
    check(g, &masked)?;
    if causal {
        // Beyond, no query looks.
        call.keys = call.keys.min(call.queries);
    }
    let a = call;
    let value_dim = value_dim.unwrap_or(a.head_dim);
    let (width, values, target) = (a.head_dim / 4, value_dim / 4, g.target().clone());
    // Queries and keys that meet: of a window, or of a batch element.
    let (queries, keys, windows) = match a.windows {
        Some(w) => ((w.size / w.pool).pow(2), w.size.pow(2), w.grid.map(|n| n.div_ceil(w.size))),
        None => (a.queries, a.keys, [1, 1]),
    };

    let asked = target.asks(KERNEL.name);
    let variant = KERNEL.choose(&target, |v| {
        // By rule at least half full; whoever asks for a variant may have a quarter.
        let least = |t: &Tiling| t.queries / if asked { 4 } else { 2 };
        // The keys of a window are not split; and some variants are for few keys.
        let most = if v.class == Class::Software { v.get("MOST") as usize } else { 0 };
        let runs = |t: &Tiling| (a.windows.is_none() || keys <= t.most_keys) && (most == 0 || keys <= most || asked);
        // Beside its sums an invocation keeps few operands: it may have twice those of a product.
        let crowded = |t: &Tiling| t.sums > 2 * target.family.rules().sums as usize && !asked;
        let suits = |t: &Tiling| v.get("SMALL") == 1 || (queries > least(t) && !crowded(t));
        Tiling::new(v, [width, values], &target).is_some_and(|t| runs(&t) && suits(&t))
    })?;
    let Some(tiling) = Tiling::new(variant, [width, values], &target) else {
        bail!(Internal, "attention: a variant that fits")
    };

    let blocks = queries.div_ceil(tiling.queries);
    let groups = blocks * a.heads * a.batch * windows[0] * windows[1];
    let split_keys = if a.windows.is_some() { keys } else { split(keys, groups, &tiling, &target) };
    let splits = keys.div_ceil(split_keys);
    let padded = a.windows.filter(|w| w.grid.iter().any(|n| n % w.size != 0));

    let quarter = |o: &Operand| [o.offset, o.batch, o.row, o.head].map(|n| (n / 4) as u32);
    let (side, pool) = a.windows.map_or((1, 1), |w| (w.size, w.pool));
    let [height, width_of_grid] = a.windows.map_or([0, 0], |w| w.grid).map(|n| n as u32);
    let params = Params {
        q: quarter(&a.q),
        k: quarter(&a.k),
        v: quarter(&a.v),
        batch: a.batch as u32,
        heads: a.heads as u32,
        width: width as u32,
        scale: a.scale * std::f32::consts::LOG2_E,
        queries: queries as u32,
        keys: keys as u32,
        tokens: a.queries as u32,
        splits: splits as u32,
        split_keys: split_keys as u32,
        key_side: side as u32,
        query_side: (side / pool) as u32,
        across: windows[1] as u32,
        windows: (windows[0] * windows[1]) as u32,
        key_inverse: 1.0 / side as f32,
        query_inverse: 1.0 / (side / pool) as f32,
        values: values as u32,
        key_grid: [width_of_grid, height],
        query_grid: [width_of_grid, height].map(|n| n / pool as u32),
        // A row of -1 is the largest u32: sums wrap.
        bias: bias.map_or([0; 4], |b| [b.offset as u32, b.head as u32, b.row as u32, b.batch as u32]),
    };
    let mut defines = tiling.defines;
    defines.push(("WINDOW", a.windows.is_some().into()));
    defines.extend([("PAD", padded.is_some().into()), ("SPLIT", (splits > 1).into())]);
    defines.extend(causal.then_some(("CAUSAL", tiling.queries as i64)));
    defines.extend((share > 1).then_some(("SHARE", share as i64)));
    defines.extend(bias.map(|_| ("BIAS", 1)));
    let rows = a.batch * a.queries * a.heads;
    let y = match splits {
        1 => g.temp([a.batch, a.queries, a.heads * value_dim], DType::F32),
        _ => g.temp([splits, rows, value_dim + 4], DType::F32),
    };
    let mut reads = vec![a.q.value, a.k.value, a.v.value];
    reads.extend(padded.map(|w| w.pad));
    reads.extend(bias.map(|b| b.value));
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines,
        params: bytes_of(&params).to_vec(),
        reads,
        writes: vec![y],
        grid: [blocks, a.heads, a.batch * windows[0] * windows[1] * splits].map(|n| n as u32),
        flops: 2 * (rows * keys * (a.head_dim + value_dim)) as u64 / if causal { 2 } else { 1 },
        scope: String::new(),
    })?;
    match splits {
        1 => Ok(y),
        _ => {
            let merged = attention_merge(g, y)?;
            g.reshape(merged, [a.batch, a.queries, a.heads * value_dim])
        }
    }
}

fn check(g: &Graph, masked: &Masked) -> Result<()> {
    let Masked { call: a, share, bias, causal, value_dim } = masked;
    let plain = !causal && *share == 1 && bias.is_none() && value_dim.is_none();
    ensure!(
        plain || a.windows.is_none(),
        Argument,
        "attention: windows with a mask, a bias, shared heads or values of another width"
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
