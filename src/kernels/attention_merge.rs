//! The parts of an attention whose keys were split, combined. Shader: `attention_merge.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    splits: u32,
    rows: u32,
    width: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "attention_merge",
    source: wgsl!("attention_merge"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "lane", class: Class::Gpu, defines: &[("THREADS", 64)], subgroup: None }],
};

/// `(splits, rows, width + 4)` to `(rows, width)`. A row of a part is the sum of the values weighted by
/// `exp2(score - m)`, then `(m, l, 0, 0)`: the largest score, in log2 units, and the sum of the weights.
///
/// # Errors
/// `Shape` if the width is no positive multiple of 4.
pub fn attention_merge(g: &mut Graph, parts: Value) -> Result<Value> {
    g.call(&KERNEL, &(parts,))?;
    merge(g, parts)
}

/// The same as part of another call.
pub(super) fn merge(g: &mut Graph, parts: Value) -> Result<Value> {
    let [splits, rows, cols] = g.shape(parts).axes("attention_merge")?;
    ensure!(cols > 4 && cols % 4 == 0, Shape, "attention_merge: rows of {cols} elements");
    let width = cols - 4;
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let y = g.temp([rows, width], DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: Vec::new(),
        params: bytes_of(&Params { splits: splits as u32, rows: rows as u32, width: (width / 4) as u32 }).to_vec(),
        reads: vec![parts],
        writes: vec![y],
        grid: [(rows * width / 4).div_ceil(variant.get("THREADS") as usize) as u32, 1, 1],
        flops: 3 * (splits * rows * width) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

fn twin(inputs: &[Input]) -> Vec<Vec<f32>> {
    let [parts] = inputs else { unreachable!("attention_merge has one input") };
    let &[splits, rows, cols] = &*parts.shape else { unreachable!("parts have three axes") };
    let part = |s: usize, r: usize| &parts.values[(s * rows + r) * cols..][..cols];
    let mut y = Vec::with_capacity(rows * (cols - 4));
    for r in 0..rows {
        let m = (0..splits).map(|s| part(s, r)[cols - 4]).fold(f32::MIN, f32::max);
        let share = |s| (f64::from(part(s, r)[cols - 4]) - f64::from(m)).exp2();
        let sum: f64 = (0..splits).map(|s| share(s) * f64::from(part(s, r)[cols - 3])).sum();
        y.extend((0..cols - 4).map(|i| {
            let o: f64 = (0..splits).map(|s| share(s) * f64::from(part(s, r)[i])).sum();
            (o / sum) as f32
        }));
    }
    vec![y]
}

/// Shapes that can fail.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(0xA77E2);
    let mut case = |name: &str, splits: usize, rows: usize, width: usize, spread: f32| {
        let cols = width + 4;
        let mut x = random.values(splits * rows * cols);
        for row in x.chunks_mut(cols) {
            row[width] *= spread;
            row[width + 1] = 1.0 + row[width + 1].abs() * 50.0;
        }
        // f32 exp2 of drivers is good to about 1e-6 of a weight.
        Case::new(
            format!("{name} {splits}x{rows}x{width}"),
            vec![Input::f32([splits, rows, cols], x)],
            1e-11,
            |g, v| Ok(vec![attention_merge(g, v[0])?]),
            twin,
        )
    };
    vec![
        case("one part", 1, 3, 8, 1.0),
        case("odd", 3, 67, 20, 4.0),
        case("decoder", 16, 64, 16, 4.0),
        // Maxima so far apart that whole parts vanish.
        case("far apart", 5, 40, 96, 1000.0),
    ]
}
