//! Layer norm over the last axis. Shader: `layer_norm.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
    eps: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "layer_norm",
    source: wgsl!("layer_norm"),
    params: size_of::<Params>(),
    variants: &[
        Variant { name: "row64", class: Class::Gpu, defines: &[("THREADS", 64)], subgroup: None },
        Variant { name: "lane", class: Class::Software, defines: &[("THREADS", 1)], subgroup: None },
    ],
};

/// `y[r, c] = (x[r, c] - mean_r) / sqrt(variance_r + eps) * weight[c] + bias[c]`, then GELU if `gelu`.
///
/// `x`: `(.., cols)`; `weight`, `bias`: `(cols)`. As `torch.nn.LayerNorm`; on NHWC images it is SAM's `LayerNorm2d`.
///
/// # Errors
/// `Shape` if weight or bias are not `(cols)`.
pub fn layer_norm(g: &mut Graph, x: Value, weight: Value, bias: Value, eps: f32, gelu: bool) -> Result<Value> {
    g.call(&KERNEL, &(x, weight, bias, eps, gelu))?;
    let (rows, cols) = g.shape(x).rows_cols();
    for v in [weight, bias] {
        ensure!(g.shape(v).count() == cols, Shape, "layer_norm: weight {} for rows of {cols}", g.shape(v));
    }
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let groups = if variant.get("THREADS") == 1 { rows.div_ceil(64) } else { rows };
    let y = g.temp(g.shape(x), DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("GELU", gelu.into())],
        params: bytes_of(&Params { rows: rows as u32, cols: cols as u32, eps }).to_vec(),
        reads: vec![x, weight, bias],
        writes: vec![y],
        grid: [groups as u32, 1, 1],
        flops: 8 * (rows * cols) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// The error function (Abramowitz and Stegun 7.1.5, summed in f64 to convergence; erfc by continued fraction).
pub(super) fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (a + f));
        1.0 - (-a * a).exp() / (a + fraction) / std::f64::consts::PI.sqrt()
    };
    value.copysign(x)
}

/// GELU with the error function.
pub(super) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

fn twin(inputs: &[Input], eps: f64, with_gelu: bool) -> Vec<Vec<f32>> {
    let [x, weight, bias] = inputs else { unreachable!("layer_norm has three inputs") };
    let cols = weight.values.len();
    let mut y = Vec::with_capacity(x.values.len());
    for row in x.values.chunks(cols) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
        for ((&v, &w), &b) in row.iter().zip(&weight.values).zip(&bias.values) {
            let n = (f64::from(v) - mean) / (variance + eps).sqrt() * f64::from(w) + f64::from(b);
            y.push(if with_gelu { gelu(n) } else { n } as f32);
        }
    }
    vec![y]
}

/// Shapes of SAM 2 and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(1);
    let mut case = |name: &str, rows: usize, cols: usize, gelu: bool, outliers: bool| {
        let x = if outliers { random.outliers(rows * cols) } else { random.values(rows * cols) };
        let inputs = vec![
            Input::f32([rows, cols], x),
            Input::f32([cols], random.values(cols)),
            Input::f32([cols], random.values(cols)),
        ];
        Case::new(
            format!("{name} {rows}x{cols}"),
            inputs,
            1e-10,
            move |g, v| Ok(vec![layer_norm(g, v[0], v[1], v[2], 1e-6, gelu)?]),
            move |inputs| twin(inputs, 1e-6, gelu),
        )
    };
    vec![
        case("one", 1, 1, false, false),
        case("odd", 67, 33, false, false),
        case("hiera tiny stage 1", 256, 96, false, false),
        case("hiera large stage 4", 16, 1152, false, false),
        case("decoder upscale", 300, 64, true, false),
        // A mean far from zero beside its variance: what E[x^2] - mean^2 gets wrong.
        case("outliers", 20, 256, false, true),
        case("outliers, gelu", 9, 100, true, true),
    ]
}
