//! [`BlockFormat`]: the quantised blocks of GGUF files, to f32 and to the layouts that kernels read.

use super::{pairs, planes::plane};
use crate::{
    error::{Result, bail, ensure},
    shape::DType,
};
use half::f16;
use std::fmt;

/// A block format of GGUF files: `elements` along the last axis that share scales. Bytes as in ggml's structures of
/// these names (`ggml-common.h`), little-endian; values as the `gguf` Python package (`gguf.quants`) gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(non_camel_case_types, reason = "ggml's names, in which the underscore tells Q4_0 from Q40")]
pub enum BlockFormat {
    /// `d: f16, q: [i8; 32]`, value `d q`.
    Q8_0,
    /// `d: f16, q: [u8; 16]`, byte `j` with the 4 bits of elements `j` and `j + 16`, value `d (q - 8)`.
    Q4_0,
    /// `d: f16, m: f16, q: [u8; 16]`, value `d q + m`.
    Q4_1,
    /// `d: f16, h: u32, q: [u8; 16]`, bit `i` of `h` the fifth of element `i`, value `d (q - 16)`.
    Q5_0,
    /// `d: f16, m: f16, h: u32, q: [u8; 16]`, value `d q + m`.
    Q5_1,
    /// `d: f16, e: f16, st: [u8; 12], q: [u8; 128]`: 256 elements in eight parts of 32 with 6-bit `s` and `t` each,
    /// value `d s q - e t`. Byte `j` of the n-th 32 of `q` has element `j` of parts `2n` and `2n + 1`.
    Q4_K,
    /// `d: f16, e: f16, st: [u8; 12], h: [u8; 32], q: [u8; 128]`: as Q4_K, bit `p` of byte `j` of `h` the fifth of
    /// element `j` of part `p`.
    Q5_K,
    /// `q: [u8; 128], h: [u8; 64], s: [i8; 16], d: f16`: 256 elements in sixteen parts of 16, value `d s (q - 32)`.
    /// Byte `j` of a half of `q` has elements `j` and `j + 64` of that half; byte `j` of a half of `h` has two bits
    /// each of its elements `j`, `j + 32`, `j + 64` and `j + 96`.
    Q6_K,
}

impl BlockFormat {
    /// All formats.
    pub const ALL: [Self; 8] =
        [Self::Q8_0, Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q5_1, Self::Q4_K, Self::Q5_K, Self::Q6_K];

    /// ggml's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Elements in a block.
    pub const fn elements(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes that a block takes in a file.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// The device layout that [`repack`](Self::repack) makes.
    pub const fn device(self) -> DType {
        match self {
            Self::Q8_0 => DType::Q8,
            Self::Q4_0 => DType::Q4,
            Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => DType::Q5,
            Self::Q4_K => DType::Q4K,
            Self::Q5_K => DType::Q5K,
            Self::Q6_K => DType::Q6K,
        }
    }

    /// The values of one block, with the operations of the `gguf` package and so with its bits.
    ///
    /// # Panics
    /// Unless `block` and `out` are one block long.
    pub fn decode(self, block: &[u8], out: &mut [f32]) {
        assert_eq!((block.len(), out.len()), (self.bytes(), self.elements()), "a block of {self}");
        let mut quants = [0; 256];
        self.quants(block, &mut quants);
        let parts = out.len() / self.part();
        for (p, (out, quants)) in out.chunks_mut(self.part()).zip(quants.chunks(self.part())).take(parts).enumerate() {
            let (scale, low) = self.scale(block, p);
            for (out, q) in out.iter_mut().zip(quants) {
                *out = scale * (f32::from(*q) - self.zero()) + low;
            }
        }
    }

    /// Blocks of a file in the layout of [`device`](Self::device), which has the same values.
    ///
    /// # Errors
    /// `Weights` if the bytes are no whole number of blocks; `Numeric` if a scale or minimum is NaN or infinite, or,
    /// for Q5_0 only, its scale beyond 4095.
    pub fn repack(self, bytes: &[u8]) -> Result<Vec<u32>> {
        let blocks = bytes.chunks_exact(self.bytes());
        let size = self.bytes();
        ensure!(
            blocks.remainder().is_empty(),
            Weights,
            "{} bytes are no whole number of {self} blocks of {size}",
            bytes.len()
        );
        let count = blocks.len() * self.elements();
        let mut words = Vec::with_capacity(self.device().bytes(count) / 4);
        let (mut high, mut quants) = (Vec::new(), [0; 256]);
        for block in blocks.clone() {
            self.quants(block, &mut quants);
            let quants = &quants[..self.elements()];
            match self.device() {
                DType::Q8 => words.extend(block[2..].chunks(4).map(little)),
                DType::Q5 | DType::Q5K => high.extend(plane::<1>(quants, 4)),
                DType::Q6K => high.extend(plane::<2>(quants, 4)),
                _ => {}
            }
            if self != Self::Q8_0 {
                words.extend(plane::<4>(quants, 0));
            }
        }
        words.append(&mut high);
        match self {
            Self::Q8_0 | Self::Q4_0 => words.extend(pairs(blocks.clone().map(|b| little(&b[..2])))),
            Self::Q4_1 | Self::Q5_1 => words.extend(blocks.clone().map(|b| little(&b[..4]))),
            Self::Q5_0 => words.extend(blocks.clone().map(|b| little(&b[..2]) | minimum(b) << 16)),
            Self::Q4_K | Self::Q5_K => {
                words.extend(blocks.clone().flat_map(|b| pairs((0..8).map(|p| six_bits(&b[4..16], p)))));
                words.extend(blocks.clone().map(|b| little(&b[..4])));
            }
            Self::Q6_K => {
                words.extend(blocks.clone().flat_map(|b| b[192..208].chunks(4).map(little)));
                words.extend(pairs(blocks.clone().map(|b| little(&b[208..]))));
            }
        }
        for (i, block) in blocks.enumerate() {
            let [a, b] = self.halves().map(|at| half(&block[at..]));
            if !(a.is_finite() && b.is_finite()) || self == Self::Q5_0 && a.abs() > 4095.0 {
                bail!(Numeric, "block {i} of {self} has the scale {a}{}", if a == b { "" } else { " and minimum {b}" });
            }
        }
        Ok(words)
    }

    /// The quant of value 0, where there is no minimum.
    const fn zero(self) -> f32 {
        match self {
            Self::Q8_0 => 128.0,
            Self::Q4_0 => 8.0,
            Self::Q5_0 => 16.0,
            Self::Q6_K => 32.0,
            Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K => 0.0,
        }
    }

    /// Elements that share a scale and a minimum.
    const fn part(self) -> usize {
        if matches!(self, Self::Q6_K) { 16 } else { 32 }
    }

    /// Where a block has its f16: scale and minimum, or twice the scale.
    const fn halves(self) -> [usize; 2] {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 => [0, 0],
            Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K => [0, 2],
            Self::Q6_K => [208, 208],
        }
    }

