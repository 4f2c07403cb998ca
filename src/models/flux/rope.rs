//! The rotary table of positions. After `EmbedND` and `rope` of black-forest-labs/flux.

use super::config::Config;

/// cos and sin for every token and pair of a head, `(tokens, head_dim / 2, 2)`: pair `j` of an axis of `d` features turns
/// by `position * theta^(-2 j / d)`. Positions are those of `sampling::{text_ids, image_ids}`. Angles are f64, as in diffusers and ComfyUI.
pub fn table(c: &Config, positions: &[[u32; 4]]) -> Vec<f32> {
    let frequency = |d: usize, j: usize| c.theta.powf(-((2 * j) as f64) / d as f64);
    let frequencies: Vec<(usize, f64)> =
        (0..4).flat_map(|axis| (0..c.axes[axis] / 2).map(move |j| (axis, frequency(c.axes[axis], j)))).collect();
    let angles = positions.iter().flat_map(|p| frequencies.iter().map(|(axis, f)| f64::from(p[*axis]) * f));
    angles.flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            config::RELEASED,
            sampling::{image_ids, text_ids},
        },
        *,
    };

    #[test]
    fn axes_turn_their_own_pairs() {
        let (_, dev) = &RELEASED[0];
        let t = table(dev, &image_ids(1, 2, 3)[5..]);
        assert_eq!(t.len(), 128);
        // Time 1, row 1, column 2: the first pair of each axis turns by the position itself.
        for (pair, angle) in [(0, 1f64), (8, 1.0), (8 + 28, 2.0)] {
            assert!((f64::from(t[2 * pair]) - angle.cos()).abs() < 1e-7, "pair {pair}");
            assert!((f64::from(t[2 * pair + 1]) - angle.sin()).abs() < 1e-7, "pair {pair}");
        }
        let second = 2.0 * 1e4f64.powf(-2.0 / 56.0);
        assert!((f64::from(t[2 * 37]) - second.cos()).abs() < 1e-7);

        let (_, klein) = &RELEASED[4];
        assert_eq!(table(klein, &text_ids(klein.version, 8)).len(), 8 * 128);
    }
}
