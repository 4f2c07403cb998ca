//! Adaptive layer norm: normalised rows, scaled and shifted by vectors that depend on the step. Shader: `modulate.wgsl`.

use super::{prelude::*, rms_norm::choose_row};

/// Where the vectors of [`modulate`] are: all in one f32 tensor, as a model computes them at once.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Modulation {
    /// The tensor.
    pub vectors: Value,
    /// Elements from one batch element's vectors to the next; 0 shares them.
    pub batch: usize,
    /// Tokens before this one take the first pair below, the others the second.
    pub split: usize,
    /// The first element of each shift.
    pub shift: [usize; 2],
    /// The first element of each scale.
    pub scale: [usize; 2],
}

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    shift: [u32; 2],
    scale: [u32; 2],
    rows: u32,
    cols: u32,
    tokens: u32,
    split: u32,
    batch: u32,
    inverse: f32,
    eps: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "modulate",
    source: wgsl!("modulate"),
    params: size_of::<Params>(),
    variants: super::rms_norm::ROW_VARIANTS,
};

/// `y = layer_norm(x) * (1 + scale) + shift`, the norm over the last axis, without weights.
///
/// `x`: `(batch, tokens, cols)` f32. FLUX's `(1 + mod.scale) * norm(x) + mod.shift`, for both streams of a double
/// block at once.
///
/// # Errors
/// `Shape` if `x` has other axes, or the vectors are shorter than asked; if an operand is not f32.
pub fn modulate(g: &mut Graph, x: Value, m: Modulation, eps: f32) -> Result<Value> {
    g.call(&KERNEL, &(x, m, eps))?;
    let [batch, tokens, cols] = g.shape(x).axes("modulate: x")?;
    ensure!(batch * tokens * cols > 0, Shape, "modulate: nothing in {}", g.shape(x));
    expect_f32(g, KERNEL.name, &[x, m.vectors])?;
    let offsets = [m.shift, m.scale].concat();
    // A stream without tokens has no vectors to reach.
    let used = |n: usize| if n.is_multiple_of(2) { m.split > 0 } else { m.split < tokens };
    let last = offsets.iter().enumerate().filter(|(n, _)| used(*n)).map(|(_, at)| *at).max().unwrap_or(0);
    let (end, count) = (last + (batch - 1) * m.batch + cols, g.shape(m.vectors).count());
    ensure!(end <= count, Shape, "modulate: vectors {} of which {end} elements are asked", g.shape(m.vectors));
    let vec = if [cols, m.batch].iter().chain(&offsets).all(|n| n % 4 == 0) { 4 } else { 1 };
    let (variant, per, groups) = choose_row(&KERNEL, g, batch * tokens, cols / vec)?;
    let unit = |n: usize| (n / vec) as u32;
    let params = Params {
        shift: m.shift.map(unit),
        scale: m.scale.map(unit),
        rows: (batch * tokens) as u32,
        cols: unit(cols),
        tokens: tokens as u32,
        split: m.split as u32,
        batch: unit(m.batch),
        inverse: 1.0 / cols as f32,
        eps,
    };
    let y = g.temp(g.shape(x), DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("VEC", vec as i64), ("PER", per)],
        params: bytes_of(&params).to_vec(),
        reads: vec![x, m.vectors],
        writes: vec![y],
        grid: [groups as u32, 1, 1],
        flops: 8 * (batch * tokens * cols) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// For vectors as FLUX lays them out: shift, scale, gate twice for one stream, then for the other.
fn twin(inputs: &[Input], split: usize, eps: f64) -> Vec<Vec<f32>> {
    let [x, vectors] = inputs else { unreachable!("modulate has two inputs") };
    let (tokens, cols) = (x.shape[1], x.shape[2]);
    let mut y = Vec::with_capacity(x.values.len());
    for (r, row) in x.values.chunks(cols).enumerate() {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
        let stream = usize::from(r % tokens >= split);
        let own = &vectors.values[(r / tokens * 12 + stream * 6) * cols..];
        for ((&v, &shift), &scale) in row.iter().zip(own).zip(&own[cols..]) {
            let n = (f64::from(v) - mean) / (variance + eps).sqrt();
            y.push((n * (1.0 + f64::from(scale)) + f64::from(shift)) as f32);
        }
    }
    vec![y]
}

/// Both streams, one stream, batches, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(32);
    let mut case = |name: &str, [batch, tokens, cols]: [usize; 3], split: usize, outliers: bool| {
        let count = batch * tokens * cols;
        let x = if outliers { random.outliers(count) } else { random.values(count) };
        let vectors = random.values(batch * 12 * cols);
        let inputs = vec![Input::f32([batch, tokens, cols], x), Input::f32([batch, 12 * cols], vectors)];
        let record = move |g: &mut Graph, v: &[Value]| {
            let (shift, scale) = ([0, 6 * cols], [cols, 7 * cols]);
            let m = Modulation { vectors: v[1], batch: 12 * cols, split, shift, scale };
            Ok(vec![modulate(g, v[0], m, 1e-6)?])
        };
        Case::new(format!("{name} {batch}x{tokens}x{cols} split {split}"), inputs, 1e-10, record, move |inputs| {
            twin(inputs, split, 1e-6)
        })
    };
    vec![
        case("one", [1, 1, 1], 1, false),
        case("odd", [2, 35, 33], 11, false),
        case("flux", [1, 7, 3072], 2, false),
        case("flux 2 dev", [1, 3, 6144], 0, false),
        case("miniature", [2, 54, 64], 24, false),
        // A mean far from zero beside its variance: what E[x^2] - mean^2 gets wrong.
        case("outliers", [2, 9, 256], 9, true),
    ]
}
