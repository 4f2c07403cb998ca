//! Packing f32 weights into the storage that kernels read: [`DType::F16`](crate::shape::DType) and
//! [`DType::Q8`](crate::shape::DType).

use crate::error::{Result, ensure};
use half::f16;

/// Elements that share a scale in Q8.
pub const Q8_BLOCK: usize = 32;

/// Two f16 to a `u32`, the first in the low half; an odd count is padded with zero. Rounds to nearest even.
///
/// # Errors
/// `Numeric` for a value that f16 cannot hold (beyond ±65519, NaN, infinite). Saturating would change the model in
/// silence, and such a tensor can be kept in f32.
pub fn quantize_f16(values: &[f32]) -> Result<Vec<u32>> {
    let half = |i: usize| -> Result<u32> {
        let x = values.get(i).copied().unwrap_or(0.0);
        let y = f16::from_f32(x);
        ensure!(y.is_finite(), Numeric, "element {i} is {x}, which f16 cannot hold");
        Ok(u32::from(y.to_bits()))
    };
    (0..values.len().div_ceil(2)).map(|i| Ok(half(2 * i)? | half(2 * i + 1)? << 16)).collect()
}

/// Blocks of 32 along the last axis with the values of ggml's `Q8_0`: the scale is `max|x| / 127`, stored as f16;
/// a quant is `x / scale` rounded half away from zero, with the scale *before* its rounding to f16, as ggml does.
/// All quants come first, row-major, four `i8` to a `u32` (first in the low byte), then the scales, two f16 to a
/// `u32`; an odd count of scales is padded with zero.
///
/// # Errors
/// `Shape` unless `values` are `rows * cols` and `cols` is a multiple of 32: a block must not reach into the next
/// row. `Numeric` if a value is NaN or infinite, or a scale is beyond f16.
pub fn quantize_q8(rows: usize, cols: usize, values: &[f32]) -> Result<Vec<u32>> {
    ensure!(
        rows.checked_mul(cols) == Some(values.len()),
        Shape,
        "q8: {} values are not {rows} rows of {cols}",
        values.len()
    );
    ensure!(cols.is_multiple_of(Q8_BLOCK), Shape, "q8: rows of {cols} elements are no whole blocks of {Q8_BLOCK}");
    let blocks = values.len() / Q8_BLOCK;
    let mut out = Vec::with_capacity(values.len() / 4 + blocks.div_ceil(2));
    let mut scales = Vec::with_capacity(blocks);
    for (b, block) in values.chunks_exact(Q8_BLOCK).enumerate() {
        // `f32::max` drops NaN, so finiteness is checked by itself.
        ensure!(block.iter().all(|x| x.is_finite()), Numeric, "q8: NaN or infinity in block {b}");
        let scale = block.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
        let stored = f16::from_f32(scale);
        ensure!(stored.is_finite(), Numeric, "q8: the scale {scale} of block {b} is beyond f16");
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for four in block.as_chunks::<4>().0 {
            // The clamp is for scales so small that their reciprocal overflows; `as` saturates the same way.
            let quants = four.map(|x| (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8);
            out.push(u32::from_le_bytes(quants));
        }
        scales.push(stored.to_bits());
    }
    out.extend(scales.chunks(2).map(|s| u32::from(s[0]) | s.get(1).map_or(0, |&s| u32::from(s) << 16)));
    Ok(out)
}

/// The values that [`quantize_q8`]'s output stands for.
///
/// # Errors
/// `Shape` if `packed` is not the storage of `rows` rows of `cols` elements.
pub fn dequantize_q8(rows: usize, cols: usize, packed: &[u32]) -> Result<Vec<f32>> {
    let count = rows.checked_mul(cols).filter(|_| cols.is_multiple_of(Q8_BLOCK)).unwrap_or(usize::MAX);
    let blocks = count / Q8_BLOCK;
    ensure!(
        packed.len() == count / 4 + blocks.div_ceil(2),
        Shape,
        "q8: {} words are not {rows} rows of {cols}",
        packed.len()
    );
    let (quants, scales) = packed.split_at(count / 4);
    let scale = |b: usize| f16::from_bits((scales[b / 2] >> (16 * (b % 2))) as u16).to_f32();
    Ok((0..count)
        .map(|i| f32::from(quants[i / 4].to_le_bytes()[i % 4] as i8) * scale(i / Q8_BLOCK))
        .collect())
}
