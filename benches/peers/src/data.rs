//! Inputs of a case, and what a few of its results are, computed on the CPU in f64.

use crate::shapes::Op;
use impasto::kernels::Random;

/// The largest normalised mean square error of an f32 result against the f64 sums: f32 sums of up to some thousand
/// products in any order stay below 1e-11; this leaves room for Winograd transforms and exponentials of low precision,
/// and none for a wrong index. f16 operands give 1e-7, so that a library that rounds them without being asked shows.
pub(crate) const ALLOWED: f64 = 1e-8;

/// Rows (of a product), query heads or pixels that are computed on the CPU.
const SAMPLES: usize = 16;

/// Inputs, uniform in -1..1, in impasto's layouts: `x (m, k)` and `w (n, k)`; or q, k, v `(batch, tokens, heads * width)`; or
/// `x (height, width, cin)` and `w (cout, kernel, kernel, cin)`.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) inputs: Vec<Vec<f32>>,
}

/// Some elements of the result: where they are in impasto's layout, and their values.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    at: Vec<usize>,
    values: Vec<f64>,
}

impl Data {
    /// The same for the same operation in every run.
    pub(crate) fn new(op: &Op) -> Self {
        let mut random = Random::new(op.flops());
        let sizes = match *op {
            Op::Matmul { m, n, k } => vec![m * k, n * k],
            Op::Attention { batch, heads, queries, keys, width } => {
                let row = batch * heads * width;
                vec![queries * row, keys * row, keys * row]
            }
            Op::Conv2d { height, width, cin, cout, kernel, .. } => {
                vec![height * width * cin, cout * kernel * kernel * cin]
            }
        };
        Self { inputs: sizes.into_iter().map(|count| random.values(count)).collect() }
    }

    /// Computes the first, the last, and others between.
    pub(crate) fn samples(&self, op: &Op) -> Samples {
        let mut s = Samples::default();
        match *op {
            Op::Matmul { m, n, k } => spread(m).for_each(|row| {
                let x = &self.inputs[0][row * k..][..k];
                (0..n).for_each(|col| s.push(row * n + col, dot(x, &self.inputs[1][col * k..][..k])));
            }),
            Op::Attention { batch, heads, queries, keys, width } => spread(batch * heads * queries).for_each(|i| {
                let (b, h, query) = (i / (heads * queries), i / queries % heads, i % queries);
                let at = |tokens: usize, t: usize| ((b * tokens + t) * heads + h) * width;
                let q = &self.inputs[0][at(queries, query)..][..width];
                let scale = 1.0 / (width as f64).sqrt();
                let scores = (0..keys).map(|t| scale * dot(q, &self.inputs[1][at(keys, t)..][..width]));
                // Scores of such inputs are below 100: their exponentials need no maximum taken off in f64.
                let weights: Vec<f64> = scores.map(f64::exp).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..width {
                    let values = (0..keys).map(|t| f64::from(self.inputs[2][at(keys, t) + c]));
                    let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * v).sum();
                    s.push(at(queries, query) + c, sum / total);
                }
            }),
            Op::Conv2d { height, width, cin, cout, kernel, stride, padding } => {
                let side = |s| Op::out_side(s, kernel, stride, padding);
                let (oh, ow) = (side(height), side(width));
                let inside =
                    |o: usize, tap: usize, size: usize| (o * stride + tap).checked_sub(padding).filter(|&i| i < size);
                spread(oh * ow).for_each(|pixel| {
                    for o in 0..cout {
                        let mut sum = 0.0;
                        for (ky, kx) in (0..kernel * kernel).map(|i| (i / kernel, i % kernel)) {
                            let (y, x) = (inside(pixel / ow, ky, height), inside(pixel % ow, kx, width));
                            let (Some(y), Some(x)) = (y, x) else { continue };
                            let w = &self.inputs[1][((o * kernel + ky) * kernel + kx) * cin..][..cin];
                            sum += dot(&self.inputs[0][(y * width + x) * cin..][..cin], w);
                        }
                        s.push(pixel * cout + o, sum);
                    }
                });
            }
        }
        s
    }
}

impl Samples {
    fn push(&mut self, at: usize, value: f64) {
        self.at.push(at);
        self.values.push(value);
    }

    /// Normalised mean square error of a whole result at the sampled elements; infinite where it is too short or
    /// holds a NaN.
    pub(crate) fn error(&self, y: &[f32]) -> f64 {
        let (mut error, mut power) = (0.0, 0.0);
        for (&at, expected) in self.at.iter().zip(&self.values) {
            let Some(found) = y.get(at).filter(|v| v.is_finite()) else { return f64::INFINITY };
            error += (f64::from(*found) - expected).powi(2);
            power += expected * expected;
        }
        error / power
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// At most [`SAMPLES`] of `0..count`, with both ends. The odd step meets every residue of a tile.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let step = (count / SAMPLES).max(1) | 1;
    (0..count).step_by(step).take(SAMPLES).chain([count - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_element_and_a_nan_are_seen() {
        let op = Op::Matmul { m: 3, n: 5, k: 7 };
        let data = Data::new(&op);
        let samples = data.samples(&op);
        let (x, w) = (&data.inputs[0], &data.inputs[1]);
        let mut y: Vec<f32> = (0..15).map(|i| dot(&x[i / 5 * 7..][..7], &w[i % 5 * 7..][..7]) as f32).collect();
        assert!(samples.error(&y) < ALLOWED);
        y.swap(13, 14);
        assert!(samples.error(&y) > ALLOWED);
        y[14] = f32::NAN;
        assert_eq!(samples.error(&y), f64::INFINITY);
        assert_eq!(samples.error(&y[..14]), f64::INFINITY);
    }

    #[test]
    fn attention_of_one_key_is_its_value() {
        let op = Op::Attention { batch: 2, heads: 2, queries: 3, keys: 1, width: 4 };
        let data = Data::new(&op);
        let v = &data.inputs[2];
        let y: Vec<f32> = v.chunks(8).flat_map(|row| [row; 3].concat()).collect();
        assert!(data.samples(&op).error(&y) < ALLOWED);
    }

    #[test]
    fn a_convolution_of_one_tap_is_a_product() {
        let op = Op::Conv2d { height: 2, width: 3, cin: 4, cout: 5, kernel: 1, stride: 1, padding: 0 };
        let data = Data::new(&op);
        let (x, w) = (&data.inputs[0], &data.inputs[1]);
        let y: Vec<f32> = (0..30).map(|i| dot(&x[i / 5 * 4..][..4], &w[i % 5 * 4..][..4]) as f32).collect();
        assert!(data.samples(&op).error(&y) < ALLOWED);
    }
}
