//! The three forms that latents have on their way from noise to the autoencoder.
//!
//! | form | FLUX.1 | FLUX.2 |
//! |---|---|---|
//! | noise, as PyTorch draws it | `(16, height / 8, width / 8)` | `(128, height / 16, width / 16)` |
//! | tokens, what the transformer sees | `(height / 16 * width / 16, 64)` | `(height / 16 * width / 16, 128)` |
//! | image, what the autoencoder sees | `(height / 8, width / 8, 16)` | `(height / 8, width / 8, 32)` |
//!
//! A token holds 2 x 2 neighbours of every channel: feature `4 * channel + 2 * row + column`.

use super::{super::Version, Size};
use crate::error::{Result, ensure};

/// The latents of a picture of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latents {
    version: Version,
    size: Size,
}

impl Latents {
    /// Those of `version` at `size`.
    pub fn new(version: Version, size: Size) -> Self {
        Self { version, size }
    }

    /// Channels of the autoencoder.
    pub fn channels(self) -> usize {
        match self.version {
            Version::Flux1 => 16,
            Version::Flux2 => 32,
        }
    }

    /// Features of a token: 64 or 128.
    pub fn features(self) -> usize {
        4 * self.channels()
    }

    /// Elements, the same in every form.
    #[allow(clippy::len_without_is_empty, reason = "a picture is never empty")]
    pub fn len(self) -> usize {
        self.size.tokens() * self.features()
    }

    /// Noise as it is drawn, to tokens.
    ///
    /// # Errors
    /// `Shape` if `noise` has not [`len`](Self::len) elements.
    pub fn tokens_of_noise(self, noise: &[f32]) -> Result<Vec<f32>> {
        self.check("noise", noise)?;
        let (rows, columns) = (self.size.rows(), self.size.columns());
        Ok(self.build(|token, feature| match self.version {
            Version::Flux1 => {
                let (channel, y, x) = self.place(token, feature);
                noise[(channel * 2 * rows + y) * 2 * columns + x]
            }
            // Drawn as features already.
            Version::Flux2 => noise[feature * rows * columns + token],
        }))
    }

    /// What the autoencoder encoded, to tokens.
    ///
    /// # Errors
    /// `Shape` if `image` has not [`len`](Self::len) elements.
    pub fn pack(self, image: &[f32]) -> Result<Vec<f32>> {
        self.check("an image of latents", image)?;
        Ok(self.build(|token, feature| image[self.in_image(token, feature)]))
    }

    /// Tokens to what the autoencoder decodes.
    ///
    /// # Errors
    /// `Shape` if `tokens` has not [`len`](Self::len) elements.
    pub fn unpack(self, tokens: &[f32]) -> Result<Vec<f32>> {
        self.check("tokens", tokens)?;
        let mut image = vec![0.0; tokens.len()];
        for (i, value) in tokens.iter().enumerate() {
            image[self.in_image(i / self.features(), i % self.features())] = *value;
        }
        Ok(image)
    }

    fn build(self, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let value = &value;
        (0..self.size.tokens()).flat_map(|t| (0..self.features()).map(move |f| value(t, f))).collect()
    }

    /// Channel, row and column of a token's feature.
    fn place(self, token: usize, feature: usize) -> (usize, usize, usize) {
        let (row, column) = (token / self.size.columns(), token % self.size.columns());
        (feature / 4, 2 * row + feature / 2 % 2, 2 * column + feature % 2)
    }

    fn in_image(self, token: usize, feature: usize) -> usize {
        let (channel, y, x) = self.place(token, feature);
        (y * 2 * self.size.columns() + x) * self.channels() + channel
    }

    fn check(self, what: &str, values: &[f32]) -> Result<()> {
        ensure!(
            values.len() == self.len(),
            Shape,
            "{what} of {} elements for a picture of {}x{}, which has {}",
            values.len(),
            self.size.width(),
            self.size.height(),
            self.len()
        );
        Ok(())
    }
}

