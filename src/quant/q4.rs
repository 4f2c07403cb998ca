//! Four and five bits a weight in blocks of 32: Q4 (ggml's Q4_0) and Q5 (ggml's Q5_1). Layouts: [`DType`].
//!
//! [`DType`]: crate::shape::DType

use super::{
    BLOCK, pack_f16,
    planes::{bits, plane},
    unpack_f16,
};

/// f32 to Q4: blocks of 32 along the row, `d = x / -8` of the `x` with the largest magnitude, kept as f16, and
/// `q = round(x / d) + 8`, at most 15 (ggml's `quantize_row_q4_0_ref`). Layout: [`DType::Q4`].
///
/// # Panics
/// If the count is no multiple of 32.
///
/// [`DType::Q4`]: crate::shape::DType::Q4
pub fn pack_q4(values: &[f32]) -> Vec<u32> {
    assert!(values.len().is_multiple_of(BLOCK), "{} values are no whole number of Q4 blocks", values.len());
    let mut quants = Vec::with_capacity(values.len());
    let mut scales = Vec::with_capacity(values.len() / BLOCK);
    for block in values.chunks(BLOCK) {
        let d = block.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m }) / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        scales.push(d);
        quants.extend(block.iter().map(|v| (v * inverse + 8.5).min(15.0) as u8));
    }
    plane::<4>(&quants, 0).chain(pack_f16(&scales)).collect()
}

/// Q4 to `count` f32.
pub fn unpack_q4(words: &[u32], count: usize) -> Vec<f32> {
    let (quants, scales) = words.split_at(count / 8);
    let scales = unpack_f16(scales, count / BLOCK);
    (0..count).map(|i| (f32::from(bits::<4>(quants, i)) - 8.0) * scales[i / BLOCK]).collect()
}

/// f32 to Q5: blocks of 32 along the row, `m` the smallest, `d` a 31st of the range, both kept as f16, and
/// `q = round((x - m) / d)` (ggml's `quantize_row_q5_1_ref`). Layout: [`DType::Q5`]. A minimum beyond f16 becomes
/// infinite: check first with [`fits_f16`](super::fits_f16).
///
/// # Panics
/// If the count is no multiple of 32.
///
/// [`DType::Q5`]: crate::shape::DType::Q5
pub fn pack_q5(values: &[f32]) -> Vec<u32> {
    assert!(values.len().is_multiple_of(BLOCK), "{} values are no whole number of Q5 blocks", values.len());
    let (mut quants, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
    for block in values.chunks(BLOCK) {
        let (low, high) = block.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let d = (high - low) / 31.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        quants.extend(block.iter().map(|v| ((v - low) * inverse + 0.5).min(31.0) as u8));
        scales.extend([d, low]);
    }
    plane::<4>(&quants, 0).chain(plane::<1>(&quants, 4)).chain(pack_f16(&scales)).collect()
}

/// Q5 to `count` f32, as `d q + m`: the product is exact, only the sum rounds.
pub fn unpack_q5(words: &[u32], count: usize) -> Vec<f32> {
    let (low, rest) = words.split_at(count / 8);
    let (high, scales) = rest.split_at(count / 32);
    let quant = |i| f32::from(bits::<4>(low, i) | bits::<1>(high, i) << 4);
    let scale = |i| unpack_f16(&scales[i / BLOCK..][..1], 2);
    (0..count).map(|i| (quant(i), scale(i))).map(|(q, d)| d[0] * q + d[1]).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use proptest::prelude::*;

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
        fn q5_is_within_half_a_step(values in blocks()) {
            // Its minimum is a f16, where the scales of the others are a fraction of a value.
            prop_assume!(largest(&values) < 65504.0);
            let words = pack_q5(&values);
            prop_assert_eq!(words.len() * 4, values.len() / 32 * (16 + 4 + 4));
            let back = unpack_q5(&words, values.len());
            for (block, restored) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let largest = largest(block);
                let range = block.iter().fold(f32::MIN, |m, v| m.max(*v)) - block.iter().fold(f32::MAX, |m, v| m.min(*v));
                for (a, b) in block.iter().zip(restored) {
                    // Half a step, and the roundings to f16 of 31 steps and of the smallest.
                    let allowed = range * (0.5 / 31.0 + 1e-6 + 1.0 / 2048.0) + largest / 2048.0 + 32.0 * TINY;
                    prop_assert!((a - b).abs() <= allowed, "{} became {}", a, b);
                }
            }
        }
    }

    #[test]
    fn what_is_on_the_grid_stays() {
        let q4: Vec<f32> = (0..64).map(|i| ((i * 7 % 16) as f32 - 8.0) * 0.25).collect();
        assert_eq!(unpack_q4(&pack_q4(&q4), 64), q4);
        let q5: Vec<f32> = (0..64).map(|i| (i * 7 % 32) as f32 * 0.25 - 3.0).collect();
        assert_eq!(unpack_q5(&pack_q5(&q5), 64), q5);
        assert_eq!(unpack_q5(&pack_q5(&[7.0; 32]), 32), [7.0; 32]);
    }

    /// What the Python package `gguf` 0.19 (`gguf.quants`) makes of `sin(i * 0.37) * (1 + i % 5)` in f32, i = 0..64.
    #[test]
    fn q4_is_ggmls() {
        let values: Vec<f32> = (0..64).map(|i| ((f64::from(i) * 0.37).sin() * f64::from(1 + i % 5)) as f32).collect();
        let file: Vec<u8> = (0..36).map(|i| u8::from_str_radix(&GGML_Q4[2 * i..][..2], 16).unwrap()).collect();
        assert_eq!(pack_q4(&values), crate::quant::BlockFormat::Q4_0.repack(&file).unwrap());
    }
    const GGML_Q4: &str = "fbb89887653270563535478a99bbddfeafb9cab8ebea988766330160574657798da9cbed";
}
