//! Group norm with known statistics, and an activation. Shader: `group_norm.wgsl`.

use super::{activation::Activation, group_stats::statistics, prelude::*};

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    cols: u32,
    plane: u32,
    groups: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "group_norm",
    source: wgsl!("group_norm"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "vec4", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// `activation((x - mean) * inverse deviation * weight + bias)` with the statistics of
/// [`group_stats`](super::group_stats::group_stats).
///
/// `x`: `(n, h, w, channels)` f32; `stats`: `(n, groups, 2)`; `weight`, `bias`: `(channels)`. As `torch.nn.GroupNorm`, on
/// NHWC images. The statistics may be those of a larger picture, of which `x` is a tile.
///
/// # Errors
/// `Shape` if the operands do not fit each other, or channels are no multiple of 4.
pub fn group_norm(
    g: &mut Graph,
    x: Value,
    stats: Value,
    weight: Value,
    bias: Value,
    activation: Activation,
) -> Result<Value> {
    g.call(&KERNEL, &(x, stats, weight, bias, activation))?;
    let [n, h, w, channels] = g.shape(x).axes("group_norm: x")?;
    let [images, groups, two] = g.shape(stats).axes("group_norm: stats")?;
    let fits = n * h * w > 0 && images == n && two == 2 && groups > 0 && channels.is_multiple_of(groups);
    ensure!(fits && channels.is_multiple_of(4), Shape, "group_norm: {} with {}", g.shape(x), g.shape(stats));
    for v in [weight, bias] {
        ensure!(g.shape(v).count() == channels, Shape, "group_norm: weight {} for {}", g.shape(v), g.shape(x));
    }
    expect_f32(g, KERNEL.name, &[x, stats, weight, bias])?;
    let (cols, count) = (channels / 4, n * h * w * channels / 4);
    let params = Params { count: count as u32, cols: cols as u32, plane: (h * w * cols) as u32, groups: groups as u32 };
    let y = g.temp(g.shape(x), DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![("CHANNELS", (channels / groups) as i64), activation.define()],
        params: bytes_of(&params).to_vec(),
        reads: vec![x, stats, weight, bias],
        writes: vec![y],
        grid: [count.div_ceil(64) as u32, 1, 1],
        flops: 4 * (n * h * w * channels) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

fn twin(inputs: &[Input], activation: Activation) -> Vec<Vec<f32>> {
    let [x, stats, weight, bias] = inputs else { unreachable!("group_norm has four inputs") };
    let (channels, groups, plane) = (x.shape[3], stats.shape[1], x.values.len() / x.shape[0]);
    let value = |(i, &v): (usize, &f32)| {
        let c = i % channels;
        let at = 2 * (i / plane * groups + c / (channels / groups));
        let [mean, inverse] = [0, 1].map(|k| f64::from(stats.values[at + k]));
        let n = (f64::from(v) - mean) * inverse * f64::from(weight.values[c]) + f64::from(bias.values[c]);
        activation.apply(n) as f32
    };
    vec![x.values.iter().enumerate().map(value).collect()]
}

/// The autoencoder's channels on smaller pictures, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(35);
    let mut case = |name: &str, [n, h, w, channels]: [usize; 4], groups: usize, activation: Activation| {
        let x = Input::f32([n, h, w, channels], random.outliers(n * h * w * channels));
        let stats = statistics(&x, groups, 1e-6).concat().into_iter().map(|v| v as f32).collect();
        let inputs = vec![
            x,
            Input::f32([n, groups, 2], stats),
            Input::f32([channels], random.values(channels)),
            Input::f32([channels], random.values(channels)),
        ];
        Case::new(
            format!("{name} {n}x{h}x{w}x{channels} in {groups} {activation:?}"),
            inputs,
            1e-11,
            move |g, v| Ok(vec![group_norm(g, v[0], v[1], v[2], v[3], activation)?]),
            move |inputs| twin(inputs, activation),
        )
    };
    vec![
        case("one pixel", [1, 1, 1, 4], 1, Activation::None),
        case("odd, groups across columns", [2, 5, 7, 24], 4, Activation::Silu),
        case("a channel a group", [2, 9, 31, 32], 32, Activation::Silu),
        case("resnet", [1, 17, 16, 128], 32, Activation::Silu),
        case("attention", [1, 8, 8, 512], 32, Activation::None),
    ]
}
