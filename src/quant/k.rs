//! ggml's K formats, blocks of 256 with scales of scales: Q4K, Q5K and Q6K. Layouts: [`DType`].
//!
//! [`DType`]: crate::shape::DType

use super::{
    BLOCK, pack_f16, pairs,
    planes::{bits, plane},
    unpack_f16,
};
use half::f16;

/// Elements in a Q4K, Q5K or Q6K block.
pub const SUPER_BLOCK: usize = 256;

/// Elements in a part of a Q6K block.
const PART: usize = 16;

/// f32 to Q4K: each part of 32 spans its own range from `min(x, 0)` to `max(x, 0)` in 15 steps; the steps and
/// minima of the eight parts of a block are kept as 6 bits of their largest.
///
/// Files quantised by ggml search for steps of less squared error than these, which the ranges give.
///
/// # Panics
/// If the count is no multiple of 256.
pub fn pack_q4k(values: &[f32]) -> Vec<u32> {
    let (quants, scales) = ranges(values, 15);
    plane::<4>(&quants, 0).chain(scales).collect()
}

/// f32 to Q5K: as [`pack_q4k`], in 31 steps.
///
/// # Panics
/// If the count is no multiple of 256.
pub fn pack_q5k(values: &[f32]) -> Vec<u32> {
    let (quants, scales) = ranges(values, 31);
    plane::<4>(&quants, 0).chain(plane::<1>(&quants, 4)).chain(scales).collect()
}

/// Quants, and the words of parts and blocks.
fn ranges(values: &[f32], steps: u8) -> (Vec<u8>, Vec<u32>) {
    assert_whole(values);
    let mut quants = Vec::with_capacity(values.len());
    let (mut parts, mut blocks) = (Vec::new(), Vec::new());
    for block in values.chunks(SUPER_BLOCK) {
        let ranges: Vec<(f32, f32)> = block
            .chunks(BLOCK)
            .map(|part| part.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v))))
            .map(|(low, high)| ((high - low) / f32::from(steps), -low))
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
            quants.extend(part.iter().map(|v| ((v + low) * inverse).round().clamp(0.0, f32::from(steps)) as u8));
        }
    }
    let mut scales = pairs(parts);
    scales.extend(blocks);
    (quants, scales)
}

/// f32 to Q6K: the scale of each part of 16 is `x / -32` of its `x` with the largest magnitude, kept as 8 bits of the
/// largest scale of the block.
///
/// # Panics
/// If the count is no multiple of 256.
pub fn pack_q6k(values: &[f32]) -> Vec<u32> {
    assert_whole(values);
    let mut quants = Vec::with_capacity(values.len());
    let (mut parts, mut blocks) = (Vec::new(), Vec::new());
    for block in values.chunks(SUPER_BLOCK) {
        let farther = |m: f32, v: &f32| if v.abs() > m.abs() { *v } else { m };
        let scales: Vec<f32> = block.chunks(PART).map(|part| part.iter().fold(0.0, farther) / -32.0).collect();
        let d = f16::from_f32(scales.iter().fold(0f32, |m, s| m.max(s.abs())) / 127.0).to_f32();
        blocks.push(d);
        for (part, scale) in block.chunks(PART).zip(scales) {
            let s = if d == 0.0 { 0.0 } else { (scale / d).round().clamp(-127.0, 127.0) };
            parts.push(s as i8 as u8);
            let inverse = if s == 0.0 { 0.0 } else { 1.0 / (d * s) };
            quants.extend(part.iter().map(|v| ((v * inverse).round() + 32.0).clamp(0.0, 63.0) as u8));
        }
    }
    let scales = parts.as_chunks().0.iter().map(|s| u32::from_le_bytes(*s));
    plane::<4>(&quants, 0).chain(plane::<2>(&quants, 4)).chain(scales).chain(pack_f16(&blocks)).collect()
}

fn assert_whole(values: &[f32]) {
    assert!(values.len().is_multiple_of(SUPER_BLOCK), "{} values are no whole number of K blocks", values.len());
}

/// Q4K to `count` f32, as `d s q - e t`: the products are exact, only the difference rounds.
pub fn unpack_q4k(words: &[u32], count: usize) -> Vec<f32> {
    let (low, scales) = words.split_at(count / 8);
    differences(scales, count, |i| bits::<4>(low, i))
}

/// Q5K to `count` f32, as [`unpack_q4k`].
pub fn unpack_q5k(words: &[u32], count: usize) -> Vec<f32> {
    let (low, rest) = words.split_at(count / 8);
    let (high, scales) = rest.split_at(count / 32);
    differences(scales, count, |i| bits::<4>(low, i) | bits::<1>(high, i) << 4)
}

