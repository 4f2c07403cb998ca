//! Linear layers, one or several stacked into one matrix.

use super::Loader;
use crate::{
    error::Result,
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::matmul::{Activation, Epilogue, Residual, matmul},
    shape::DType,
    weights::{HostTensor, Weights},
};

/// `y = x Wᵀ + b`, weight `(n, k)` as `torch.nn.Linear`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `(n, k)`.
    pub weight: Tensor,
    /// `(n)`.
    pub bias: Tensor,
}

/// What a linear layer does besides the product.
#[derive(Clone, Copy, Default)]
pub struct Run {
    /// After the bias.
    pub activation: Activation,
    /// Added after the activation.
    pub residual: Option<Residual>,
    /// Written here instead of into a new value.
    pub out: Option<Value>,
}

/// Rows of a matrix on the host with their biases, on the way to a [`Linear`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    /// Whether f16 holds all of them unchanged.
    pub(crate) half: bool,
}

impl Rows {
    /// `weight (n, k)` and `bias (n)` under `w`.
    pub(crate) fn load(w: &Weights, n: usize, k: usize) -> Result<Self> {
        let weight = matrix(w, n, k)?;
        let half = weight.device_dtype() == DType::F16;
        Ok(Self { weight: weight.to_f32()?, bias: w.get("bias", &[n])?.to_f32()?, half })
    }

    /// These rows, then those.
    pub(crate) fn then(mut self, more: Self) -> Self {
        self.half = (self.half || self.bias.is_empty()) && more.half;
        self.weight.extend(more.weight);
        self.bias.extend(more.bias);
        self
    }

    /// `n` rows of zeros.
    pub(crate) fn zeros(n: usize, k: usize) -> Self {
        Self { weight: vec![0.0; n * k], bias: vec![0.0; n], half: true }
    }

    /// Without biases: what a term that is added to another matrix's result needs.
    pub(crate) fn without_bias(mut self) -> Self {
        self.bias.fill(0.0);
        self
    }

    /// `outer` after `self`: one matrix for two linear layers with nothing between them. Sums in f64.
    pub(crate) fn followed_by(&self, outer: &Self) -> Self {
        let (m, n) = (self.bias.len(), outer.bias.len());
        let k = self.weight.len() / m;
        let (mut weight, mut bias) = (vec![0.0; n * k], vec![0.0; n]);
        for (o, row) in outer.weight.chunks(m).enumerate() {
            let mut sums = vec![0f64; k];
            let mut sum = f64::from(outer.bias[o]);
            for ((&a, inner), &b) in row.iter().zip(self.weight.chunks(k)).zip(&self.bias) {
                sums.iter_mut().zip(inner).for_each(|(s, &w)| *s += f64::from(a) * f64::from(w));
                sum += f64::from(a) * f64::from(b);
            }
            weight[o * k..][..k].iter_mut().zip(sums).for_each(|(w, s)| *w = s as f32);
            bias[o] = sum as f32;
        }
        Self { weight, bias, half: false }
    }

    /// Onto the device.
    pub(crate) fn upload(&self, l: &Loader<'_>, label: &str) -> Result<Linear> {
        let n = self.bias.len();
        Ok(Linear {
            weight: l.matrix(label, n, self.weight.len() / n, &self.weight, self.half)?,
            bias: l.values(label, [n], &self.bias)?,
        })
    }
}

/// `weight (n, k)` under `w`; a convolution of kernel 1 `(n, k, 1, 1)` is the same thing.
fn matrix(w: &Weights, n: usize, k: usize) -> Result<HostTensor> {
    let conv = w.shape("weight").is_some_and(|s| s.len() == 4);
    if conv { w.get("weight", &[n, k, 1, 1]) } else { w.get("weight", &[n, k]) }
}

impl Linear {
    /// `weight` and `bias` under `w`.
    ///
    /// # Errors
    /// `Weights` if a tensor is missing or has another shape, `OutOfMemory`.
    pub fn load(l: &Loader<'_>, w: &Weights, n: usize, k: usize) -> Result<Self> {
        let bias = w.get("bias", &[n])?.to_f32()?;
        Ok(Self { weight: l.weight(w.prefix(), &matrix(w, n, k)?)?, bias: l.values(w.prefix(), [n], &bias)? })
    }

    /// `x Wᵀ + b`.
    ///
    /// # Errors
    /// `Shape`.
    pub fn forward(&self, g: &mut Graph, x: Value) -> Result<Value> {
        self.run(g, x, Run::default())
    }

    /// The product with an activation, a residual or a place to write.
    ///
    /// # Errors
    /// `Shape`.
    pub fn run(&self, g: &mut Graph, x: Value, r: Run) -> Result<Value> {
        let (weight, bias) = (g.tensor(&self.weight), g.tensor(&self.bias));
        let epilogue = Epilogue {
            bias: Some(bias),
            activation: r.activation,
            residual: r.residual,
            out: r.out,
            ..Epilogue::default()
        };
        matmul(g, x, weight, epilogue)
    }
}
