//! Rotary position embedding of adjacent pairs. Shader: `rope.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    cols: u32,
    head: u32,
    tokens: u32,
    positions: u32,
    rotated: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "rope",
    source: wgsl!("rope"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "pairs", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// Rotates adjacent pairs `(2j, 2j + 1)` of every head of token `t` by the angles of table row `t % positions`;
/// the last `exclude` tokens are copied. SAM 2's memory attention (`apply_rotary_enc` with `repeat_freqs_k`).
///
/// `x`, result: `(tokens, heads * head_dim)` or `(n, tokens, heads * head_dim)` f32; `table`:
/// `(positions, head_dim / 2, 2)` of cos, sin, as [`axial_table`] makes it.
///
/// # Errors
/// `Shape` if the heads do not divide the row or there are fewer tokens than excluded.
pub fn rope(g: &mut Graph, x: Value, table: Value, exclude: usize) -> Result<Value> {
    g.call(&KERNEL, &(x, table, exclude))?;
    let shape = g.shape(x);
    let [positions, pairs, two] = g.shape(table).axes("rope: table")?;
    let (rows, cols) = shape.rows_cols();
    let tokens = if shape.len() == 3 { shape[1] } else { rows };
    let fits = two == 2 && positions > 0 && pairs > 0 && cols.is_multiple_of(2 * pairs);
    ensure!((2..=3).contains(&shape.len()) && fits, Shape, "rope: table {} for {shape}", g.shape(table));
    ensure!(exclude <= tokens, Shape, "rope: {exclude} of {tokens} tokens excluded");
    expect_f32(g, KERNEL.name, &[x, table])?;
    let vec = if pairs.is_multiple_of(2) { 4 } else { 2 };
    let count = rows * cols / vec;
    let params = Params {
        count: count as u32,
        cols: (cols / vec) as u32,
        head: (2 * pairs / vec) as u32,
        tokens: tokens as u32,
        positions: positions as u32,
        rotated: (tokens - exclude) as u32,
    };
    let y = g.temp(shape, DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![("VEC", vec as i64)],
        params: bytes_of(&params).to_vec(),
        reads: vec![x, table],
        writes: vec![y],
        grid: [count.div_ceil(64) as u32, 1, 1],
        flops: 3 * (rows * cols) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// cos and sin for a grid of `side_x` by `side_y` tokens in rows: `(side_x * side_y, head_dim / 2, 2)`. The first
/// half of the pairs turns with x, the second with y, by `theta^(-4 i / head_dim)` a step (SAM 2's
/// `compute_axial_cis`; the angles are rounded to f32 as there). `head_dim` is a multiple of 4.
pub fn axial_table(side_x: usize, side_y: usize, head_dim: usize, theta: f32) -> Vec<f32> {
    let quarter = head_dim / 4;
    let frequencies: Vec<f32> = (0..quarter).map(|i| 1.0 / theta.powf((4 * i) as f32 / head_dim as f32)).collect();
    let mut table = Vec::with_capacity(side_x * side_y * head_dim);
    for t in 0..side_x * side_y {
        for position in [t % side_x, t / side_x] {
            for f in &frequencies {
                let angle = f64::from(position as f32 * f);
                table.extend([angle.cos() as f32, angle.sin() as f32]);
            }
        }
    }
    table
}

fn twin(inputs: &[Input], tokens: usize, exclude: usize) -> Vec<Vec<f32>> {
    let [x, table] = inputs else { unreachable!("rope has two inputs") };
    let (_, cols) = x.shape.rows_cols();
    let (positions, head) = (table.shape[0], 2 * table.shape[1]);
    let mut y = x.values.clone();
    for (row, line) in y.chunks_mut(cols).enumerate() {
        let token = row % tokens;
        if token + exclude >= tokens {
            continue;
        }
        for (j, pair) in line.chunks_mut(2).enumerate() {
            let angle = &table.values[token % positions * head + 2 * j % head..][..2];
            let [a, b, cos, sin] = [pair[0], pair[1], angle[0], angle[1]].map(f64::from);
            pair.copy_from_slice(&[(a * cos - b * sin) as f32, (a * sin + b * cos) as f32]);
        }
    }
    vec![y]
}

/// Memory attention's shapes on a smaller grid, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(7);
    let mut case = |name: &str, x: &[usize], side: [usize; 2], head_dim: usize, exclude: usize| {
        let angles = match head_dim % 4 {
            0 => axial_table(side[0], side[1], head_dim, 1e4),
            _ => (0..side[0] * side[1] * head_dim / 2).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect(),
        };
        let inputs = vec![
            Input::f32(x, random.outliers(x.iter().product())),
            Input::f32([side[0] * side[1], head_dim / 2, 2], angles),
        ];
        let tokens = x[x.len() - 2];
        // Two products and a sum an element, in f32.
        Case::new(
            format!("{name} {x:?} {side:?} {head_dim}"),
            inputs,
            1e-13,
            move |g, v| Ok(vec![rope(g, v[0], v[1], exclude)?]),
            move |inputs| twin(inputs, tokens, exclude),
        )
    };
    vec![
        case("one pair", &[1, 2], [1, 1], 2, 0),
        case("odd pairs", &[5, 18], [3, 1], 6, 1),
        case("queries", &[64, 256], [8, 8], 256, 0),
        case("keys repeat, pointers excluded", &[3 * 48 + 20, 256], [8, 6], 256, 20),
        case("heads", &[2, 35, 96], [6, 6], 32, 0),
        case("batch with pointers", &[3, 40, 64], [4, 4], 64, 8),
        case("all excluded", &[4, 16], [2, 2], 16, 4),
    ]
}

#[cfg(test)]
mod tests {
    use super::axial_table;

    #[test]
    fn table_turns_x_then_y() {
        let t = axial_table(3, 2, 8, 1e4);
        assert_eq!(t.len(), 6 * 8);
        // Token 4 is at x 1, y 1: angles 1 and 1e4^(-1/2) for both.
        for (pair, angle) in t[4 * 8..5 * 8].chunks(2).zip([1.0f64, 0.01, 1.0, 0.01]) {
            assert!((f64::from(pair[0]) - angle.cos()).abs() < 1e-7 && (f64::from(pair[1]) - angle.sin()).abs() < 1e-7);
        }
        // Token 2 is at x 2, y 0.
        assert!((f64::from(t[2 * 8]) - 2f64.cos()).abs() < 1e-7);
        assert_eq!(t[2 * 8 + 4..3 * 8], [1.0, 0.0, 1.0, 0.0]);
    }
}
