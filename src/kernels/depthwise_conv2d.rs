//! Depthwise convolution that keeps the size. Shader: `depthwise_conv2d.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    height: u32,
    width: u32,
    cols: u32,
    strips: u32,
    taps: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "depthwise_conv2d",
    source: wgsl!("depthwise_conv2d"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "strip4", class: Class::Gpu, defines: &[("STRIP", 4)], subgroup: None }],
};

/// The widest kernel: its weights are kept in registers.
const WIDEST: usize = 15;

/// `y[.., c] = conv(x[.., c], weight[.., c]) + bias[c]`, as `torch.nn.functional.conv2d` with `groups` = channels,
/// stride 1 and padding `k / 2`.
///
/// `x`, result: `(n, h, w, c)`; `weight`: `(kh, kw, c)`, odd sizes up to 15; `bias`: `(c)`; all f32.
///
/// # Errors
/// `Shape` if they do not fit.
pub fn depthwise_conv2d(g: &mut Graph, x: Value, weight: Value, bias: Value) -> Result<Value> {
    g.call(&KERNEL, &(x, weight, bias))?;
    let [n, h, w, c] = g.shape(x).axes("depthwise_conv2d: x")?;
    let [kh, kw, wc] = g.shape(weight).axes("depthwise_conv2d: weight")?;
    let fits = wc == c && kh % 2 == 1 && kw % 2 == 1 && kw <= WIDEST && g.shape(bias).count() == c;
    ensure!(
        fits,
        Shape,
        "depthwise_conv2d: weight {} and bias {} for x {}",
        g.shape(weight),
        g.shape(bias),
        g.shape(x)
    );
    expect_f32(g, KERNEL.name, &[x, weight, bias])?;
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let vec = if c.is_multiple_of(4) { 4 } else { 1 };
    let strips = w.div_ceil(variant.get("STRIP") as usize);
    let params = Params {
        rows: (n * h) as u32,
        height: h as u32,
        width: w as u32,
        cols: (c / vec) as u32,
        strips: strips as u32,
        taps: kh as u32,
    };
    let y = g.temp(g.shape(x), DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("VEC", vec as i64), ("KW", kw as i64)],
        params: bytes_of(&params).to_vec(),
        reads: vec![x, weight, bias],
        writes: vec![y],
        grid: [(n * h * strips * c / vec).div_ceil(64) as u32, 1, 1],
        flops: 2 * (n * h * w * c * kh * kw) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

fn twin(inputs: &[Input]) -> Vec<Vec<f32>> {
    let [x, weight, bias] = inputs else { unreachable!("depthwise_conv2d has three inputs") };
    let (&[n, h, w, c], &[kh, kw, _]) = (&x.shape[..], &weight.shape[..]) else { unreachable!("ranks 4 and 3") };
    let mut y = Vec::with_capacity(x.values.len());
    for i in 0..n * h * w * c {
        let (image, oy, ox, o) = (i / (h * w * c), i / (w * c) % h, i / c % w, i % c);
        let mut sum = f64::from(bias.values[o]);
        for ky in 0..kh {
            let Some(iy) = (oy + ky).checked_sub(kh / 2).filter(|&i| i < h) else { continue };
            for kx in 0..kw {
                let Some(ix) = (ox + kx).checked_sub(kw / 2).filter(|&i| i < w) else { continue };
                let v = x.values[((image * h + iy) * w + ix) * c + o];
                sum += f64::from(v) * f64::from(weight.values[(ky * kw + kx) * c + o]);
            }
        }
        y.push(sum as f32);
    }
    vec![y]
}

/// The memory encoder's 7 x 7 on fewer pixels, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(4);
    let mut case = |name: &str, x: [usize; 4], kh: usize, kw: usize| {
        let c = x[3];
        let mut values = |count| if name == "outliers" { random.outliers(count) } else { random.values(count) };
        let inputs = vec![
            Input::f32(x, values(x.iter().product())),
            Input::f32([kh, kw, c], values(kh * kw * c)),
            Input::f32([c], values(c)),
        ];
        // f32 sums of up to 49 products.
        Case::new(
            format!("{name} {x:?} * {kh}x{kw}"),
            inputs,
            1e-12,
            |g, v| Ok(vec![depthwise_conv2d(g, v[0], v[1], v[2])?]),
            twin,
        )
    };
    vec![
        case("one", [1, 1, 1, 1], 1, 1),
        case("odd", [2, 5, 9, 3], 3, 3),
        case("smaller than the kernel", [1, 2, 3, 4], 7, 7),
        case("not square", [1, 6, 7, 5], 3, 7),
        case("memory fuser", [1, 13, 18, 256], 7, 7),
        case("outliers", [2, 8, 9, 12], 7, 7),
    ]
}
