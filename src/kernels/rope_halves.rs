//! Rotary position embedding of queries and keys by halves, in place, behind an optional norm. Shader:
//! `rope_halves.wgsl`.
//!
//! Language models turn element `j` of a head with element `j + head_dim / 2` ("NeoX" style); FLUX and SAM 2 turn adjacent
//! elements, see [`qk_norm_rope`](super::qk_norm_rope) and [`rope`](super::rope).

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    items: u32,
    heads: u32,
    queries: u32,
    tokens: u32,
    row: u32,
    half: u32,
    inverse: f32,
    eps: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "rope_halves",
    source: wgsl!("rope_halves"),
    params: size_of::<Params>(),
    variants: &[
        Variant { name: "lanes8", class: Class::Gpu, defines: &[("LANES", 8)], subgroup: None },
        Variant { name: "lane", class: Class::Software, defines: &[("LANES", 1)], subgroup: None },
    ],
};

/// The widest head: that of attention.
const WIDEST: usize = 512;

/// RMS norm of every head of q and k if there is a `weight`, then the rotation of its pairs `(j, j + head_dim / 2)` by the
/// angles of the token's row of the table. Works in place and returns `x`: v is not touched.
///
/// `x`: `(batch, tokens, row)` f32, whose rows begin with `heads[0]` heads of q and `heads[1]` of k; `weight`:
/// `(2, head_dim)`, that of q, then that of k; `table`: `(tokens, head_dim / 2, 2)` of cos, sin. As `apply_rotary_pos_emb`
/// of transformers' Qwen3 (with `q_norm` and `k_norm`) and Mistral (without).
///
/// # Errors
/// `Shape` if the operands do not fit each other, or half a head or a row is no multiple of 4.
pub fn rope_halves(
    g: &mut Graph,
    x: Value,
    weight: Option<Value>,
    table: Value,
    heads: [usize; 2],
    eps: f32,
) -> Result<Value> {
    g.call(&KERNEL, &(x, weight, table, heads, eps))?;
    let [batch, tokens, row] = g.shape(x).axes("rope_halves: x")?;
    let [positions, half, two] = g.shape(table).axes("rope_halves: table")?;
    let (all, head_dim) = (heads[0] + heads[1], 2 * half);
    ensure!(
        positions == tokens && two == 2 && batch * tokens > 0,
        Shape,
        "rope_halves: table {} for {}",
        g.shape(table),
        g.shape(x)
    );
    let fits = half.is_multiple_of(4) && head_dim <= WIDEST && row.is_multiple_of(4) && all * head_dim <= row;
    ensure!(fits && all * half > 0, Shape, "rope_halves: {all} heads of {head_dim} in rows of {row}");
    if let Some(weight) = weight {
        let shape = g.shape(weight);
        ensure!(*shape == [2, head_dim], Shape, "rope_halves: weights {shape} for heads of {head_dim}");
        expect_f32(g, KERNEL.name, &[weight])?;
    }
    expect_f32(g, KERNEL.name, &[x, table])?;
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let (items, lanes) = (batch * tokens * all, variant.get("LANES") as usize);
    let params = Params {
        items: items as u32,
        heads: all as u32,
        queries: heads[0] as u32,
        tokens: tokens as u32,
        row: (row / 4) as u32,
        half: (half / 4) as u32,
        inverse: 1.0 / head_dim as f32,
        eps,
    };
    let per = if lanes > 1 { (half / 4).div_ceil(lanes) as i64 } else { 0 };
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("PER", per), ("NORM", weight.is_some().into())],
        params: bytes_of(&params).to_vec(),
        reads: [table].into_iter().chain(weight).collect(),
        writes: vec![x],
        grid: [(items * lanes).div_ceil(64) as u32, 1, 1],
        flops: 8 * (items * head_dim) as u64,
        scope: String::new(),
    })?;
    Ok(x)
}

