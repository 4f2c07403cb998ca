//! The blocks of GGUF files, rearranged to the layouts of [`DType`] without changing a value. Bytes of a block as in
//! ggml's `block_q8_0`, `block_q4_0` and `block_q4_K` (`ggml-common.h`), little-endian.
//!
//! [`DType`]: crate::shape::DType

use super::q4::word;
use crate::error::{Result, ensure};

/// Blocks of 34 bytes, `d: f16, q: [i8; 32]`, to [`DType::Q8`](crate::shape::DType::Q8).
///
/// # Errors
/// `Weights` if the bytes are no whole number of blocks.
pub fn repack_q8(bytes: &[u8]) -> Result<Vec<u32>> {
    let blocks = whole::<34>("Q8_0", bytes)?;
    let mut words: Vec<u32> = blocks.iter().flat_map(|b| b[2..].chunks(4).map(four)).collect();
    words.extend(pairs(blocks.iter().map(|b| half(&b[..2]))));
    Ok(words)
}

/// Blocks of 18 bytes, `d: f16, q: [u8; 16]`, byte `j` with elements `j` and `j + 16`, to
/// [`DType::Q4`](crate::shape::DType::Q4).
///
/// # Errors
/// `Weights` if the bytes are no whole number of blocks.
pub fn repack_q4(bytes: &[u8]) -> Result<Vec<u32>> {
    let blocks = whole::<18>("Q4_0", bytes)?;
    let mut words: Vec<u32> = blocks.iter().flat_map(|b| halves(&b[2..])).collect();
    words.extend(pairs(blocks.iter().map(|b| half(&b[..2]))));
    Ok(words)
}

/// Blocks of 144 bytes, `d: f16, e: f16, st: [u8; 12], q: [u8; 128]`, to [`DType::Q4K`](crate::shape::DType::Q4K).
/// Byte `j` of the n-th 32 bytes of `q` has element `j` of part `2n` and of part `2n + 1`.
///
/// # Errors
/// `Weights` if the bytes are no whole number of blocks.
pub fn repack_q4k(bytes: &[u8]) -> Result<Vec<u32>> {
    let blocks = whole::<144>("Q4_K", bytes)?;
    let mut words: Vec<u32> = blocks.iter().flat_map(|b| b[16..].chunks(32).flat_map(halves)).collect();
    words.extend(blocks.iter().flat_map(|b| pairs((0..8).map(|part| scale(&b[4..16], part)))));
    words.extend(blocks.iter().map(|b| four(&b[..4])));
    Ok(words)
}

/// `s | t << 8` of a part. Parts 0 to 3 have their 6 bits of `s` in bytes 0 to 3 and of `t` in bytes 4 to 7; parts 4
/// to 7 have the low 4 bits of both in bytes 8 to 11, and the upper 2 bits where those bytes 0 to 7 have room.
fn scale(st: &[u8], part: usize) -> u32 {
    let (s, t) = match part {
        0..4 => (st[part] & 63, st[part + 4] & 63),
        _ => (st[part + 4] & 15 | st[part - 4] >> 6 << 4, st[part + 4] >> 4 | st[part] >> 6 << 4),
    };
    u32::from(s) | u32::from(t) << 8
}

/// The words of the low halves of some bytes, then of their high halves.
fn halves(bytes: &[u8]) -> Vec<u32> {
    let low = bytes.chunks(8).map(|c| word(c.iter().map(|b| b & 15)));
    low.chain(bytes.chunks(8).map(|c| word(c.iter().map(|b| b >> 4)))).collect()
}

fn whole<'a, const N: usize>(format: &str, bytes: &'a [u8]) -> Result<&'a [[u8; N]]> {
    let (blocks, rest) = bytes.as_chunks();
    ensure!(rest.is_empty(), Weights, "{} bytes are no whole number of {format} blocks of {N}", bytes.len());
    Ok(blocks)
}

fn four(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, b| word << 8 | u32::from(*b))
}

fn half(bytes: &[u8]) -> u32 {
    four(bytes)
}

