//! Mask logits to the memory encoder's input. Shader: `memory_mask.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    side: u32,
    low: u32,
    ratio: f32,
    scale: f32,
    shift: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "memory_mask",
    source: wgsl!("memory_mask"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "pixel", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// `scale * m + shift`, where `m` is `sigmoid` of the enlarged logits, or for images with `hard` above 0.5 whether they are
/// above 0: `(n, side, side, 1)`.
///
/// `x`: `(n, low, low)`; `hard`: `(n)`; f32. SAM 2's `_encode_new_memory`, with the bilinear interpolation before it
/// (`align_corners=False`).
///
/// # Errors
/// `Shape` if `x` is not square or `hard` of another length.
pub fn memory_mask(g: &mut Graph, x: Value, hard: Value, side: usize, scale: f32, shift: f32) -> Result<Value> {
    g.call(&KERNEL, &(x, hard, side, scale, shift))?;
    let [n, low, width] = g.shape(x).axes("memory_mask: x")?;
    let fits = low == width && low > 0 && side > 0 && g.shape(hard).count() == n;
    ensure!(fits, Shape, "memory_mask: {} with {}, to {side}", g.shape(x), g.shape(hard));
    expect_f32(g, KERNEL.name, &[x, hard])?;
    let count = n * side * side;
    let y = g.temp([n, side, side, 1], DType::F32);
    let params = Params {
        count: count as u32,
        side: side as u32,
        low: low as u32,
        ratio: low as f32 / side as f32,
        scale,
        shift,
    };
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![],
        params: bytes_of(&params).to_vec(),
        reads: vec![x, hard],
        writes: vec![y],
        grid: [count.div_ceil(64) as u32, 1, 1],
        flops: 16 * count as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

fn twin(inputs: &[Input], side: usize, scale: f32, shift: f32) -> Vec<Vec<f32>> {
    let [x, hard] = inputs else { unreachable!("memory_mask has two inputs") };
    let low = x.shape[1];
    let tap = |o: usize| {
        let at = ((o as f64 + 0.5) * low as f64 / side as f64 - 0.5).max(0.0);
        let near = (at as usize).min(low - 1);
        (near, (near + 1).min(low - 1), at - near as f64)
    };
    let mut y = Vec::new();
    for (n, hard) in hard.values.iter().enumerate() {
        let v = |r: usize, c: usize| f64::from(x.values[(n * low + r) * low + c]);
        for (r0, r1, fr) in (0..side).map(tap) {
            for (c0, c1, fc) in (0..side).map(tap) {
                let line = |r: usize| v(r, c0) + (v(r, c1) - v(r, c0)) * fc;
                let logit = line(r0) + (line(r1) - line(r0)) * fr;
                let m = if *hard > 0.5 { f64::from(u8::from(logit > 0.0)) } else { 1.0 / (1.0 + (-logit).exp()) };
                y.push((m * f64::from(scale) + f64::from(shift)) as f32);
            }
        }
    }
    vec![y]
}

/// The video predictor's enlargement by 4, others, absent objects (-1024), soft and hard.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(36);
    let mut case = |name: &str, n: usize, low: usize, side: usize, absent: bool| {
        let value = |v: f32| if absent { -1024.0 } else { 20.0 * v };
        let x = random.values(n * low * low).into_iter().map(value).collect();
        let hard = (0..n).map(|i| (i % 2) as f32).collect();
        let inputs = vec![Input::f32([n, low, low], x), Input::f32([n], hard)];
        Case::new(
            format!("{name} {n}x{low} to {side}"),
            inputs,
            1e-12,
            move |g, v| Ok(vec![memory_mask(g, v[0], v[1], side, 20.0, -10.0)?]),
            move |inputs| twin(inputs, side, 20.0, -10.0),
        )
    };
    vec![
        case("one", 1, 1, 1, false),
        case("fourfold", 3, 16, 64, false),
        case("odd", 2, 7, 33, false),
        case("absent", 2, 8, 32, true),
    ]
}
