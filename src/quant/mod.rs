//! Storage formats of weights: f16 pairs and quantised blocks, to and from f32, and from the blocks of GGUF files
//! ([`BlockFormat`]). The layouts are those of [`DType`].
//!
//! [`DType`]: crate::shape::DType

mod block;
mod k;
mod planes;
mod q4;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use block::BlockFormat;
pub use k::{SUPER_BLOCK, pack_q4k, pack_q5k, pack_q6k, unpack_q4k, unpack_q5k, unpack_q6k};
pub use q4::{pack_q4, pack_q5, unpack_q4, unpack_q5};

use half::f16;

/// Elements in a Q8, Q4 or Q5 block: those that share a scale.
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

/// Two 16-bit values to a word, low half first; an odd count gets a zero.
fn pairs(values: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let values: Vec<u32> = values.into_iter().collect();
    values.chunks(2).map(|p| p[0] | p.get(1).map_or(0, |high| high << 16)).collect()
}