fn differences(scales: &[u32], count: usize, quant: impl Fn(usize) -> u8) -> Vec<f32> {
    let (parts, blocks) = scales.split_at(count / 64);
    let value = |i: usize| {
        let st = parts[i / 64] >> (i / BLOCK % 2 * 16);
        let de = unpack_f16(&blocks[i / SUPER_BLOCK..][..1], 2);
        de[0] * (st & 255) as f32 * f32::from(quant(i)) - de[1] * (st >> 8 & 255) as f32
    };
    (0..count).map(value).collect()
}

/// Q6K to `count` f32, exactly.
pub fn unpack_q6k(words: &[u32], count: usize) -> Vec<f32> {
    let (low, rest) = words.split_at(count / 8);
    let (high, rest) = rest.split_at(count / 16);
    let (parts, blocks) = rest.split_at(count / 64);
    let blocks = unpack_f16(blocks, count / SUPER_BLOCK);
    let value = |i: usize| {
        let s = (parts[i / 64] >> (i / PART % 4 * 8)) as i8;
        blocks[i / SUPER_BLOCK] * f32::from(s) * (f32::from(bits::<4>(low, i) | bits::<2>(high, i) << 4) - 32.0)
    };
    (0..count).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn q4k_and_q5k_are_within_their_steps(values in blocks()) {
            let (q4, q5) = (pack_q4k(&values), pack_q5k(&values));
            prop_assert_eq!(q4.len() * 4, values.len() / 256 * (128 + 16 + 4));
            prop_assert_eq!(q5.len() * 4, values.len() / 256 * (128 + 32 + 16 + 4));
            for (back, steps) in [(unpack_q4k(&q4, values.len()), 15.0), (unpack_q5k(&q5, values.len()), 31.0)] {
                for (block, restored) in values.chunks(SUPER_BLOCK).zip(back.chunks(SUPER_BLOCK)) {
                    let largest = largest(block);
                    for (a, b) in block.iter().zip(restored) {
                        // A step is at most 2/15 or 2/31 of the largest: half of one; the rounding of all of them and
                        // of the minimum to 6 bits of theirs, which is half of 1/63; and their f16 units, 2^-11.
                        let allowed = largest * (1.0 / steps + 3.0 * 0.5 / 63.0 + 3.0 / 2048.0);
                        let tiny = (steps + 1.0) * 63.0 * TINY;
                        prop_assert!((a - b).abs() <= allowed + tiny, "{} became {}, of {}", a, b, largest);
                    }
                }
            }
        }

        #[test]
        fn q6k_is_within_its_steps(values in blocks()) {
            let words = pack_q6k(&values);
            prop_assert_eq!(words.len() * 4, values.len() / 256 * (128 + 64 + 16) + 4);
            let back = unpack_q6k(&words, values.len());
            for (block, restored) in values.chunks(SUPER_BLOCK).zip(back.chunks(SUPER_BLOCK)) {
                let largest = largest(block);
                for (part, restored) in block.chunks(PART).zip(restored.chunks(PART)) {
                    let own = self::largest(part);
                    for (a, b) in part.iter().zip(restored) {
                        // Half a step, a whole one at the end that has no quant 64; and what rounding the scale to
                        // 8 bits and f16 moves the 32 steps.
                        let steps = if a.abs() > 0.9 * own { 1.0 } else { 0.5 };
                        let allowed = (own * steps + largest * 0.5 / 127.0) / 32.0 + largest * (0.5 / 127.0 + 1.0 / 2048.0);
                        prop_assert!((a - b).abs() <= allowed + 33.0 * 127.0 * TINY, "{} became {}, of {}", a, b, own);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_on_the_grid_stays() {
        // Parts with steps of 63/64 to 56/64.
        let q4k: Vec<f32> = (0..256).map(|i| (63 - i / 32) as f32 / 64.0 * (i * 7 % 16) as f32).collect();
        assert_eq!(unpack_q4k(&pack_q4k(&q4k), 256), q4k);
        let q5k: Vec<f32> = (0..256).map(|i| (63 - i / 32) as f32 / 64.0 * (i * 7 % 32) as f32).collect();
        assert_eq!(unpack_q5k(&pack_q5k(&q5k), 256), q5k);
        // Scales of 127/64 to 112/64, of both signs; every part has the quant 0, which is the largest.
        let scale = |part: i32| (127 - part) as f32 / 64.0 * if part % 3 == 0 { -1.0 } else { 1.0 };
        let q6k: Vec<f32> = (0..256).map(|i| scale(i / 16) * ((i * 4 + i / 16) % 64 - 32) as f32).collect();
        let q6k: Vec<f32> =
            q6k.iter().enumerate().map(|(i, v)| if i % 16 == 0 { scale(i as i32 / 16) * -32.0 } else { *v }).collect();
        assert_eq!(unpack_q6k(&pack_q6k(&q6k), 256), q6k);
        for zero in [unpack_q4k(&pack_q4k(&[0.0; 256]), 256), unpack_q6k(&pack_q6k(&[0.0; 256]), 256)] {
            assert_eq!(zero, [0.0; 256]);
        }
    }
}
