//! Activations to 8 bits in blocks of 32, for products that take both operands so. Shader: `quantize_rows.wgsl`.

use super::{matmul::Strides, prelude::*};
use crate::quant;

/// Mirrors `Params` in the shader, after `base`. Elements, blocks and words.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x_offset: u32,
    x_row: u32,
    row: u32,
    blocks: u32,
    scales: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "quantize_rows",
    source: wgsl!("quantize_rows"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "block8", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// `rows` rows of `k` of an f32 value, from `at` on, to a dense `(rows, k)` [`DType::Q8`]: `d = max|x| / 127`,
/// `q = round(x / d)` for blocks of 32, as [`quant::pack_q8`]. `at.batch` is not used. Values beyond 127 times the
/// largest f16, 8.3e6, are clamped to it.
///
/// # Errors
/// `Shape` if x is not f32, is shorter than its strides reach, or `k`, offset and row are no whole blocks and fours.
pub fn quantize_rows(g: &mut Graph, x: Value, at: Strides, rows: usize, k: usize) -> Result<Value> {
    expect_f32(g, "quantize_rows", &[x])?;
    let whole = k > 0 && k.is_multiple_of(quant::BLOCK) && at.offset.is_multiple_of(4) && at.row.is_multiple_of(4);
    ensure!(whole, Shape, "quantize_rows: rows of {k} at {at:?}: not in whole blocks of 32");
    let count = g.shape(x).count();
    let inside = rows > 0 && at.offset + (rows - 1) * at.row + k <= count && u32::try_from(count).is_ok();
    ensure!(inside, Shape, "quantize_rows: {rows} rows of {k} at {at:?} of {}", g.shape(x));
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let blocks = rows * k / quant::BLOCK;
    let y = g.temp([rows, k], DType::Q8);
    let params = Params {
        x_offset: at.offset as u32,
        x_row: at.row as u32,
        row: (k / quant::BLOCK) as u32,
        blocks: blocks as u32,
        scales: (rows * k / 4) as u32,
    };
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: Vec::new(),
        params: bytes_of(&params).to_vec(),
        reads: vec![x],
        writes: vec![y],
        grid: [blocks.div_ceil(8) as u32, 1, 1],
        flops: 3 * (rows * k) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// Shapes that can fail.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(0x0A8);
    let mut case = |name: &str, rows: usize, k: usize, at: Strides, outliers: bool| {
        let count = at.offset + (rows - 1) * at.row + k;
        let mut x = if outliers { random.outliers(count) } else { random.values(count) };
        x[at.offset..][..k].iter_mut().take(32).for_each(|v| *v *= if rows > 1 { 0.0 } else { 1.0 });
        let twin = move |inputs: &[Input]| {
            let row = |r: usize| &inputs[0].values[at.offset + r * at.row..][..k];
            let dense: Vec<f32> = (0..rows).flat_map(row).copied().collect();
            vec![quant::unpack_q8(&quant::pack_q8(&dense), rows * k)]
        };
        // A driver may round a scale to the f16 below, which is 2^-11 of every value: 2.4e-7 of the mean square.
        let record = move |g: &mut Graph, v: &[Value]| Ok(vec![quantize_rows(g, v[0], at, rows, k)?]);
        Case::new(format!("{name} {rows}x{k}"), vec![Input::f32([count], x)], 1e-6, record, twin)
    };
    let dense = |k| Strides { offset: 0, batch: 0, row: k };
    vec![
        case("one block", 1, 32, dense(32), false),
        case("odd count of blocks, a block of zeros", 3, 96, dense(96), false),
        case("strided", 5, 64, Strides { offset: 8, batch: 0, row: 100 }, false),
        case("outliers", 9, 256, dense(256), true),
    ]
}
