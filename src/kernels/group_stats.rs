//! Statistics of a group norm: mean and inverse deviation of groups of channels. Shader: `group_stats.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    pixels: u32,
    cols: u32,
    chunk: u32,
    parts: u32,
    groups: u32,
    eps: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "group_stats",
    source: wgsl!("group_stats"),
    params: size_of::<Params>(),
    variants: &[
        Variant { name: "lanes8", class: Class::Gpu, defines: &[("LANES", 8), ("THREADS", 64)], subgroup: None },
        Variant { name: "lane", class: Class::Software, defines: &[("LANES", 1), ("THREADS", 1)], subgroup: None },
    ],
};

/// Mean and `1 / sqrt(variance + eps)` of each of `groups` runs of channels over all pixels: `(n, groups, 2)`.
///
/// `x`: `(n, h, w, channels)` f32, channels a multiple of 4. With [`group_norm`](super::group_norm::group_norm) it is
/// `torch.nn.GroupNorm`, whose variance is the biased one, too.
///
/// # Errors
/// `Shape` if channels are no multiple of 4 or of `groups`, or there are too many for a launch.
pub fn group_stats(g: &mut Graph, x: Value, groups: usize, eps: f32) -> Result<Value> {
    g.call(&KERNEL, &(x, groups, eps))?;
    let [n, h, w, channels] = g.shape(x).axes("group_stats: x")?;
    let pixels = h * w;
    let fits = n * pixels > 0 && groups > 0 && channels.is_multiple_of(groups) && channels.is_multiple_of(4);
    ensure!(fits, Shape, "group_stats: {groups} groups of {}", g.shape(x));
    expect_f32(g, KERNEL.name, &[x])?;
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let (lanes, threads) = (variant.get("LANES") as usize, variant.get("THREADS") as usize);
    // A part is long enough to be worth its two sums, and short enough that all of them fill a GPU; the second stage
    // reads all that the parts of a group left.
    let least = if lanes > 1 { 256 } else { 4096 };
    let chunk = least.max(pixels.div_ceil(512)).min(pixels);
    let parts = pixels.div_ceil(chunk);
    let long = (chunk / lanes).max(parts * channels / groups / threads * 2);
    ensure!(long < MOST_ITERATIONS, Shape, "group_stats: {} is too large", g.shape(x));
    let params = Params {
        pixels: pixels as u32,
        cols: (channels / 4) as u32,
        chunk: chunk as u32,
        parts: parts as u32,
        groups: groups as u32,
        eps,
    };
    let stage = |stage, reads, writes, grid: [usize; 3], flops: usize| Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("STAGE", stage)],
        params: bytes_of(&params).to_vec(),
        reads: vec![reads],
        writes: vec![writes],
        grid: grid.map(|n| n as u32),
        flops: flops as u64,
        scope: String::new(),
    };
    let partial = g.temp([n, parts, channels / 4, 8], DType::F32);
    let stats = g.temp([n, groups, 2], DType::F32);
    g.dispatch(stage(0, x, partial, [channels.div_ceil(32), parts, n], 6 * n * pixels * channels))?;
    g.dispatch(stage(1, partial, stats, [n * groups, 1, 1], 8 * n * parts * channels))?;
    Ok(stats)
}

/// Mean and inverse deviation of every group, in f64: the twin's.
pub(super) fn statistics(x: &Input, groups: usize, eps: f64) -> Vec<[f64; 2]> {
    let channels = x.shape[3];
    let (size, plane) = (channels / groups, x.values.len() / x.shape[0]);
    let group = |image: &[f32], k: usize| {
        let of = |row: &[f32]| row[k * size..][..size].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let values: Vec<f64> = image.chunks(channels).flat_map(of).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        [mean, 1.0 / (variance + eps).sqrt()]
    };
    x.values.chunks(plane).flat_map(|image| (0..groups).map(move |k| group(image, k))).collect()
}

/// The autoencoder's channels on smaller pictures, several parts, and edges.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(34);
    let mut case = |name: &str, [n, h, w, channels]: [usize; 4], groups: usize, offset: f32| {
        let mut x = random.outliers(n * h * w * channels);
        x.iter_mut().for_each(|v| *v = if offset == 0.0 { *v } else { v.clamp(-1.0, 1.0) + offset });
        Case::new(
            format!("{name} {n}x{h}x{w}x{channels} in {groups}"),
            vec![Input::f32([n, h, w, channels], x)],
            1e-10,
            move |g, v| Ok(vec![group_stats(g, v[0], groups, 1e-6)?]),
            move |i| vec![statistics(&i[0], groups, 1e-6).concat().into_iter().map(|v| v as f32).collect()],
        )
    };
    vec![
        case("one pixel", [1, 1, 1, 4], 1, 0.0),
        case("odd, groups across columns", [2, 5, 7, 24], 4, 0.0),
        case("a channel a group", [2, 33, 31, 32], 32, 0.0),
        case("many parts", [1, 67, 129, 64], 32, 0.0),
        case("last level", [1, 9, 10, 512], 32, 0.0),
        // A mean far from 0 beside the deviation: what E[x^2] - mean^2 gets wrong.
        case("far from zero", [1, 70, 40, 64], 32, 1000.0),
    ]
}