/// The mean and spread of an autoencoder's latents, by which the transformer sees them normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// By feature of a token.
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Statistics {
    /// One shift and one scale for everything: FLUX.1, whose `config.json` has 0.1159 and 0.3611.
    pub fn scalar(shift: f32, scale: f32) -> Self {
        Self { mean: vec![shift], std: vec![1.0 / scale] }
    }

    /// `bn.running_mean` and `bn.running_var` of FLUX.2's autoencoder, one for each of a token's 128 features, and
    /// `batch_norm_eps` (1e-4).
    ///
    /// # Errors
    /// `Weights` if the two have not the same length, or a variance is negative or no number.
    pub fn batch_norm(mean: &[f32], var: &[f32], eps: f32) -> Result<Self> {
        ensure!(mean.len() == var.len(), Weights, "{} means for {} variances of latents", mean.len(), var.len());
        let bad = var.iter().find(|v| !(0.0..f32::INFINITY).contains(*v));
        ensure!(bad.is_none(), Weights, "a variance of latents is {}", bad.copied().unwrap_or_default());
        Ok(Self { mean: mean.to_vec(), std: var.iter().map(|v| (v + eps).sqrt()).collect() })
    }

    /// Tokens of what was encoded, to what the transformer sees: `(x - mean) / std`.
    ///
    /// # Errors
    /// `Shape` if they are not whole tokens of these statistics.
    pub fn normalize(&self, tokens: &mut [f32]) -> Result<()> {
        self.each(tokens, |x, mean, std| (x - mean) / std)
    }

    /// Tokens that were sampled, to what is decoded: `x * std + mean`.
    ///
    /// # Errors
    /// `Shape` if they are not whole tokens of these statistics.
    pub fn denormalize(&self, tokens: &mut [f32]) -> Result<()> {
        self.each(tokens, |x, mean, std| x * std + mean)
    }

    fn each(&self, tokens: &mut [f32], f: impl Fn(f32, f32, f32) -> f32) -> Result<()> {
        let features = self.mean.len();
        ensure!(
            features > 0 && tokens.len().is_multiple_of(features),
            Shape,
            "{} latents are no whole tokens of {features} features",
            tokens.len()
        );
        for token in tokens.chunks_exact_mut(features) {
            for ((x, mean), std) in token.iter_mut().zip(&self.mean).zip(&self.std) {
                *x = f(*x, *mean, *std);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    /// 3 rows and 5 columns of tokens.
    fn small(version: Version) -> Latents {
        Latents::new(version, Size::exact(80, 48).unwrap())
    }

    /// `(c, h, w)` to `(h, w, c)`.
    fn channels_last(chw: &[f32], channels: usize) -> Vec<f32> {
        let pixels = chw.len() / channels;
        (0..chw.len()).map(|i| chw[i % channels * pixels + i / channels]).collect()
    }

    #[test]
    fn tokens_are_those_of_diffusers() {
        let reference = Fixture::open("sampling/latents.safetensors");
        for (version, name, width) in [(Version::Flux1, "flux1", 64), (Version::Flux2, "flux2", 128)] {
            let latents = small(version);
            assert_eq!((latents.features(), latents.len()), (width, 15 * width));
            let noise = reference.f32(&format!("{name}.noise")).1;
            let tokens = reference.f32(&format!("{name}.tokens")).1;
            assert_eq!(latents.tokens_of_noise(&noise).unwrap(), tokens);
            let image = match version {
                Version::Flux1 => channels_last(&noise, 16),
                Version::Flux2 => channels_last(&reference.f32("flux2.image").1, 32),
            };
            assert_eq!(latents.pack(&image).unwrap(), tokens);
            assert_eq!(latents.unpack(&tokens).unwrap(), image);
        }
    }

    #[test]
    fn another_size_is_refused() {
        let latents = small(Version::Flux1);
        let e = latents.pack(&[0.0; 64]).unwrap_err();
        assert_eq!(e.to_string(), "an image of latents of 64 elements for a picture of 80x48, which has 960");
        assert!(latents.unpack(&[0.0; 961]).is_err() && latents.tokens_of_noise(&[]).is_err());
    }

    #[test]
    fn statistics_go_both_ways() {
        let flux1 = Statistics::scalar(0.1159, 0.3611);
        let mut x = [0.1159, 1.0, -3.0];
        flux1.normalize(&mut x).unwrap();
        let encoded = [0.0, (1.0 - 0.1159) * 0.3611, (-3.0 - 0.1159) * 0.3611];
        assert!(x.iter().zip(encoded).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{x:?}");
        flux1.denormalize(&mut x).unwrap();
        assert!(x.iter().zip([0.1159, 1.0, -3.0]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{x:?}");

        let flux2 = Statistics::batch_norm(&[1.0, -1.0], &[4.0 - 1e-4, 0.25 - 1e-4], 1e-4).unwrap();
        let mut x = [3.0, -1.0, 1.0, 0.0];
        flux2.normalize(&mut x).unwrap();
        assert!(x.iter().zip([1.0, 0.0, 0.0, 2.0]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{x:?}");
        flux2.denormalize(&mut x).unwrap();
        assert!(x.iter().zip([3.0, -1.0, 1.0, 0.0]).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{x:?}");

        assert_eq!(flux2.normalize(&mut [0.0; 3]).unwrap_err().kind(), crate::ErrorKind::Shape);
        for var in [vec![-1.0, 1.0], vec![1.0, f32::NAN], vec![1.0]] {
            assert_eq!(Statistics::batch_norm(&[0.0; 2], &var, 1e-4).unwrap_err().kind(), crate::ErrorKind::Weights);
        }
    }
}
