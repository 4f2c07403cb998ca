//! Norm and rotary position embedding of queries and keys, in place. Shader: `qk_norm_rope.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    items: u32,
    heads: u32,
    queries: u32,
    tokens: u32,
    split: u32,
    streams: u32,
    row: u32,
    width: u32,
    inverse: f32,
    eps: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "qk_norm_rope",
    source: wgsl!("qk_norm_rope"),
    params: size_of::<Params>(),
    variants: &[
        Variant { name: "lanes8", class: Class::Gpu, defines: &[("LANES", 8)], subgroup: None },
        Variant { name: "lane", class: Class::Software, defines: &[("LANES", 1)], subgroup: None },
    ],
};

/// The widest head: that of attention.
const WIDEST: usize = 512;

/// RMS norm of every head of q and k, then the rotation of its adjacent pairs `(2j, 2j + 1)` by the angles of the token's
/// row of the table. Works in place and returns `x`: q and k are not copied, v is not touched.
///
/// `x`: `(batch, tokens, row)` f32, whose rows begin with `heads[0]` heads of q and `heads[1]` of k (either may be 0);
/// `weight`: `(2, streams, head_dim)`, those of q, then those of k, for one or two streams; `table`:
/// `(tokens, head_dim / 2, 2)` of cos, sin. Tokens before `split` are of the first stream. FLUX's `QKNorm` and
/// `apply_rope`, for both streams of a double block at once.
///
/// # Errors
/// `Shape` if the operands do not fit each other, or head or row are no multiples of 4.
pub fn qk_norm_rope(
    g: &mut Graph,
    x: Value,
    weight: Value,
    table: Value,
    heads: [usize; 2],
    split: usize,
    eps: f32,
) -> Result<Value> {
    g.call(&KERNEL, &(x, weight, table, heads, split, eps))?;
    let [batch, tokens, row] = g.shape(x).axes("qk_norm_rope: x")?;
    let [two, streams, head_dim] = g.shape(weight).axes("qk_norm_rope: weight")?;
    let all = heads[0] + heads[1];
    ensure!(
        head_dim.is_multiple_of(4) && head_dim <= WIDEST && row.is_multiple_of(4) && all * head_dim <= row && all > 0,
        Shape,
        "qk_norm_rope: {all} heads of {head_dim} in rows of {row}"
    );
    ensure!(batch * tokens > 0, Shape, "qk_norm_rope: nothing in {}", g.shape(x));
    ensure!(two == 2 && (1..=2).contains(&streams), Shape, "qk_norm_rope: weights {}", g.shape(weight));
    ensure!(
        *g.shape(table) == [tokens, head_dim / 2, 2],
        Shape,
        "qk_norm_rope: table {} for {tokens} tokens and heads of {head_dim}",
        g.shape(table)
    );
    expect_f32(g, KERNEL.name, &[x, weight, table])?;
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let (items, width, lanes) = (batch * tokens * all, head_dim / 4, variant.get("LANES") as usize);
    let params = Params {
        items: items as u32,
        heads: all as u32,
        queries: heads[0] as u32,
        tokens: tokens as u32,
        split: split as u32,
        streams: streams as u32,
        row: (row / 4) as u32,
        width: width as u32,
        inverse: 1.0 / head_dim as f32,
        eps,
    };
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("PER", if lanes > 1 { width.div_ceil(lanes) as i64 } else { 0 })],
        params: bytes_of(&params).to_vec(),
        reads: vec![weight, table],
        writes: vec![x],
        grid: [(items * lanes).div_ceil(64) as u32, 1, 1],
        flops: 8 * (items * head_dim) as u64,
        scope: String::new(),
    })?;
    Ok(x)
}

fn twin(inputs: &[Input], heads: [usize; 2], split: usize, eps: f64) -> Vec<Vec<f32>> {
    let [x, weight, table] = inputs else { unreachable!("qk_norm_rope has three inputs") };
    let (tokens, row) = (x.shape[1], x.shape[2]);
    let (streams, head_dim) = (weight.shape[1], weight.shape[2]);
    let mut y = x.values.clone();
    for (r, line) in y.chunks_mut(row).enumerate() {
        let (token, stream) = (r % tokens, usize::from(streams == 2 && r % tokens >= split));
        for (h, head) in line[..(heads[0] + heads[1]) * head_dim].chunks_mut(head_dim).enumerate() {
            let weight = &weight.values[(usize::from(h >= heads[0]) * streams + stream) * head_dim..];
            let mean = head.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / head_dim as f64;
            for (j, pair) in head.chunks_mut(2).enumerate() {
                let n = |i: usize| f64::from(pair[i]) / (mean + eps).sqrt() * f64::from(weight[2 * j + i]);
                let angle = &table.values[token * head_dim + 2 * j..];
                let [a, b, cos, sin] = [n(0), n(1), f64::from(angle[0]), f64::from(angle[1])];
                pair.copy_from_slice(&[(a * cos - b * sin) as f32, (a * sin + b * cos) as f32]);
            }
        }
    }
    vec![y]
}

/// Rows with and without v, q or k alone, one stream and two, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(33);
    let mut case =
        |name: &str, [batch, tokens, extra]: [usize; 3], heads: [usize; 2], streams: usize, head_dim: usize| {
            let (split, row) = (tokens / 3, (heads[0] + heads[1]) * head_dim + extra);
            let angles = random.values(tokens * head_dim / 2).into_iter();
            let table = angles.flat_map(|a| [(4.0 * a).cos(), (4.0 * a).sin()]).collect();
            let inputs = vec![
                Input::f32([batch, tokens, row], random.outliers(batch * tokens * row)),
                Input::f32([2, streams, head_dim], random.values(2 * streams * head_dim)),
                Input::f32([tokens, head_dim / 2, 2], table),
            ];
            Case::new(
                format!("{name} {batch}x{tokens}x{row}, {heads:?} heads of {head_dim}"),
                inputs,
                1e-12,
                move |g, v| Ok(vec![qk_norm_rope(g, v[0], v[1], v[2], heads, split, 1e-6)?]),
                move |inputs| twin(inputs, heads, split, 1e-6),
            )
        };
    vec![
        case("one head", [1, 1, 0], [1, 0], 1, 4),
        case("flux", [1, 7, 384], [3, 3], 2, 128),
        case("single stream", [2, 5, 128], [2, 2], 1, 64),
        case("miniature", [2, 27, 64], [2, 2], 2, 32),
        case("keys alone", [1, 9, 0], [0, 3], 2, 36),
        case("fewer keys than queries", [1, 4, 20], [4, 1], 1, 20),
        case("wide", [1, 3, 0], [1, 1], 1, 512),
    ]
}