/// cos and sin of `tokens` positions from 0 on, `(tokens, head_dim / 2, 2)`: pair `j` turns by `theta^(-2 j / head_dim)` a
/// token. Angles are f32, as in the reference: their rounding is 1e-5 at token 512.
pub fn table(tokens: usize, head_dim: usize, theta: f32) -> Vec<f32> {
    let frequency = |j: usize| 1.0 / theta.powf((2 * j) as f32 / head_dim as f32);
    let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
    let angle = |(t, f): (usize, &f32)| f64::from(t as f32 * f);
    let angles = (0..tokens).flat_map(|t| frequencies.iter().map(move |f| (t, f))).map(angle);
    angles.flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect()
}

fn twin(inputs: &[Input], heads: [usize; 2], eps: f64) -> Vec<Vec<f32>> {
    let [x, table, weight @ ..] = inputs else { unreachable!("rope_halves has two or three inputs") };
    let (tokens, row, half) = (x.shape[1], x.shape[2], table.shape[1]);
    let mut y = x.values.clone();
    for (r, line) in y.chunks_mut(row).enumerate() {
        for (h, head) in line[..(heads[0] + heads[1]) * 2 * half].chunks_mut(2 * half).enumerate() {
            let mean = head.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / (2 * half) as f64;
            let normed = |i: usize| match weight {
                [w] => {
                    let w = w.values[usize::from(h >= heads[0]) * 2 * half + i];
                    f64::from(head[i]) / (mean + eps).sqrt() * f64::from(w)
                }
                _ => f64::from(head[i]),
            };
            let normed: Vec<f64> = (0..2 * half).map(normed).collect();
            for j in 0..half {
                let angle = &table.values[(r % tokens * half + j) * 2..];
                let [a, b, cos, sin] = [normed[j], normed[j + half], f64::from(angle[0]), f64::from(angle[1])];
                (head[j], head[j + half]) = ((a * cos - b * sin) as f32, (b * cos + a * sin) as f32);
            }
        }
    }
    vec![y]
}

/// With and without norm, q or k alone, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(35);
    let mut case = |name: &str, [batch, tokens, extra]: [usize; 3], heads: [usize; 2], head_dim: usize, norm: bool| {
        let row = (heads[0] + heads[1]) * head_dim + extra;
        let mut inputs = vec![
            Input::f32([batch, tokens, row], random.outliers(batch * tokens * row)),
            Input::f32([tokens, head_dim / 2, 2], table(tokens, head_dim, 1e4)),
        ];
        if norm {
            inputs.push(Input::f32([2, head_dim], random.values(2 * head_dim)));
        }
        Case::new(
            format!("{name} {batch}x{tokens}x{row}, {heads:?} heads of {head_dim}, norm {norm}"),
            inputs,
            1e-12,
            move |g, v| Ok(vec![rope_halves(g, v[0], v.get(2).copied(), v[1], heads, 1e-6)?]),
            move |inputs| twin(inputs, heads, 1e-6),
        )
    };
    vec![
        case("one head", [1, 1, 0], [1, 0], 8, true),
        case("qwen3", [1, 7, 128], [4, 1], 128, true),
        case("mistral", [1, 7, 128], [4, 1], 128, false),
        case("miniature", [2, 27, 32], [4, 2], 16, true),
        case("miniature", [2, 27, 32], [4, 2], 16, false),
        case("keys alone", [1, 9, 0], [0, 3], 40, true),
        case("wide", [1, 3, 4], [1, 1], 512, true),
    ]
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn the_first_pair_turns_by_one_a_token() {
        let t = table(3, 8, 1e4);
        assert_eq!(t.len(), 3 * 8);
        for (pair, angle) in t[2 * 8..].chunks(2).zip([2.0f64, 0.2, 0.02, 0.002]) {
            assert!((f64::from(pair[0]) - angle.cos()).abs() < 1e-6 && (f64::from(pair[1]) - angle.sin()).abs() < 1e-6);
        }
    }
}
