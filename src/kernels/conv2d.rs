//! 2-D convolution of NHWC images as an implicit matrix product. Shader: `conv2d.wgsl`.

use super::{activation::Activation, prelude::*};

/// Mirrors `Params` of `shared/implicit_gemm.wgsl`, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) pixels: u32,
    pub(super) columns: u32,
    pub(super) out_height: u32,
    pub(super) out_width: u32,
    pub(super) height: u32,
    pub(super) row: u32,
    pub(super) channels: u32,
    pub(super) taps: u32,
    pub(super) span: u32,
    pub(super) stride: u32,
    pub(super) padding: u32,
    pub(super) extra: u32,
}

/// How `shared/implicit_gemm.wgsl` can be compiled; what the defines mean is said there.
pub(super) const VARIANTS: &[Variant] = &[
    Variant {
        name: "tile64",
        class: Class::Gpu,
        defines: &[("TILE", 1), ("TILE_M", 64), ("TILE_N", 64), ("STEP", 16), ("TM", 8), ("TN", 4)],
        subgroup: None,
    },
    Variant {
        name: "tile128",
        class: Class::Gpu,
        defines: &[("TILE", 1), ("TILE_M", 128), ("TILE_N", 128), ("STEP", 16), ("TM", 8), ("TN", 8)],
        subgroup: None,
    },
    Variant {
        name: "tile128x64",
        class: Class::Gpu,
        defines: &[("TILE", 1), ("TILE_M", 128), ("TILE_N", 64), ("STEP", 16), ("TM", 8), ("TN", 4)],
        subgroup: None,
    },
    Variant {
        name: "tile128x16",
        class: Class::Gpu,
        defines: &[("TILE", 1), ("TILE_M", 128), ("TILE_N", 16), ("STEP", 8), ("TM", 8), ("TN", 4)],
        subgroup: None,
    },
    Variant {
        name: "subgroup8",
        class: Class::Software,
        defines: &[("SUBGROUP", 8), ("ROWS", 4), ("COLS", 4)],
        subgroup: Some(8),
    },
    Variant {
        name: "subgroup4",
        class: Class::Software,
        defines: &[("SUBGROUP", 4), ("ROWS", 2), ("COLS", 8)],
        subgroup: Some(4),
    },
    Variant { name: "plain", class: Class::Software, defines: &[("ROWS", 4), ("COLS", 8)], subgroup: None },
];

/// The kernel's table.
pub const KERNEL: Kernel =
    Kernel { name: "conv2d", source: wgsl!("conv2d"), params: size_of::<Params>(), variants: VARIANTS };

/// What a convolution does beside the product.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Conv2d {
    /// Distance of neighbouring outputs in the input, at least 1.
    pub stride: usize,
    /// Zeros on every side of the input.
    pub padding: usize,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added after the activation: the shape of the result, or `(1, oh, ow, cout)` for every image.
    pub residual: Option<Value>,
}

/// `y = activation(conv(x) + bias) + residual`, as `torch.nn.functional.conv2d` (cross-correlation, zero padding).
///
/// `x`: `(n, h, w, cin)` f32; `weight`: `(cout, kh, kw, cin)` f32 or f16; `bias`: `(cout)`; the result:
/// `(n, oh, ow, cout)` with `oh = (h + 2 * padding - kh) / stride + 1`.
///
/// # Errors
/// `Shape` if ranks, channels or storages do not fit, or the kernel is larger than the padded image.
pub fn conv2d(g: &mut Graph, x: Value, weight: Value, bias: Value, c: Conv2d) -> Result<Value> {
    g.call(&KERNEL, &(x, weight, bias, c))?;
    let [n, h, w, cin] = g.shape(x).axes("conv2d: x")?;
    let [cout, kh, kw, wcin] = g.shape(weight).axes("conv2d: weight")?;
    ensure!(wcin == cin, Shape, "conv2d: weight {} for x {}", g.shape(weight), g.shape(x));
    ensure!(c.stride > 0, Shape, "conv2d: stride 0");
    ensure!(
        kh.min(kw) > 0 && h + 2 * c.padding >= kh && w + 2 * c.padding >= kw,
        Shape,
        "conv2d: weight {} on x {} padded by {}",
        g.shape(weight),
        g.shape(x),
        c.padding
    );
    let (oh, ow) = ((h + 2 * c.padding - kh) / c.stride + 1, (w + 2 * c.padding - kw) / c.stride + 1);
    let params = Params {
        pixels: (n * oh * ow) as u32,
        columns: cout as u32,
        out_height: oh as u32,
        out_width: ow as u32,
        height: h as u32,
        row: (w * cin) as u32,
        channels: cin as u32,
        taps: kh as u32,
        span: (kw * cin) as u32,
        stride: c.stride as u32,
        padding: c.padding as u32,
        extra: 0,
    };
    let operands = Operands { x, weight, bias, extra: c.residual };
    implicit_gemm(g, &KERNEL, operands, [n, oh, ow, cout], params, c.activation)
}

