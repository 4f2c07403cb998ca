//! What the tests of the packings share.

use super::SUPER_BLOCK;
use proptest::{collection::vec, prelude::*};

/// Two blocks of 256 of any magnitude that weights have, of both signs or of one, some with outliers.
pub(super) fn blocks() -> impl Strategy<Value = Vec<f32>> {
    (vec(-1f32..1.0, 2 * SUPER_BLOCK), -6..4, -2..3, 1..300usize).prop_map(|(values, exponent, shift, rare)| {
        let scale = 10f32.powi(exponent);
        let of = |(i, v)| (v + shift as f32) * scale * if i % rare == 7 { 50.0 } else { 1.0 };
        values.into_iter().enumerate().map(of).collect()
    })
}

pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |m, v| m.max(v.abs()))
}

/// Half the smallest f16: what a scale may be off where f16 is subnormal.
pub(super) const TINY: f32 = 1.0 / 33_554_432.0;
