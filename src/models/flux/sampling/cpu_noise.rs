//! `torch.randn` of PyTorch's CPU generator: MT19937 and Box-Muller over groups of 16, bit for bit as on x86-64.
//!
//! There PyTorch runs AVX2 code whose logarithm, sine and cosine are the single precision polynomials of Cephes (Moshier),
//! with fused multiply-adds where the compiler found them. The same operations in the same order are written out below, so
//! that a seed gives the same bits on every platform, which a system's own `logf` would not.
//! (`aten/src/ATen/native/cpu/DistributionTemplates.h`, `aten/src/ATen/core/DistributionsHelper.h`.)

use super::Precision;
use half::bf16;
use std::f32::consts::TAU;

/// The Mersenne Twister with the state that PyTorch keeps beside it.
#[derive(Debug, Clone)]
pub(super) struct CpuNoise {
    state: Box<[u32; N]>,
    next: usize,
    /// The second normal of the last pair that a draw of fewer than 16 made.
    spare: Option<f64>,
}

const N: usize = 624;
const M: usize = 397;

impl CpuNoise {
    /// PyTorch takes 64 bits of seed and uses the lower 32.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = Box::new([seed as u32; N]);
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N, spare: None }
    }

    fn u32(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// 24 bits in `[0, 1)`.
    fn uniform(&mut self) -> f32 {
        (self.u32() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// 53 bits in `[0, 1)`.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.u32());
        let bits = (high << 32) | u64::from(self.u32());
        (bits & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn normal(&mut self, count: usize, precision: Precision) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| precision.round(self.normal_f64() as f32)).collect();
        }
        match precision {
            Precision::F32 => {
                let mut out: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
                out.chunks_exact_mut(16).for_each(box_muller);
                if !count.is_multiple_of(16) {
                    // What is left over is not filled up: the last 16 are drawn anew.
                    self.sixteen(&mut out[count - 16..]);
                }
                out
            }
            // The same groups of 16, each drawn when its turn comes: only a tail takes other numbers than in f32.
            Precision::Bf16 => {
                let mut out = vec![0.0; count];
                out.chunks_exact_mut(16).for_each(|group| self.sixteen(group));
                if !count.is_multiple_of(16) {
                    self.sixteen(&mut out[count - 16..]);
                }
                out.iter_mut().for_each(|v| *v = precision.round(*v));
                out
            }
            Precision::Bf16Narrow => {
                let mut out: Vec<f32> = (0..count).map(|_| self.uniform_8()).collect();
                out.chunks_exact_mut(16).for_each(box_muller_bf16);
                if !count.is_multiple_of(16) {
                    let tail = &mut out[count - 16..];
                    tail.iter_mut().for_each(|v| *v = self.uniform_8());
                    box_muller_bf16(tail);
                }
                out
            }
        }
    }

    fn sixteen(&mut self, group: &mut [f32]) {
        group.iter_mut().for_each(|v| *v = self.uniform());
        box_muller(group);
    }

    /// 8 bits in `[0, 1)`: as many as a bf16 holds.
    fn uniform_8(&mut self) -> f32 {
        (self.u32() & 0xff) as f32 / 256.0
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * u1).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

/// 16 uniform numbers to 16 normal ones: the first 8 give the radii, the last 8 the angles.
fn box_muller(group: &mut [f32]) {
    let (radii, angles) = group.split_at_mut(8);
    for (a, b) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * ln(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(TAU * *b);
        (*a, *b) = (radius * cos, radius * sin);
    }
}

/// The same with every result rounded to bf16, as PyTorch up to 2.7 did it.
fn box_muller_bf16(group: &mut [f32]) {
    let round = |v: f64| f64::from(bf16::from_f32(v as f32));
    let (radii, angles) = group.split_at_mut(8);
    for (a, b) in radii.iter_mut().zip(angles) {
        let radius = round((-2.0 * round((1.0 - f64::from(*a)).ln())).sqrt());
        let (sin, cos) = round(std::f64::consts::TAU * f64::from(*b)).sin_cos();
        (*a, *b) = (round(radius * round(cos)) as f32, round(radius * round(sin)) as f32);
    }
}

/// The coefficients with the digits that Cephes gives them, highest power first.
#[allow(clippy::excessive_precision, reason = "rounded by hand they would be off by a unit in the last place")]
mod cephes {
    pub(super) const LN: [f32; 9] = [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ];
    pub(super) const SIN: [f32; 3] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1];
    pub(super) const COS: [f32; 3] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2];
    /// ln 2 and pi / 4 in parts that fall in size, the first with few bits: products with small integers are exact.
    pub(super) const LN_2: [f32; 2] = [0.693359375, -2.12194440e-4];
    pub(super) const PI_4: [f32; 3] = [0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8];
}
use cephes::{COS, LN, LN_2, PI_4, SIN};

/// Cephes' `logf` of a normal number in `(0, 1]`.
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    // The mantissa in [1/2, 1), then in [sqrt(1/2), sqrt(2)) - 1.
    let mut x = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        x = (x - 1.0) + x;
    } else {
        x -= 1.0;
    }
    let e = exponent as f32;
    let z = x * x;
    let y = horner(x, &LN) * x;
    let y = y.mul_add(z, e * LN_2[1]);
    let y = (-z).mul_add(0.5, y);
    e.mul_add(LN_2[0], x + y)
}

/// Cephes' `sinf` and `cosf` of an angle in `[0, 2 pi)`.
fn sin_cos(angle: f32) -> (f32, f32) {
    // The nearest even number of eighths of a turn, subtracted as pi / 4 in three parts.
    let octant = ((angle * (8.0 / TAU)) as i32 + 1) & !1;
    let j = octant as f32;
    let x = j.mul_add(-PI_4[0], angle);
    let x = j.mul_add(-PI_4[1], x);
    let x = j.mul_add(-PI_4[2], x);
    let z = x * x;
    let cos = horner(z, &COS) * z;
    let cos = cos.mul_add(z, -(z * 0.5)) + 1.0;
    let sin = horner(z, &SIN) * z;
    let sin = sin.mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 { (sin, cos) } else { (cos, sin) };
    let negative_cos = (octant - 2) & 4 == 0;
    (if octant & 4 != 0 { -sin } else { sin }, if negative_cos { -cos } else { cos })
}

/// The polynomial with these coefficients, highest first, by fused multiply-adds.
fn horner(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().skip(1).fold(coefficients[0], |y, c| y.mul_add(x, *c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomials_are_the_functions() {
        for i in 1..=4096 {
            let x = i as f32 / 4096.0;
            let exact = f64::from(x).ln();
            assert!((f64::from(ln(x)) - exact).abs() <= 1.5e-7 * exact.abs(), "ln {x}");
            let (sin, cos) = sin_cos(TAU * x * 0.999_999);
            let (s, c) = f64::from(TAU * x * 0.999_999).sin_cos();
            assert!(
                (f64::from(sin) - s).abs() < 1.2e-7 && (f64::from(cos) - c).abs() < 1.2e-7,
                "sin, cos of {x} turns"
            );
        }
    }

    #[test]
    fn the_twister_is_mt19937() {
        // The 10000th output of the reference's default seed, as the C++ standard demands of std::mt19937.
        let mut twister = CpuNoise::new(5489);
        let last = (0..10_000).map(|_| twister.u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