/// Two 16-bit values to a word; an odd count gets a zero.
fn pairs(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let values: Vec<u32> = values.collect();
    values.chunks(2).map(|p| p[0] | p.get(1).map_or(0, |high| high << 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{pack_q4, pack_q8, unpack_q4, unpack_q4k, unpack_q8};

    /// Bytes with no pattern; the f16 at the start of each block are made finite by `clear`.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13 ^ i) as u8).collect()
    }

    fn f16(b: &[u8]) -> f32 {
        half::f16::from_le_bytes([b[0], b[1]]).to_f32()
    }

    #[test]
    fn q8_blocks() {
        let values: Vec<f32> = (0..96).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let words = pack_q8(&values);
        let (quants, scales) = words.split_at(24);
        let scale = |i: usize| (scales[i / 2] >> (i % 2 * 16)) as u16;
        let file: Vec<u8> = (0..3)
            .flat_map(|i| {
                let q = quants[i * 8..][..8].iter().flat_map(|w| w.to_le_bytes());
                scale(i).to_le_bytes().into_iter().chain(q).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(repack_q8(&file).unwrap(), words);
        assert!((unpack_q8(&words, 96)[5] - values[5]).abs() < 0.5 * 50.0 / 127.0);
        assert!(repack_q8(&file[1..]).is_err());
    }

    #[test]
    fn q4_blocks_keep_their_values() {
        let mut file = bytes(18 * 5);
        file.chunks_mut(18).for_each(|b| b[1] &= 0xbb);
        let values = unpack_q4(&repack_q4(&file).unwrap(), 160);
        for (b, values) in file.chunks(18).zip(values.chunks(32)) {
            for (i, v) in values.iter().enumerate() {
                let q = if i < 16 { b[2 + i] & 15 } else { b[2 + i - 16] >> 4 };
                assert_eq!(*v, f16(b) * (f32::from(q) - 8.0), "element {i}");
            }
        }
        assert!(repack_q4(&file[1..]).is_err());
    }

    #[test]
    fn q4k_blocks_keep_their_values() {
        let mut file = bytes(144 * 3);
        file.chunks_mut(144).for_each(|b| (b[1], b[3]) = (b[1] & 0xbb, b[3] & 0xbb));
        let values = unpack_q4k(&repack_q4k(&file).unwrap(), 768);
        for (b, values) in file.chunks(144).zip(values.chunks(256)) {
            // The 96 bits of the scales, as the format's picture has them: s then t of parts 0 to 3 in the low 6 bits
            // of eight bytes, then nibbles (s low, t high) of parts 4 to 7, whose bits 4 and 5 top those eight bytes.
            let st = &b[4..16];
            for (i, v) in values.iter().enumerate() {
                let part = i / 32;
                let (s, t) = if part < 4 {
                    (st[part] % 64, st[4 + part] % 64)
                } else {
                    let low = st[4 + part];
                    (low % 16 + st[part - 4] / 64 * 16, low / 16 + st[part] / 64 * 16)
                };
                let byte = b[16 + i / 64 * 32 + i % 32];
                let q = if part % 2 == 0 { byte % 16 } else { byte / 16 };
                let expected = f16(&b[..2]) * f32::from(s) * f32::from(q) - f16(&b[2..4]) * f32::from(t);
                assert_eq!(*v, expected, "element {i}");
            }
        }
        assert!(repack_q4k(&file[1..]).is_err());
    }

    /// What the Python package `gguf` 0.19 (`gguf.quants`) makes of `sin(i * 0.37) * (1 + i % 5)` in f32, i = 0..64,
    /// and of the bytes of the test above.
    #[test]
    fn the_reference_has_the_same_bytes_and_values() {
        let values: Vec<f32> = (0..64).map(|i| ((f64::from(i) * 0.37).sin() * f64::from(1 + i % 5)) as f32).collect();
        let file: Vec<u8> = (0..36).map(|i| u8::from_str_radix(&GGML_Q4[2 * i..][..2], 16).unwrap()).collect();
        assert_eq!(pack_q4(&values), repack_q4(&file).unwrap());

        let mut file = bytes(144 * 3);
        file.chunks_mut(144).for_each(|b| (b[1], b[3]) = (b[1] & 0xbb, b[3] & 0xbb));
        let values = unpack_q4k(&repack_q4k(&file).unwrap(), 768);
        for (i, v) in GGML_Q4K {
            assert_eq!(values[i], v, "element {i}");
        }
    }
    const GGML_Q4: &str = "fbb89887653270563535478a99bbddfeafb9cab8ebea988766330160574657798da9cbed";
    const GGML_Q4K: [(usize, f32); 10] = [
        (0, -390.0642),
        (1, -293.3142),
        (33, -209.64636),
        (100, -31.371338),
        (255, -63.0),
        (256, -0.00021231174),
        (300, -0.04115796),
        (511, -0.045996487),
        (700, -0.17255402),
        (767, 2.2405853),
    ];
}