/// What [`implicit_gemm`] reads.
pub(super) struct Operands {
    pub(super) x: Value,
    pub(super) weight: Value,
    pub(super) bias: Value,
    pub(super) extra: Option<Value>,
}

/// Records a kernel that is built on `shared/implicit_gemm.wgsl` and whose result is `y`, `(n, h, w, cout)`.
///
/// # Errors
/// `Shape` if storages, bias or residual do not fit.
pub(super) fn implicit_gemm(
    g: &mut Graph,
    kernel: &'static Kernel,
    o: Operands,
    y: [usize; 4],
    mut params: Params,
    activation: Activation,
) -> Result<Value> {
    let known = matches!(activation, Activation::None | Activation::Gelu | Activation::Relu);
    ensure!(known, Argument, "{}: no epilogue with {activation:?}", kernel.name);
    let (name, cout) = (kernel.name, y[3]);
    ensure!(g.shape(o.bias).count() == cout, Shape, "{name}: bias {} for {cout} channels", g.shape(o.bias));
    let half = g.dtype(o.weight) == DType::F16;
    ensure!(half || g.dtype(o.weight) == DType::F32, Shape, "{name}: weight stored as {:?}", g.dtype(o.weight));
    expect_f32(g, name, &[o.x, o.bias, o.extra.unwrap_or(o.x)])?;
    if let Some(extra) = o.extra {
        let s = g.shape(extra);
        ensure!(s.len() == 4 && s[1..] == y[1..] && [1, y[0]].contains(&s[0]), Shape, "{name}: {s} added to {y:?}");
        params.extra = (s.count() / cout) as u32;
    }
    let variant = choose(kernel, g.target(), &params)?;
    let get = |n| variant.get(n);
    let has = |name| variant.defines.iter().any(|(n, _)| *n == name);
    let (pixels, columns) = if has("TILE") {
        (get("TILE_M"), get("TILE_N"))
    } else if has("SUBGROUP") {
        (get("SUBGROUP") * get("ROWS"), get("SUBGROUP") * get("COLS"))
    } else {
        (64 * get("ROWS"), get("COLS"))
    };
    let grid = [params.pixels.div_ceil(pixels), params.columns.div_ceil(columns), 1];
    let vec = if params.channels.is_multiple_of(4) { 4 } else { 1 };
    let result = g.temp(y, DType::F32);
    let repeats = params.extra as usize != y[..3].iter().product::<usize>();
    let mut defines = vec![
        ("VEC", vec),
        ("VEC_OUT", cout.is_multiple_of(4).into()),
        ("HALF", half.into()),
        ("EXTRA", o.extra.map_or(0, |_| if repeats { 2 } else { 1 })),
        activation.define(),
    ];
    if has("TILE") {
        // The shape of the kernel is text. Software adapters compile slowly and gain nothing by it.
        let kernel = [("TAPS", params.taps), ("KW", params.span / params.channels), ("STRIDE", params.stride)];
        defines.extend(kernel.map(|(name, n)| (name, i64::from(n))));
        defines.push(("PAD", params.padding.into()));
        defines.push(("TAIL", (vec == 4 && !params.span.is_multiple_of(get("STEP"))).into()));
    }
    g.dispatch(Dispatch {
        kernel,
        variant,
        defines,
        params: bytes_of(&params).to_vec(),
        reads: [Some(o.x), Some(o.weight), Some(o.bias), o.extra].into_iter().flatten().collect(),
        writes: vec![result],
        grid,
        flops: 2 * u64::from(params.pixels) * u64::from(params.columns) * u64::from(params.taps * params.span),
        scope: String::new(),
    })?;
    Ok(result)
}

