//! Convolutions with their weights, packed from PyTorch's orders to NHWC ones at load.

use super::{
    Loader,
    projection::{Parameter, Parameters},
};
use crate::{
    error::{Result, bail},
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::{activation::Activation, conv_transpose2d, conv2d},
    weights::{HostTensor, Weights},
};

/// A square convolution, zero padded.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Parameter,
    bias: Parameter,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// `weight (out, in, side, side)` and `bias (out)` under `w`.
    ///
    /// # Errors
    /// `Weights`, `OutOfMemory`.
    pub fn load<'a>(
        p: impl Into<Parameters<'a>>,
        w: &Weights,
        out: usize,
        cin: usize,
        side: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let (p, weight) = (p.into(), w.get("weight", &[out, cin, side, side])?);
        Ok(Self {
            weight: p.values(w.prefix(), [out, side, side, cin], || ohwi(&weight))?,
            bias: p.vector(w, "bias", out)?,
            stride,
            padding,
        })
    }

    /// A convolution of stride 2 whose input has a row and a column of zeros at the bottom and at the right only, as
    /// latent diffusion's `Downsample`. It is one of kernel `side + 1` with a first row and column of zeros, padded on
    /// every side.
    ///
    /// # Errors
    /// `Weights`, `OutOfMemory`.
    pub fn load_padded_after<'a>(
        p: impl Into<Parameters<'a>>,
        w: &Weights,
        out: usize,
        cin: usize,
        side: usize,
    ) -> Result<Self> {
        let (p, row, weight) = (p.into(), side * cin, w.get("weight", &[out, cin, side, side])?);
        let padded = || {
            let mut padded = Vec::with_capacity(out * (side + 1) * (row + cin));
            for filter in ohwi(&weight)?.chunks(side * row) {
                padded.resize(padded.len() + row + cin, 0.0);
                for line in filter.chunks(row) {
                    padded.resize(padded.len() + cin, 0.0);
                    padded.extend_from_slice(line);
                }
            }
            Ok(padded)
        };
        Ok(Self {
            weight: p.values(w.prefix(), [out, side + 1, side + 1, cin], padded)?,
            bias: p.vector(w, "bias", out)?,
            stride: 2,
            padding: 1,
        })
    }

    /// `x (n, h, w, in)` to `(n, oh, ow, out)`, plus `residual` if there is one.
    ///
    /// # Errors
    /// `Shape`.
    pub fn forward(&self, g: &mut Graph, x: Value, residual: Option<Value>) -> Result<Value> {
        let (weight, bias) = (self.weight.value(g), self.bias.value(g));
        let c = conv2d::Conv2d { stride: self.stride, padding: self.padding, activation: Activation::None, residual };
        conv2d::conv2d(g, x, weight, bias, c)
    }
}

/// A filter `(out, in, side, side)` in the order `(out, side, side, in)`.
fn ohwi(weight: &HostTensor) -> Result<Vec<f32>> {
    let &[out, cin, height, width] = weight.shape() else { bail!(Internal, "{:?} of a convolution", weight.shape()) };
    let (oihw, taps) = (weight.to_f32()?, height * width);
    let order = (0..out).flat_map(|o| (0..taps).flat_map(move |t| (0..cin).map(move |i| (o * cin + i) * taps + t)));
    Ok(order.map(|at| oihw[at]).collect())
}

/// A transposed convolution of kernel 2 and stride 2: upscaling.
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Tensor,
}

impl ConvTranspose2d {
    /// `weight (in, out, 2, 2)` and `bias (out)` under `w`.
    ///
    /// # Errors
    /// `Weights`, `OutOfMemory`.
    pub fn load(l: &Loader<'_>, w: &Weights, out: usize, cin: usize) -> Result<Self> {
        let iohw = w.get("weight", &[cin, out, 2, 2])?.to_f32()?;
        let hwoi: Vec<f32> = (0..4)
            .flat_map(|t| (0..out).flat_map(move |o| (0..cin).map(move |i| (i * out + o) * 4 + t)))
            .map(|at| iohw[at])
            .collect();
        Ok(Self {
            weight: l.values(w.prefix(), [2, 2, out, cin], &hwoi)?,
            bias: l.values(w.prefix(), [out], &w.get("bias", &[out])?.to_f32()?)?,
        })
    }

    /// `activation(upscaled x + bias + skip)`: `x (n, h, w, in)` to `(n, 2h, 2w, out)`.
    ///
    /// # Errors
    /// `Shape`.
    pub fn forward(&self, g: &mut Graph, x: Value, skip: Option<Value>, activation: Activation) -> Result<Value> {
        let (weight, bias) = (g.tensor(&self.weight), g.tensor(&self.bias));
        conv_transpose2d::conv_transpose2d(g, x, weight, bias, skip, activation)
    }
}
