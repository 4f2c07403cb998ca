//! Four bits a weight: Q4 (ggml's Q4_0) and Q4_K.

use super::{BLOCK, pack_f16, unpack_f16};
use half::f16;

/// Elements in a Q4_K block.
pub const SUPER_BLOCK: usize = 256;

/// Eight 4-bit quants in a word: byte `b` has element `b` low and element `b + 4` high.
pub(super) fn word(quants: impl IntoIterator<Item = u8>) -> u32 {
    let place = |(i, q): (usize, u8)| u32::from(q & 15) << (i % 4 * 8 + i / 4 * 4);
    quants.into_iter().take(8).enumerate().map(place).sum()
}

/// Quant `i` of words made by [`word`].
fn quant(words: &[u32], i: usize) -> f32 {
    (words[i / 8] >> (i % 4 * 8 + i / 4 % 2 * 4) & 15) as f32
}

/// f32 to Q4: blocks of 32 along the row, `d = x / -8` of the `x` with the largest magnitude, kept as f16, and
/// `q = round(x / d) + 8`, at most 15 (ggml's `quantize_row_q4_0_ref`). Layout: [`DType::Q4`].
///
/// # Panics
/// If the count is no multiple of 32.
///
/// [`DType::Q4`]: crate::shape::DType::Q4
pub fn pack_q4(values: &[f32]) -> Vec<u32> {
    assert!(values.len().is_multiple_of(BLOCK), "{} values are no whole number of Q4 blocks", values.len());
    let mut words = Vec::with_capacity(values.len() / 8);
    let mut scales = Vec::with_capacity(values.len() / BLOCK);
    for block in values.chunks(BLOCK) {
        let d = block.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m }) / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        scales.push(d);
        words.extend(block.chunks(8).map(|eight| word(eight.iter().map(|v| (v * inverse + 8.5).min(15.0) as u8))));
    }
    words.extend(pack_f16(&scales));
    words
}

/// Q4 to `count` f32.
pub fn unpack_q4(words: &[u32], count: usize) -> Vec<f32> {
    let (quants, scales) = words.split_at(count / 8);
    let scales = unpack_f16(scales, count / BLOCK);
    (0..count).map(|i| (quant(quants, i) - 8.0) * scales[i / BLOCK]).collect()
}

/// f32 to Q4_K: each part of 32 spans its own range from `min(x, 0)` to `max(x, 0)` in 15 steps; the steps and
/// minima of the eight parts of a block are kept as 6 bits of their largest. Layout: [`DType::Q4K`].
///
/// Files quantised by ggml search for steps of less squared error than these, which the ranges give.
///
/// # Panics
/// If the count is no multiple of 256.
///
/// [`DType::Q4K`]: crate::shape::DType::Q4K
pub fn pack_q4k(values: &[f32]) -> Vec<u32> {
    assert!(values.len().is_multiple_of(SUPER_BLOCK), "{} values are no whole number of Q4_K blocks", values.len());
    let mut words = Vec::with_capacity(values.len() / 8);
    let (mut parts, mut blocks) = (Vec::new(), Vec::new());
    for block in values.chunks(SUPER_BLOCK) {
        let ranges: Vec<(f32, f32)> = block
            .chunks(BLOCK)
            .map(|part| part.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v))))
            .map(|(low, high)| ((high - low) / 15.0, -low))
            .collect();
        let (step, low) = ranges.iter().fold((0f32, 0f32), |m, r| (m.0.max(r.0), m.1.max(r.1)));
        let (d, e) = (f16::from_f32(step / 63.0), f16::from_f32(low / 63.0));
        blocks.push(u32::from(d.to_bits()) | u32::from(e.to_bits()) << 16);
        let (d, e) = (d.to_f32(), e.to_f32());
        let six = |v: f32, unit: f32| if unit == 0.0 { 0.0 } else { (v / unit).round().min(63.0) };
        for (part, (step, low)) in block.chunks(BLOCK).zip(ranges) {
            let (s, t) = (six(step, d), six(low, e));
            parts.push(s as u32 | (t as u32) << 8);
            let (step, low) = (d * s, e * t);
            let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
            let quant = |v: &f32| ((v + low) * inverse).round().clamp(0.0, 15.0) as u8;
            words.extend(part.chunks(8).map(|eight| word(eight.iter().map(quant))));
        }
    }
    words.extend(parts.chunks(2).map(|p| p[0] | p[1] << 16));
    words.extend(blocks);
    words
}