/// Which variant runs a shape best, among those that can.
fn choose(kernel: &'static Kernel, target: &Target, p: &Params) -> Result<&'static Variant> {
    // Tiles that guard their loads (PAD) keep the row of a patch in 16 bits and its column in 30.
    let guarded = p.padding > 0 || !p.channels.is_multiple_of(4);
    let far = guarded && (p.height + p.padding >= 1 << 15 || p.row + p.padding * p.channels >= 1 << 29);
    let runs = |v: &Variant| !(far && v.name.starts_with("tile"));
    // Large tiles want room for their sums, and enough of them to fill a GPU.
    let enough = |bm, bn| (p.pixels.div_ceil(bm) * p.columns.div_ceil(bn)) as usize >= target.busy;
    let large = target.family.rules().sums >= 64 && p.columns > 64 && enough(128, 128);
    let tall = !large && enough(128, 64);
    let suits = |v: &Variant| match v.name {
        _ if target.asks(kernel.name) => true,
        "tile128x16" => p.columns <= 16,
        "tile128" => large,
        "tile128x64" => p.columns > 16 && tall,
        "tile64" => p.columns > 16 && !large && !tall,
        _ => true,
    };
    kernel.choose(target, |v| runs(v) && suits(v)).or_else(|_| kernel.choose(target, runs))
}

fn twin(inputs: &[Input], c: &Conv2d) -> Vec<Vec<f32>> {
    let [x, weight, bias, rest @ ..] = inputs else { unreachable!("conv2d has three inputs") };
    let (&[n, h, w, cin], &[cout, kh, kw, _]) = (&x.shape[..], &weight.shape[..]) else { unreachable!("rank 4") };
    let out = |size: usize, k: usize| (size + 2 * c.padding - k) / c.stride + 1;
    let (oh, ow) = (out(h, kh), out(w, kw));
    let mut y = Vec::with_capacity(n * oh * ow * cout);
    for m in 0..n * oh * ow {
        let (image, oy, ox) = (m / (oh * ow), m / ow % oh, m % ow);
        for o in 0..cout {
            let mut sum = f64::from(bias.values[o]);
            for ky in 0..kh {
                let Some(iy) = (oy * c.stride + ky).checked_sub(c.padding).filter(|&i| i < h) else { continue };
                for kx in 0..kw {
                    let Some(ix) = (ox * c.stride + kx).checked_sub(c.padding).filter(|&i| i < w) else { continue };
                    let xs = &x.values[((image * h + iy) * w + ix) * cin..][..cin];
                    let ws = &weight.values[((o * kh + ky) * kw + kx) * cin..][..cin];
                    sum += xs.iter().zip(ws).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
                }
            }
            let residual = rest.first().map_or(0.0, |r| f64::from(r.values[(m * cout + o) % r.values.len()]));
            y.push((c.activation.apply(sum) + residual) as f32);
        }
    }
    vec![y]
}

/// Shapes of SAM 2 (fewer pixels) and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(2);
    // x, (cout, kernel, stride, padding), images of the residual.
    let mut case = |name: &str, x: [usize; 4], k: [usize; 4], act: Activation, residual: usize, dtype: DType| {
        let [cout, kernel, stride, padding] = k;
        let cin = x[3];
        let side = |s: usize| (s + 2 * padding - kernel) / stride + 1;
        let mut values = |count| if name == "outliers" { random.outliers(count) } else { random.values(count) };
        let mut inputs = vec![
            Input::f32(x, values(x.iter().product())),
            Input::stored(dtype, [cout, kernel, kernel, cin], values(cout * kernel * kernel * cin)),
            Input::f32([cout], values(cout)),
        ];
        if residual > 0 {
            let shape = [residual, side(x[1]), side(x[2]), cout];
            inputs.push(Input::f32(shape, values(shape.iter().product())));
        }
        let c = Conv2d { stride, padding, activation: act, residual: None };
        Case::new(
            format!("{name} {x:?} * {k:?} {dtype:?}"),
            inputs,
            // f32 accumulation of up to 1152 products, in any order.
            1e-11,
            move |g, v| {
                Ok(vec![conv2d(
                    g,
                    v[0],
                    v[1],
                    v[2],
                    Conv2d { residual: v.get(3).copied().filter(|_| residual > 0), ..c },
                )?])
            },
            move |inputs| twin(inputs, &c),
        )
    };
    use Activation as A;
    // Few combinations of channels % 4, storage, residual and activation: each is a text to compile for every variant.
    vec![
        case("one", [1, 1, 1, 1], [1, 1, 1, 0], A::Gelu, 0, DType::F32),
        case("odd", [2, 9, 7, 5], [3, 3, 1, 1], A::Gelu, 0, DType::F32),
        case("odd half", [2, 7, 11, 3], [7, 3, 2, 1], A::Relu, 1, DType::F16),
        case("patch embed", [1, 45, 45, 3], [96, 7, 4, 3], A::None, 1, DType::F16),
        case("patch embed base plus", [2, 18, 22, 3], [112, 7, 4, 3], A::None, 2, DType::F16),
        case("mask prompt 1", [2, 16, 16, 1], [4, 2, 2, 0], A::None, 0, DType::F32),
        case("memory 1", [1, 33, 40, 1], [4, 3, 2, 1], A::None, 0, DType::F32),
        case("mask prompt 2", [3, 12, 12, 4], [16, 2, 2, 0], A::Gelu, 0, DType::F16),
        case("memory 4", [1, 17, 17, 64], [256, 3, 2, 1], A::Gelu, 0, DType::F16),
        case("mask prompt 3", [1, 16, 16, 16], [256, 1, 1, 0], A::None, 1, DType::F32),
        case("lateral", [1, 16, 16, 96], [256, 1, 1, 0], A::None, 1, DType::F32),
        case("vae", [1, 12, 13, 128], [136, 3, 1, 1], A::None, 1, DType::F32),
        case("vae first of two", [1, 9, 8, 32], [40, 3, 1, 1], A::None, 0, DType::F32),
        case("broadcast", [3, 5, 6, 8], [20, 3, 1, 1], A::None, 1, DType::F32),
        case("all padding", [1, 1, 2, 4], [4, 5, 1, 4], A::None, 1, DType::F32),
        case("outliers", [1, 8, 8, 12], [24, 3, 1, 1], A::None, 1, DType::F32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_do_not_take_what_their_registers_cannot_hold() {
        let choose = |height, row, padding| {
            let p = Params { pixels: 100, columns: 64, height, row, channels: 4, padding, ..Params::zeroed() };
            super::choose(&KERNEL, &Target::default(), &p).unwrap().name
        };
        assert_eq!(choose(100, 400, 1), "tile64");
        assert_eq!(choose(32_767, 400, 1), "plain");
        assert_eq!(choose(100, 1 << 29, 1), "plain");
        assert_eq!(choose(32_767, 400, 0), "tile64");
        let forced = Target { forced: vec![("conv2d".into(), "tile128".into())], ..Target::default() };
        let p = Params { height: 40_000, padding: 1, ..Params::zeroed() };
        assert!(super::choose(&KERNEL, &forced, &p).is_err());
    }
}
