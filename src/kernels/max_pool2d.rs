//! Maximum over 2 x 2 pixels with stride 2, of a range of channels. Shader: `max_pool2d.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    width: u32,
    cols: u32,
    row: u32,
    offset: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "max_pool2d",
    source: wgsl!("max_pool2d"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "element", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// The maximum over 2 x 2 pixels with stride 2 of channels `offset .. offset + channels`: with an offset it reads
/// the queries out of packed query-key-value rows.
///
/// `x`: `(n, h, w, row)` f32, `h` and `w` even; the result: `(n, h / 2, w / 2, channels)`.
///
/// # Errors
/// `Shape` if a side is odd or the channels are outside the row.
pub fn max_pool2d(g: &mut Graph, x: Value, offset: usize, channels: usize) -> Result<Value> {
    g.call(&KERNEL, &(x, offset, channels))?;
    let [n, h, w, row] = g.shape(x).axes("max_pool2d: x")?;
    ensure!(h % 2 == 0 && w % 2 == 0, Shape, "max_pool2d: {} has an odd side", g.shape(x));
    let inside = channels > 0 && offset + channels <= row;
    ensure!(inside, Shape, "max_pool2d: channels {offset}..{} of {}", offset + channels, g.shape(x));
    expect_f32(g, KERNEL.name, &[x])?;
    let vec = if [offset, channels, row].iter().all(|n| n.is_multiple_of(4)) { 4 } else { 1 };
    let shape = [n, h / 2, w / 2, channels];
    let count = shape.iter().product::<usize>() / vec;
    let params = Params {
        count: count as u32,
        width: (w / 2) as u32,
        cols: (channels / vec) as u32,
        row: (row / vec) as u32,
        offset: (offset / vec) as u32,
    };
    let y = g.temp(shape, DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![("VEC", vec as i64)],
        params: bytes_of(&params).to_vec(),
        reads: vec![x],
        writes: vec![y],
        grid: [count.div_ceil(64) as u32, 1, 1],
        flops: 3 * (count * vec) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// Packed queries, whole rows and edges; exact.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(5);
    let mut case = |name: &str, x: [usize; 4], offset: usize, channels: usize| {
        let inputs = vec![Input::f32(x, random.outliers(x.iter().product()))];
        let twin = move |inputs: &[Input]| {
            let [n, h, w, row] = x;
            let at = |line: usize, column: usize, c: usize| inputs[0].values[(line * w + column) * row + offset + c];
            let y = (0..n * h / 2 * (w / 2) * channels).map(|i| {
                let (line, column, c) = (i / channels / (w / 2), i / channels % (w / 2), i % channels);
                let pixels = [(0, 0), (0, 1), (1, 0), (1, 1)];
                pixels.map(|(a, b)| at(2 * line + a, 2 * column + b, c)).into_iter().fold(f32::MIN, f32::max)
            });
            vec![y.collect()]
        };
        Case::new(
            format!("{name} {x:?} {offset}+{channels}"),
            inputs,
            0.0,
            move |g, v| Ok(vec![max_pool2d(g, v[0], offset, channels)?]),
            twin,
        )
    };
    vec![
        case("one", [1, 2, 2, 1], 0, 1),
        case("odd channels", [2, 6, 4, 7], 2, 3),
        case("queries", [4, 8, 8, 576], 0, 192),
        case("window of 14", [2, 14, 14, 288], 96, 96),
        case("shortcut", [1, 12, 20, 224], 0, 224),
    ]
}
