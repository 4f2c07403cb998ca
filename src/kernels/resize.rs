//! Resampling of images. Shader: `resize.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    in_height: u32,
    in_width: u32,
    height: u32,
    width: u32,
    channels: u32,
    scale_y: f32,
    scale_x: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "resize",
    source: wgsl!("resize"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "element", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// The filter of [`resize`]: `mode` and `antialias` of `torch.nn.functional.interpolate(align_corners=False)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Resize {
    /// The pixel at `floor(d * in / out)`.
    Nearest,
    /// Two by two pixels around the centre.
    Bilinear,
    /// A triangle as wide as an output pixel: what shrinks without aliasing.
    BilinearAntialias,
    /// Keys' cubic with `a = -0.75` over four by four pixels, no antialias.
    Bicubic,
}

/// Resamples every image to `height` by `width`.
///
/// `x`: `(n, h, w, c)` f32; the result: `(n, height, width, c)`.
///
/// # Errors
/// `Shape` for an empty size.
pub fn resize(g: &mut Graph, x: Value, height: usize, width: usize, mode: Resize) -> Result<Value> {
    g.call(&KERNEL, &(x, height, width, mode))?;
    let [n, h, w, c] = g.shape(x).axes("resize: x")?;
    ensure!(height > 0 && width > 0 && n * h * w * c > 0, Shape, "resize: {} to {height} x {width}", g.shape(x));
    expect_f32(g, KERNEL.name, &[x])?;
    let (scale_y, scale_x) = (h as f32 / height as f32, w as f32 / width as f32);
    let count = n * height * width * c;
    let params = Params {
        count: count as u32,
        in_height: h as u32,
        in_width: w as u32,
        height: height as u32,
        width: width as u32,
        channels: c as u32,
        scale_y,
        scale_x,
    };
    let taps = match mode {
        Resize::Nearest => 1.0,
        Resize::Bilinear => 4.0,
        Resize::BilinearAntialias => (2.0 * scale_y.max(1.0) + 1.0) * (2.0 * scale_x.max(1.0) + 1.0),
        Resize::Bicubic => 16.0,
    };
    let y = g.temp([n, height, width, c], DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![("MODE", mode as i64)],
        params: bytes_of(&params).to_vec(),
        reads: vec![x],
        writes: vec![y],
        grid: [count.div_ceil(64) as u32, 1, 1],
        flops: (8.0 * taps) as u64 * count as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// The taps of one output position along one axis: `(input index, weight)`.
fn taps(d: usize, size: usize, out: usize, mode: Resize) -> Vec<(usize, f64)> {
    let scale = f64::from(size as f32 / out as f32);
    let center = (d as f64 + 0.5) * scale;
    let last = size as i64 - 1;
    let clamped = |i: f64| (i as i64).clamp(0, last) as usize;
    match mode {
        // In f32: the position of a pixel must not depend on the last digit.
        Resize::Nearest => vec![(clamped(f64::from((d as f32 * scale as f32).floor())), 1.0)],
        Resize::Bilinear => {
            let s = (center - 0.5).max(0.0);
            let t = s - s.floor();
            vec![(clamped(s.floor()), 1.0 - t), (clamped(s.floor() + 1.0), t)]
        }
        Resize::BilinearAntialias => {
            let support = scale.max(1.0);
            let weight = |i: usize| (1.0 - ((i as f64 + 0.5 - center) / support).abs()).max(0.0);
            let total: f64 = (0..size).map(weight).sum();
            (0..size).map(|i| (i, weight(i) / total)).filter(|t| t.1 > 0.0).collect()
        }
        Resize::Bicubic => {
            let s = center - 0.5;
            let weight = |d: f64| match d.abs() {
                d if d <= 1.0 => (1.25 * d - 2.25) * d * d + 1.0,
                d if d < 2.0 => ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0,
                _ => 0.0,
            };
            (-1..3).map(|k| s.floor() + f64::from(k)).map(|i| (clamped(i), weight(s - i))).collect()
        }
    }
}

fn twin(inputs: &[Input], height: usize, width: usize, mode: Resize) -> Vec<Vec<f32>> {
    let &[n, h, w, c] = &inputs[0].shape[..] else { unreachable!("rank 4") };
    let rows: Vec<_> = (0..height).map(|d| taps(d, h, height, mode)).collect();
    let columns: Vec<_> = (0..width).map(|d| taps(d, w, width, mode)).collect();
    let mut y = Vec::with_capacity(n * height * width * c);
    for i in 0..n * height * width * c {
        let (image, dy, dx, o) = (i / (height * width * c), i / (width * c) % height, i / c % width, i % c);
        let mut sum = 0.0;
        for &(iy, wy) in &rows[dy] {
            for &(ix, wx) in &columns[dx] {
                sum += wy * wx * f64::from(inputs[0].values[((image * h + iy) * w + ix) * c + o]);
            }
        }
        y.push(sum as f32);
    }
    vec![y]
}

/// Every mode growing and shrinking. Against torch: `tests/it/resize.rs`.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(8);
    let mut cases = Vec::new();
    for mode in [Resize::Nearest, Resize::Bilinear, Resize::BilinearAntialias, Resize::Bicubic] {
        for (x, height, width) in [
            ([1, 1, 1, 1], 3, 2),
            ([2, 5, 7, 3], 5, 7),
            ([1, 16, 16, 2], 74, 106),
            ([1, 7, 7, 24], 32, 32),
            ([3, 64, 48, 1], 16, 13),
            ([1, 128, 128, 1], 32, 32),
        ] {
            let inputs = vec![Input::f32(x, random.values(x.iter().product()))];
            // Positions in f32: a weight is off by up to 1e-7 times the width of the image.
            let nmse = if mode == Resize::Nearest { 0.0 } else { 1e-9 };
            cases.push(Case::new(
                format!("{mode:?} {x:?} to {height}x{width}"),
                inputs,
                nmse,
                move |g, v| Ok(vec![resize(g, v[0], height, width, mode)?]),
                move |inputs| twin(inputs, height, width, mode),
            ));
        }
    }
    cases
}
