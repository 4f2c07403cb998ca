//! Transposed 2 x 2 convolution with stride 2: upsampling by a matrix product. Shader: `conv_transpose2d.wgsl`.

use super::{
    activation::Activation,
    conv2d::{Operands, Params, VARIANTS, implicit_gemm},
    prelude::*,
};

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "conv_transpose2d",
    source: wgsl!("conv_transpose2d"),
    params: size_of::<Params>(),
    variants: VARIANTS,
};

/// `y = activation(conv_transpose(x) + bias + skip)`, as `torch.nn.functional.conv_transpose2d` with a 2 x 2 kernel
/// and stride 2.
///
/// `x`: `(n, h, w, cin)` f32; `weight`: `(2, 2, cout, cin)` (`ky, kx, o, i`) f32 or f16; `bias`: `(cout)`;
/// `skip`: `(1 or n, 2h, 2w, cout)`; the result: `(n, 2h, 2w, cout)`.
///
/// # Errors
/// `Shape` if ranks, channels or storages do not fit.
pub fn conv_transpose2d(
    g: &mut Graph,
    x: Value,
    weight: Value,
    bias: Value,
    skip: Option<Value>,
    activation: Activation,
) -> Result<Value> {
    g.call(&KERNEL, &(x, weight, bias, skip, activation))?;
    let [n, h, w, cin] = g.shape(x).axes("conv_transpose2d: x")?;
    let [kh, kw, cout, wcin] = g.shape(weight).axes("conv_transpose2d: weight")?;
    let fits = (kh, kw, wcin) == (2, 2, cin);
    ensure!(fits, Shape, "conv_transpose2d: weight {} for x {}", g.shape(weight), g.shape(x));
    let params = Params {
        pixels: (n * h * w) as u32,
        columns: 4 * cout as u32,
        out_height: h as u32,
        out_width: w as u32,
        height: h as u32,
        row: (w * cin) as u32,
        channels: cin as u32,
        taps: 1,
        span: cin as u32,
        stride: 1,
        padding: 0,
        extra: 0,
    };
    let operands = Operands { x, weight, bias, extra: skip };
    implicit_gemm(g, &KERNEL, operands, [n, 2 * h, 2 * w, cout], params, activation)
}

fn twin(inputs: &[Input], activation: Activation) -> Vec<Vec<f32>> {
    let [x, weight, bias, rest @ ..] = inputs else { unreachable!("conv_transpose2d has three inputs") };
    let (&[n, h, w, cin], cout) = (&x.shape[..], bias.values.len()) else { unreachable!("rank 4") };
    let mut y = Vec::with_capacity(4 * n * h * w * cout);
    for m in 0..n * 4 * h * w {
        let (image, oy, ox) = (m / (4 * h * w), m / (2 * w) % (2 * h), m % (2 * w));
        let xs = &x.values[((image * h + oy / 2) * w + ox / 2) * cin..][..cin];
        for o in 0..cout {
            let ws = &weight.values[((oy % 2 * 2 + ox % 2) * cout + o) * cin..][..cin];
            let product = xs.iter().zip(ws).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let skip = rest.first().map_or(0.0, |s| f64::from(s.values[(m * cout + o) % s.values.len()]));
            y.push(activation.apply(product + f64::from(bias.values[o]) + skip) as f32);
        }
    }
    vec![y]
}

/// Shapes of SAM 2's mask decoder (fewer pixels) and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(3);
    let mut case = |name: &str, x: [usize; 4], cout: usize, activation: Activation, skip: usize, dtype: DType| {
        let mut values = |count| if name == "outliers" { random.outliers(count) } else { random.values(count) };
        let mut inputs = vec![
            Input::f32(x, values(x.iter().product())),
            Input::stored(dtype, [2, 2, cout, x[3]], values(4 * cout * x[3])),
            Input::f32([cout], values(cout)),
        ];
        if skip > 0 {
            inputs.push(Input::f32([skip, 2 * x[1], 2 * x[2], cout], values(skip * 4 * x[1] * x[2] * cout)));
        }
        Case::new(
            format!("{name} {x:?} to {cout} {dtype:?}"),
            inputs,
            // f32 accumulation of up to 256 products, in any order.
            1e-11,
            move |g, v| {
                let skip = v.get(3).copied();
                Ok(vec![conv_transpose2d(g, v[0], v[1], v[2], skip, activation)?])
            },
            move |inputs| twin(inputs, activation),
        )
    };
    use Activation as A;
    // Few combinations of channels % 4, storage, skip and activation: each is a text to compile for every variant.
    vec![
        case("one", [1, 1, 1, 1], 1, A::Relu, 1, DType::F32),
        case("odd", [2, 3, 5, 7], 3, A::Relu, 2, DType::F32),
        case("odd half", [1, 5, 3, 9], 5, A::None, 0, DType::F16),
        case("decoder upscale 1", [2, 8, 8, 256], 64, A::None, 1, DType::F32),
        case("decoder upscale 2", [2, 12, 12, 64], 32, A::Gelu, 1, DType::F16),
        case("own skips", [3, 4, 4, 16], 8, A::Gelu, 3, DType::F16),
        case("outliers", [1, 6, 6, 20], 12, A::None, 1, DType::F32),
    ]
}
