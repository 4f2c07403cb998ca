//! Storage formats of weights: f16 pairs, Q8, Q4 and Q4_K blocks, to and from f32, and from the blocks of GGUF
//! files. The layouts are those of [`DType`].
//!
//! [`DType`]: crate::shape::DType

mod gguf;
mod q4;

pub use gguf::{repack_q4, repack_q4k, repack_q8};
pub use q4::{SUPER_BLOCK, pack_q4, pack_q4k, unpack_q4, unpack_q4k};

use half::f16;

/// Elements in a Q8 or Q4 block: those that share a scale.
pub const BLOCK: usize = 32;

/// f32 to f16 pairs, low half first; an odd count gets a zero. Values beyond f16 become infinite: check first
/// with [`fits_f16`].
pub fn pack_f16(values: &[f32]) -> Vec<u32> {
    let half = |v: f32| u32::from(f16::from_f32(v).to_bits());
    values.chunks(2).map(|p| half(p[0]) | p.get(1).map_or(0, |&v| half(v) << 16)).collect()
}

/// f16 pairs to `count` f32.
pub fn unpack_f16(words: &[u32], count: usize) -> Vec<f32> {
    let half = |w: u32| f16::from_bits(w as u16).to_f32();
    words.iter().flat_map(|&w| [half(w), half(w >> 16)]).take(count).collect()
}

/// Whether no value is out of f16's range.
pub fn fits_f16(values: &[f32]) -> bool {
    values.iter().all(|v| v.abs() <= f16::MAX.to_f32())
}

/// f32 to Q8: blocks of 32 along the row, `d = max|x| / 127` kept as f16, `q = round(x / d)` (ggml's
/// `quantize_row_q8_0_ref`). All quants first, four to a word; then the scales, two to a word.
///
/// # Panics
/// If the count is no multiple of 32.
pub fn pack_q8(values: &[f32]) -> Vec<u32> {
    assert!(values.len().is_multiple_of(BLOCK), "{} values are no whole number of Q8 blocks", values.len());
    let mut quants = Vec::with_capacity(values.len() / 4);
    let mut scales = Vec::with_capacity(values.len() / BLOCK);
    for block in values.chunks(BLOCK) {
        let d = block.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        scales.push(d);
        quants.extend(block.chunks(4).map(|four| {
            four.iter()
                .enumerate()
                .fold(0, |word, (i, v)| word | u32::from((v * inverse).round() as i8 as u8) << (8 * i))
        }));
    }
    quants.extend(pack_f16(&scales));
    quants
}

/// Q8 to `count` f32.
pub fn unpack_q8(words: &[u32], count: usize) -> Vec<f32> {
    let (quants, scales) = words.split_at(count / 4);
    let scales = unpack_f16(scales, count / BLOCK);
    let quant = |i: usize| f32::from((quants[i / 4] >> (8 * (i % 4))) as u8 as i8);
    (0..count).map(|i| quant(i) * scales[i / BLOCK]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_pairs() {
        let values = [1.0, -2.5, 65504.0];
        assert_eq!(unpack_f16(&pack_f16(&values), 3), values);
        assert!(fits_f16(&values) && !fits_f16(&[65520.0]));
    }

    #[test]
    fn q8_is_within_half_a_step() {
        let values: Vec<f32> = (0..96).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.3).chain([0.0; 32]).collect();
        let back = unpack_q8(&pack_q8(&values), values.len());
        for (block, restored) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
            let step = block.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
            for (a, b) in block.iter().zip(restored) {
                // Half a step of rounding, and the rounding of the scale to f16 (2^-11) over 127 steps.
                assert!((a - b).abs() <= step * (0.5 + 127.0 / 2048.0), "{a} became {b}");
            }
        }
    }
}
