//! What is done to the latents between two runs of the transformer.

use crate::error::{Result, ensure};

/// One Euler step: `x += (sigma_next - sigma) * velocity`, where the velocity is noise minus picture.
/// `delta` is [`Schedule::delta`](super::Schedule::delta).
///
/// # Errors
/// `Shape` if the lengths differ.
pub fn euler(x: &mut [f32], velocity: &[f32], delta: f32) -> Result<()> {
    same_length("a velocity", velocity, x)?;
    for (x, v) in x.iter_mut().zip(velocity) {
        *x += delta * v;
    }
    Ok(())
}

/// Classifier-free guidance with a negative prompt: the velocity becomes `negative + scale * (velocity - negative)`.
/// FLUX.1 dev with `--true-cfg`, and the base models of FLUX.2 klein.
///
/// # Errors
/// `Shape` if the lengths differ.
pub fn true_cfg(velocity: &mut [f32], negative: &[f32], scale: f32) -> Result<()> {
    same_length("a negative velocity", negative, velocity)?;
    for (v, n) in velocity.iter_mut().zip(negative) {
        *v = n + scale * (*v - n);
    }
    Ok(())
}

/// Where a run that begins with a picture begins: `sigma * noise + (1 - sigma) * x` in place of the picture's latents `x`.
///
/// # Errors
/// `Shape` if the lengths differ.
pub fn add_noise(x: &mut [f32], noise: &[f32], sigma: f32) -> Result<()> {
    same_length("noise", noise, x)?;
    for (x, n) in x.iter_mut().zip(noise) {
        *x = sigma * n + (1.0 - sigma) * *x;
    }
    Ok(())
}

/// What an inpainting step keeps: where `mask (tokens, 4)` is 0, see [`latent_mask`](super::latent_mask), `x` becomes the tokens
/// of `picture` under as much noise as is left, `sigma`.
///
/// # Errors
/// `Shape` if the lengths differ, or are not those of the mask's tokens.
pub fn keep(x: &mut [f32], mask: &[f32], picture: &[f32], noise: &[f32], sigma: f32) -> Result<()> {
    same_length("a picture", picture, x)?;
    let tokens = mask.len() / 4;
    ensure!(
        tokens > 0 && x.len().is_multiple_of(4 * tokens),
        Shape,
        "a mask of {tokens} tokens for {} latents",
        x.len()
    );
    let mut kept = picture.to_vec();
    add_noise(&mut kept, noise, sigma)?;
    let features = x.len() / tokens;
    for (i, (x, kept)) in x.iter_mut().zip(kept).enumerate() {
        // A feature is a channel of one of the token's four latents.
        let m = mask[i / features * 4 + i % 4];
        *x = (1.0 - m) * kept + m * *x;
    }
    Ok(())
}

fn same_length(what: &str, given: &[f32], x: &[f32]) -> Result<()> {
    ensure!(given.len() == x.len(), Shape, "{what} of {} elements for latents of {}", given.len(), x.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_the_formulas() {
        let mut x = [1.0, -2.0];
        euler(&mut x, &[4.0, 2.0], -0.25).unwrap();
        assert_eq!(x, [0.0, -2.5]);

        let mut v = [3.0, 1.0];
        true_cfg(&mut v, &[1.0, 1.0], 2.5).unwrap();
        assert_eq!(v, [6.0, 1.0]);

        let mut z = [2.0, 4.0];
        add_noise(&mut z, &[-1.0, 1.0], 0.75).unwrap();
        assert_eq!(z, [-0.25, 1.75]);

        // Two tokens of one channel.
        let mut x = [9.0; 8];
        let mask = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0];
        keep(&mut x, &mask, &[2.0; 8], &[-2.0; 8], 0.25).unwrap();
        assert_eq!(x, [9.0, 1.0, 9.0, 9.0, 1.0, 9.0, 9.0, 1.0]);
    }

    #[test]
    fn a_straight_path_is_walked_to_its_end() {
        // With the velocity of a straight line from noise to picture, any schedule ends at the picture.
        use super::super::{Curve, Schedule, Shift};
        let (picture, noise) = ([0.5, -1.0, 2.0], [1.5, 0.25, -1.0]);
        for steps in [1, 4, 28] {
            let all = Schedule::new(Curve::Flux2, Shift::Bfl, 1024, steps).unwrap();
            for schedule in [all.clone(), all.at_strength(0.5).unwrap()] {
                let mut x = picture;
                add_noise(&mut x, &noise, schedule.sigma(0)).unwrap();
                for step in 0..schedule.steps() {
                    let velocity: Vec<f32> = noise.iter().zip(&picture).map(|(n, p)| n - p).collect();
                    euler(&mut x, &velocity, schedule.delta(step)).unwrap();
                }
                assert!(x.iter().zip(&picture).all(|(a, b)| (a - b).abs() < 1e-5), "{x:?}");
            }
        }
    }

    #[test]
    fn lengths_have_to_agree() {
        let e = euler(&mut [0.0; 2], &[0.0; 3], 1.0).unwrap_err();
        assert_eq!(e.to_string(), "a velocity of 3 elements for latents of 2");
        assert!(true_cfg(&mut [0.0; 2], &[0.0; 3], 1.0).is_err());
        assert!(add_noise(&mut [0.0; 2], &[0.0; 1], 1.0).is_err());
        assert!(keep(&mut [0.0; 8], &[0.0; 12], &[0.0; 8], &[0.0; 8], 1.0).is_err());
    }
}