    /// Scale and minimum of part `p`. The products are exact: 11 by 6 or 7 bits.
    fn scale(self, block: &[u8], p: usize) -> (f32, f32) {
        let [a, b] = self.halves().map(|at| half(&block[at..]));
        match self {
            // Adding -0 changes nothing, not even the sign of a zero.
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 => (a, -0.0),
            Self::Q4_1 | Self::Q5_1 => (a, b),
            Self::Q4_K | Self::Q5_K => {
                let [s, t, ..] = six_bits(&block[4..16], p).to_le_bytes();
                (a * f32::from(s), -(b * f32::from(t)))
            }
            Self::Q6_K => (a * f32::from(block[192 + p] as i8), -0.0),
        }
    }

    /// The quants of a block in the order of its elements; those of Q8_0 from -128 up.
    fn quants(self, block: &[u8], out: &mut [u8; 256]) {
        // The low bits: `run` bytes have `run` elements in their low and as many in their high halves.
        let (at, run) = match self {
            Self::Q8_0 => {
                out.iter_mut().zip(&block[2..]).for_each(|(q, b)| *q = b ^ 0x80);
                return;
            }
            Self::Q4_0 => (2, 16),
            Self::Q4_1 => (4, 16),
            Self::Q5_0 => (6, 16),
            Self::Q5_1 => (8, 16),
            Self::Q4_K => (16, 32),
            Self::Q5_K => (48, 32),
            Self::Q6_K => (0, 64),
        };
        let low = &block[at..at + self.elements() / 2];
        for (bytes, out) in low.chunks(run).zip(out.chunks_mut(2 * run)) {
            let (even, odd) = out.split_at_mut(run);
            for ((b, even), odd) in bytes.iter().zip(even).zip(odd) {
                (*even, *odd) = (b & 15, b >> 4);
            }
        }
        match self {
            Self::Q5_0 | Self::Q5_1 => {
                let h = little(&block[at - 4..at]);
                out[..32].iter_mut().enumerate().for_each(|(i, q)| *q |= (h >> i & 1) as u8 * 16);
            }
            Self::Q5_K => {
                for (p, out) in out.chunks_mut(32).enumerate() {
                    out.iter_mut().zip(&block[16..48]).for_each(|(q, h)| *q |= (h >> p & 1) * 16);
                }
            }
            Self::Q6_K => {
                for (p, out) in out.chunks_mut(32).enumerate() {
                    let h = &block[128 + p / 4 * 32..][..32];
                    out.iter_mut().zip(h).for_each(|(q, h)| *q |= (h >> (p % 4 * 2) & 3) * 16);
                }
            }
            _ => {}
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `s | t << 8` of a part. Parts 0 to 3 have their 6 bits of `s` in bytes 0 to 3 and of `t` in bytes 4 to 7; parts 4
/// to 7 have the low 4 bits of both in bytes 8 to 11, and the upper 2 bits where those bytes 0 to 7 have room.
fn six_bits(st: &[u8], part: usize) -> u32 {
    let (s, t) = match part {
        0..4 => (st[part] & 63, st[part + 4] & 63),
        _ => (st[part + 4] & 15 | st[part - 4] >> 6 << 4, st[part + 4] >> 4 | st[part] >> 6 << 4),
    };
    u32::from(s) | u32::from(t) << 8
}

/// The minimum that makes `d q + m` of Q5_0's `d (q - 16)`: exact, as long as it is no overflow.
fn minimum(block: &[u8]) -> u32 {
    u32::from(f16::from_f32(-16.0 * half(block)).to_bits())
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn little(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, b| word << 8 | u32::from(*b))
}
