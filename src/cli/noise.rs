//! Masks under input noise: how much an answer depends on the very pixels.

use impasto::{Result, image::Picture};

/// Noisy encodings that a picture's masks are compared with.
pub(super) const DRAWS: u64 = 4;

/// The picture with Gaussian noise of standard deviation `sigma`, in levels of 0 to 255, on each channel. The same
/// `draw` gives the same noise everywhere.
pub(super) fn noisy(picture: &Picture, sigma: f32, draw: u64) -> Result<Picture> {
    let mut uniform = splitmix64(draw);
    let mut rgb = picture.rgb().to_vec();
    for pair in rgb.chunks_mut(2) {
        // Box and Muller: two normal deviates from two uniform ones.
        let radius = (-2.0 * uniform().ln()).sqrt() * f64::from(sigma);
        let (sin, cos) = (std::f64::consts::TAU * uniform()).sin_cos();
        for (value, deviate) in pair.iter_mut().zip([cos, sin]) {
            // A cast to u8 saturates.
            *value = (f64::from(*value) + radius * deviate).round() as u8;
        }
    }
    Picture::new(picture.width(), picture.height(), rgb)
}

/// Numbers in `(0, 1]`.
fn splitmix64(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + f64::EPSILON / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_deviation_asked_for() {
        let grey = Picture::new(101, 67, vec![128; 101 * 67 * 3]).unwrap();
        let deviations = |draw| -> Vec<f64> {
            let noisy = noisy(&grey, 10.0, draw).unwrap();
            noisy.rgb().iter().map(|v| f64::from(*v) - 128.0).collect()
        };
        let (a, b) = (deviations(1), deviations(2));
        let mean = |v: &mut dyn Iterator<Item = f64>| v.sum::<f64>() / a.len() as f64;
        assert!(mean(&mut a.iter().copied()).abs() < 0.3);
        assert!((mean(&mut a.iter().map(|d| d * d)).sqrt() - 10.0).abs() < 0.3);
        assert!(mean(&mut a.iter().zip(&b).map(|(a, b)| a * b)).abs() < 3.0);
        assert_eq!(a, deviations(1));
        assert_eq!(noisy(&grey, 0.0, 1).unwrap(), grey);
    }
}
