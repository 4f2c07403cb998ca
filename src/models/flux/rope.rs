//! Positions of tokens and the rotary table made of them. After `EmbedND` and `rope` of black-forest-labs/flux, and
//! `prc_txt` and `prc_img` of black-forest-labs/flux2.

use super::config::{Config, Version};

/// A token's position: time, row, column, place in the text.
pub type Position = [f32; 4];

/// Positions of `tokens` text tokens: all at the origin in FLUX.1, counted on the text axis in FLUX.2.
pub fn text_positions(c: &Config, tokens: usize) -> Vec<Position> {
    let place = |i: usize| if c.version == Version::Flux2 { i as f32 } else { 0.0 };
    (0..tokens).map(|i| [0.0, 0.0, 0.0, place(i)]).collect()
}

/// Positions of a picture of `rows` by `cols` tokens, row by row. Time is 0 for the picture that is made; for pictures
/// that it refers to 1 in FLUX.1 (Kontext) and 10, 20, .. in FLUX.2.
pub fn image_positions(rows: usize, cols: usize, time: f32) -> Vec<Position> {
    (0..rows * cols).map(|i| [time, (i / cols) as f32, (i % cols) as f32, 0.0]).collect()
}

/// cos and sin for every token and pair of a head, `(tokens, head_dim / 2, 2)`: pair `j` of an axis of `d` features turns
/// by `position * theta^(-2 j / d)`. Angles are f64, as in diffusers and ComfyUI.
pub fn table(c: &Config, positions: &[Position]) -> Vec<f32> {
    let frequency = |d: usize, j: usize| c.theta.powf(-((2 * j) as f64) / d as f64);
    let frequencies: Vec<(usize, f64)> =
        (0..4).flat_map(|axis| (0..c.axes[axis] / 2).map(move |j| (axis, frequency(c.axes[axis], j)))).collect();
    let angles = positions.iter().flat_map(|p| frequencies.iter().map(|(axis, f)| f64::from(p[*axis]) * f));
    angles.flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::config::RELEASED, *};

    #[test]
    fn axes_turn_their_own_pairs() {
        let (_, dev) = &RELEASED[0];
        let t = table(dev, &image_positions(2, 3, 1.0)[5..]);
        assert_eq!(t.len(), 128);
        // Time 1, row 1, column 2: the first pair of each axis turns by the position itself.
        for (pair, angle) in [(0, 1f64), (8, 1.0), (8 + 28, 2.0)] {
            assert!((f64::from(t[2 * pair]) - angle.cos()).abs() < 1e-7, "pair {pair}");
            assert!((f64::from(t[2 * pair + 1]) - angle.sin()).abs() < 1e-7, "pair {pair}");
        }
        let second = 2.0 * 1e4f64.powf(-2.0 / 56.0);
        assert!((f64::from(t[2 * 37]) - second.cos()).abs() < 1e-7);

        let (_, klein) = &RELEASED[4];
        assert_eq!(text_positions(klein, 8)[7], [0.0, 0.0, 0.0, 7.0]);
        assert_eq!(text_positions(dev, 8)[7], [0.0; 4]);
        assert_eq!(table(klein, &text_positions(klein, 8)).len(), 8 * 128);
    }
}