/// Q4_K to `count` f32, as `d s q - e t`: the products are exact, only the difference rounds.
pub fn unpack_q4k(words: &[u32], count: usize) -> Vec<f32> {
    let (quants, rest) = words.split_at(count / 8);
    let (parts, blocks) = rest.split_at(count / 64);
    let value = |i: usize| {
        let st = parts[i / 64] >> (i / BLOCK % 2 * 16);
        let de = unpack_f16(&blocks[i / SUPER_BLOCK..][..1], 2);
        de[0] * (st & 255) as f32 * quant(quants, i) - de[1] * (st >> 8 & 255) as f32
    };
    (0..count).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// Two blocks of 256 of any magnitude that weights have, of both signs or of one, some with outliers.
    fn blocks() -> impl Strategy<Value = Vec<f32>> {
        (vec(-1f32..1.0, 2 * SUPER_BLOCK), -6..4, -2..3, 1..300usize).prop_map(|(values, exponent, shift, rare)| {
            let scale = 10f32.powi(exponent);
            let of = |(i, v)| (v + shift as f32) * scale * if i % rare == 7 { 50.0 } else { 1.0 };
            values.into_iter().enumerate().map(of).collect()
        })
    }

    fn largest(values: &[f32]) -> f32 {
        values.iter().fold(0f32, |m, v| m.max(v.abs()))
    }

    /// Half the smallest f16: what a scale may be off where f16 is subnormal.
    const TINY: f32 = 1.0 / 33_554_432.0;

    proptest! {
        #[test]
        fn q4_is_within_a_step(values in blocks()) {
            let words = pack_q4(&values);
            prop_assert_eq!(words.len() * 4, values.len() / 32 * (16 + 2));
            let back = unpack_q4(&words, values.len());
            for (block, restored) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let largest = largest(block);
                for (a, b) in block.iter().zip(restored) {
                    // Half a step; a whole one at the end that has no quant 16; 8 steps of the scale's rounding.
                    let steps = if a.abs() > 0.9 * largest { 1.0 } else { 0.5 };
                    let allowed = largest * (steps / 8.0 + 1e-6 + 1.0 / 2048.0) + 8.0 * TINY;
                    prop_assert!((a - b).abs() <= allowed, "{} became {}", a, b);
                }
            }
        }

        #[test]
        fn q4k_is_within_its_steps(values in blocks()) {
            let words = pack_q4k(&values);
            prop_assert_eq!(words.len() * 4, values.len() / 256 * (128 + 16 + 4));
            let back = unpack_q4k(&words, values.len());
            for (block, restored) in values.chunks(SUPER_BLOCK).zip(back.chunks(SUPER_BLOCK)) {
                let largest = largest(block);
                for (a, b) in block.iter().zip(restored) {
                    // A step is at most 2/15 of the largest: half of one; the rounding of 15 of them and of the
                    // minimum to 6 bits of theirs, which is half of 1/63; and their f16 units, 2^-11.
                    let allowed = largest * (1.0 / 15.0 + 3.0 * 0.5 / 63.0 + 3.0 / 2048.0);
                    prop_assert!((a - b).abs() <= allowed + 16.0 * 63.0 * TINY, "{} became {}, of {}", a, b, largest);
                }
            }
        }
    }

    #[test]
    fn what_is_on_the_grid_stays() {
        let q4: Vec<f32> = (0..64).map(|i| ((i * 7 % 16) as f32 - 8.0) * 0.25).collect();
        assert_eq!(unpack_q4(&pack_q4(&q4), 64), q4);
        // Parts with steps of 63/64 to 56/64.
        let q4k: Vec<f32> = (0..256).map(|i| (63 - i / 32) as f32 / 64.0 * (i * 7 % 16) as f32).collect();
        assert_eq!(unpack_q4k(&pack_q4k(&q4k), 256), q4k);
        assert_eq!(unpack_q4k(&pack_q4k(&[0.0; 256]), 256), [0.0; 256]);
        assert_eq!(unpack_q4(&pack_q4(&[0.0; 32]), 32), [0.0; 32]);
    }
}
