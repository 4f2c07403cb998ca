//! Root mean square norm over the last axis. Shader: `rms_norm.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    inverse: f32,
    eps: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel =
    Kernel { name: "rms_norm", source: wgsl!("rms_norm"), params: size_of::<Params>(), variants: ROW_VARIANTS };

/// The variants of the kernels that normalise rows: a workgroup holds a row in registers.
pub(super) const ROW_VARIANTS: &[Variant] = &[
    Variant { name: "row64", class: Class::Gpu, defines: &[("THREADS", 64), ("MOST", 8)], subgroup: None },
    Variant { name: "row256", class: Class::Gpu, defines: &[("THREADS", 256), ("MOST", 16)], subgroup: None },
    Variant { name: "lane", class: Class::Software, defines: &[("THREADS", 1), ("MOST", 0)], subgroup: None },
];

/// The variant for `rows` rows of `cols` elements (vec4s where there are any), its define `PER`, and its workgroups.
pub(super) fn choose_row(
    kernel: &'static Kernel,
    g: &Graph,
    rows: usize,
    cols: usize,
) -> Result<(&'static Variant, i64, usize)> {
    let threads = |v: &Variant| v.get("THREADS") as usize;
    let variant = kernel.choose(g.target(), |v| match threads(v) {
        1 => cols < MOST_ITERATIONS / 3,
        threads => cols <= threads * v.get("MOST") as usize,
    })?;
    Ok(match threads(variant) {
        1 => (variant, 0, rows.div_ceil(64)),
        threads => (variant, cols.div_ceil(threads) as i64, rows),
    })
}

/// `y[r, c] = x[r, c] / sqrt(mean of the squares of row r + eps) * weight[c]`.
///
/// `x`: `(.., cols)` f32; `weight`: `(cols)` f32. As `torch.nn.RMSNorm`: T5's layer norm, Qwen3's and Mistral's. A norm of each head of a
/// dense row is one of `(.., heads, head_dim)`.
///
/// # Errors
/// `Shape` if the weight is not `(cols)` or an operand is not f32.
pub fn rms_norm(g: &mut Graph, x: Value, weight: Value, eps: f32) -> Result<Value> {
    g.call(&KERNEL, &(x, weight, eps))?;
    let (rows, cols) = g.shape(x).rows_cols();
    ensure!(g.shape(weight).count() == cols, Shape, "rms_norm: weight {} for rows of {cols}", g.shape(weight));
    expect_f32(g, KERNEL.name, &[x, weight])?;
    let vec = if cols.is_multiple_of(4) { 4 } else { 1 };
    let (variant, per, groups) = choose_row(&KERNEL, g, rows, cols / vec)?;
    let y = g.temp(g.shape(x), DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("VEC", vec as i64), ("PER", per)],
        params: bytes_of(&Params { rows: rows as u32, cols: (cols / vec) as u32, inverse: 1.0 / cols as f32, eps })
            .to_vec(),
        reads: vec![x, weight],
        writes: vec![y],
        grid: [groups as u32, 1, 1],
        flops: 4 * (rows * cols) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

fn twin(inputs: &[Input], eps: f64) -> Vec<Vec<f32>> {
    let [x, weight] = inputs else { unreachable!("rms_norm has two inputs") };
    let cols = weight.values.len();
    let mut y = Vec::with_capacity(x.values.len());
    for row in x.values.chunks(cols) {
        let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (mean + eps).sqrt();
        y.extend(row.iter().zip(&weight.values).map(|(&v, &w)| (f64::from(v) * scale * f64::from(w)) as f32));
    }
    vec![y]
}

/// Rows of the text encoders, heads, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(31);
    let mut case = |name: &str, rows: usize, cols: usize, outliers: bool| {
        let x = if outliers { random.outliers(rows * cols) } else { random.values(rows * cols) };
        let inputs = vec![Input::f32([rows, cols], x), Input::f32([cols], random.values(cols))];
        Case::new(
            format!("{name} {rows}x{cols}"),
            inputs,
            1e-11,
            |g, v| Ok(vec![rms_norm(g, v[0], v[1], 1e-6)?]),
            |inputs| twin(inputs, 1e-6),
        )
    };
    vec![
        case("one", 1, 1, false),
        case("odd", 67, 33, false),
        case("odd, wide", 3, 515, true),
        case("heads", 130, 128, false),
        case("qwen3", 5, 2560, false),
        case("mistral", 3, 5120, false),
        // T5's residual stream.
        case("outliers", 9, 4096, true),
    ]
}
