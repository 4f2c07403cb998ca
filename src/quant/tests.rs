//! f16 pairs and Q8, and the blocks of GGUF files.

use super::*;
use crate::shape::DType;

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

/// Bytes with no pattern whose scales are of every kind that is finite.
fn file(format: BlockFormat, blocks: usize) -> Vec<u8> {
    let count = blocks * format.bytes();
    let mut bytes: Vec<u8> = (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13 ^ i) as u8).collect();
    let at: &[usize] = match format {
        BlockFormat::Q8_0 | BlockFormat::Q4_0 | BlockFormat::Q5_0 => &[1],
        BlockFormat::Q6_K => &[209],
        _ => &[1, 3],
    };
    // Below 2^8: an exponent whose upper bits are not all set.
    bytes.chunks_mut(format.bytes()).for_each(|b| at.iter().for_each(|at| b[*at] &= 0xdb));
    bytes
}

/// What a kernel reads is what the file says, element by element.
#[test]
fn repacked_blocks_keep_their_values() {
    for format in BlockFormat::ALL {
        let (bytes, blocks) = (file(format, 5), 5);
        let count = blocks * format.elements();
        let words = format.repack(&bytes).unwrap();
        assert_eq!(words.len() * 4, format.device().bytes(count), "{format}");
        let mut expected = vec![0.0; count];
        for (block, out) in bytes.chunks(format.bytes()).zip(expected.chunks_mut(format.elements())) {
            format.decode(block, out);
        }
        let unpack = match format.device() {
            DType::Q8 => unpack_q8,
            DType::Q4 => unpack_q4,
            DType::Q4K => unpack_q4k,
            DType::Q5 => unpack_q5,
            DType::Q5K => unpack_q5k,
            DType::Q6K => unpack_q6k,
            other => panic!("{other:?} is no block layout"),
        };
        // Values, for the sign of a zero is lost where Q5_0 gets a minimum.
        assert_eq!(unpack(&words, count), expected, "{format}");
        assert!(expected.iter().any(|v| *v > 0.0) && expected.iter().any(|v| *v < 0.0), "{format}");
    }
}

#[test]
fn blocks_that_cannot_be_repacked() {
    for format in BlockFormat::ALL {
        let mut bytes = file(format, 2);
        let kind = |bytes: &[u8]| format.repack(bytes).unwrap_err().kind();
        assert_eq!(kind(&bytes[1..]), crate::ErrorKind::Weights, "{format}");
        let scale = if format == BlockFormat::Q6_K { 208 } else { 0 };
        // Infinity, then NaN, in the second block.
        for bits in [0x7c00u16, 0xfe01] {
            bytes[format.bytes() + scale..][..2].copy_from_slice(&bits.to_le_bytes());
            assert_eq!(kind(&bytes), crate::ErrorKind::Numeric, "{format}");
        }
        assert!(format.repack(&bytes).unwrap_err().to_string().contains("block 1"), "{format}");
    }
    // -16 times the largest scale that Q5 holds, and the next.
    let scale = |d: f32| [&f16::from_f32(d).to_le_bytes()[..], &[0; 20]].concat();
    assert_eq!(unpack_q5(&BlockFormat::Q5_0.repack(&scale(4094.0)).unwrap(), 32), [-65504.0; 32]);
    assert_eq!(BlockFormat::Q5_0.repack(&scale(4096.0)).unwrap_err().kind(), crate::ErrorKind::Numeric);
}
