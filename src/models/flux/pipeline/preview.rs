//! Small pictures of latents: one pixel a latent, a linear function of its channels.
//!
//! The function is fitted to the model's own autoencoder: cells of random latents are decoded, and the colours in their
//! middles are what the fit aims at. So it holds for any autoencoder, and needs no table.

use super::{
    super::sampling::{Device, Generator, Latents, Precision, Size},
    Autoencoder,
};
use crate::{
    error::{Result, bail},
    gpu::Gpu,
    graph::Control,
    image::Picture,
};

/// Side of the pictures that are decoded for the fit, and how many: 16 cells each.
const SIDE: usize = 128;
const PICTURES: usize = 8;
/// Latents along a cell's side.
const CELL: usize = 4;

/// Colours of latents.
#[derive(Debug, Clone)]
pub struct Preview {
    autoencoder: Autoencoder,
    /// For red, green and blue: a factor for each channel, and what is added.
    factors: [Vec<f64>; 3],
}

impl Preview {
    /// Fits the colours: decodes eight pictures of 128 x 128.
    ///
    /// # Errors
    /// `Numeric` if the autoencoder gives no finite colours; what the device reports.
    pub async fn fit(gpu: &Gpu, autoencoder: &Autoencoder, control: Control<'_>) -> Result<Self> {
        let size = Size::exact(SIDE, SIDE)?;
        let columns = size.columns();
        let features = Latents::new(autoencoder.version(), size).features();
        let mut noise = Generator::new(Device::Cpu, 0);
        let mut cells = || {
            // One token for each cell of 2 x 2.
            let cells = noise.normal(columns / 2 * (columns / 2) * features, Precision::F32);
            let cell = |token: usize| token / columns / 2 * (columns / 2) + token % columns / 2;
            (0..size.tokens()).flat_map(|t| cells[cell(t) * features..][..features].to_vec()).collect::<Vec<f32>>()
        };
        let pictures: Vec<Vec<f32>> = (0..PICTURES).map(|_| cells()).collect();
        let decoded = autoencoder.decode(gpu, &pictures, size, None, control).await?;
        let mut samples = Vec::new();
        for (tokens, image) in pictures.iter().zip(&decoded) {
            let latents = autoencoder.latents(tokens, size)?;
            for cell in 0..(SIDE / 8 / CELL).pow(2) {
                samples.push(middle(&latents, image, autoencoder.latent_channels, cell));
            }
        }
        let mut factors = [(); 3].map(|()| Vec::new());
        for (color, factors) in factors.iter_mut().enumerate() {
            *factors = least_squares(&samples, color)?;
        }
        Ok(Self { autoencoder: autoencoder.clone(), factors })
    }

    /// The picture of latent tokens of this size, an eighth of it each way.
    ///
    /// # Errors
    /// `Shape` for tokens of another size.
    pub fn picture(&self, tokens: &[f32], size: Size) -> Result<Picture> {
        let latents = self.autoencoder.latents(tokens, size)?;
        let color = |latent: &[f32], factors: &Vec<f64>| {
            let value = factors.iter().zip(latent.iter().chain(&[1.0])).map(|(f, z)| f * f64::from(*z)).sum::<f64>();
            (value * 255.0).round() as u8
        };
        let pixels = latents.chunks(self.autoencoder.latent_channels);
        let rgb = pixels.flat_map(|latent| [0, 1, 2].map(|c| color(latent, &self.factors[c]))).collect();
        Picture::new(size.width() / 8, size.height() / 8, rgb)
    }
}

/// Means over the middle of a cell: of its latents, with a 1 after them, and of its colours.
fn middle(latents: &[f32], image: &[f32], channels: usize, cell: usize) -> (Vec<f64>, [f64; 3]) {
    let row = SIDE / 8 / CELL;
    let (y, x) = (cell / row * CELL + 1, cell % row * CELL + 1);
    let mean = |values: &[f32], width: usize, step: usize, of: usize| {
        let side = (CELL - 2) * step;
        let places = (0..side * side).map(|i| ((y * step + i / side) * width + x * step + i % side) * of);
        let mut sums = vec![0.0; of];
        for place in places {
            sums.iter_mut().zip(&values[place..]).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        sums.iter().map(|sum| sum / (side * side) as f64).collect::<Vec<f64>>()
    };
    let mut z = mean(latents, SIDE / 8, 1, channels);
    z.push(1.0);
    let rgb = mean(image, SIDE, 8, 3);
    (z, [rgb[0], rgb[1], rgb[2]])
}

/// The factors of one colour that fit best: the normal equations, by elimination.
fn least_squares(samples: &[(Vec<f64>, [f64; 3])], color: usize) -> Result<Vec<f64>> {
    let n = samples[0].0.len();
    let mut a = vec![vec![0.0; n + 1]; n];
    for (z, rgb) in samples {
        for (i, row) in a.iter_mut().enumerate() {
            z.iter().chain(&[rgb[color]]).zip(row.iter_mut()).for_each(|(v, sum)| *sum += z[i] * v);
        }
    }
    for k in 0..n {
        // A channel that the decoder does not see gets no factor.
        a[k][k] += 1e-6;
        let pivot = a[k].clone();
        for row in a.iter_mut().skip(k + 1) {
            let factor = row[k] / pivot[k];
            row.iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
        }
    }
    let mut factors = vec![0.0; n];
    for k in (0..n).rev() {
        let rest: f64 = (k + 1..n).map(|i| a[k][i] * factors[i]).sum();
        factors[k] = (a[k][n] - rest) / a[k][k];
    }
    if factors.iter().any(|f| !f.is_finite()) {
        bail!(Numeric, "the autoencoder's colours cannot be fitted");
    }
    Ok(factors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_function_is_found() {
        let z = |i: usize| [(i as f64).sin(), (3.0 * i as f64).cos(), 1.0].to_vec();
        let samples: Vec<_> = (0..20).map(|i| (z(i), [0.0, 0.25 * z(i)[0] - 2.0 * z(i)[1] + 0.5, 0.0])).collect();
        let found = least_squares(&samples, 1).unwrap();
        assert!(found.iter().zip([0.25, -2.0, 0.5]).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
    }
}
