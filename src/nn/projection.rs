//! Linear layers of large transformers: rows gathered from several checkpoint tensors, cut where a binding ends, with or
//! without bias, from and into parts of a sequence.

use super::{Loader, Storage};
use crate::{
    error::{Result, ensure},
    gpu::{Gpu, Tensor},
    graph::{Graph, Value},
    kernels::matmul::{Activation, Batched, Epilogue, Gate, Precision, Residual, Strides, matmul_batched},
    shape::{DType, Shape},
    weights::{HostDType, HostTensor, Weights},
};
use std::ops::Range;

/// A weight as recordings see it.
#[derive(Debug, Clone)]
pub enum Parameter {
    /// On the device.
    Tensor(Tensor),
    /// Nowhere: for recordings that are listed and measured call by call, and never bound.
    Declared(Shape, DType),
}

impl Parameter {
    /// The value in a recording.
    pub fn value(&self, g: &mut Graph) -> Value {
        match self {
            Self::Tensor(tensor) => g.tensor(tensor),
            Self::Declared(shape, dtype) => g.input("declared", *shape, *dtype),
        }
    }
}

/// Makes parameters.
#[derive(Debug, Clone)]
pub struct Parameters<'a> {
    /// Puts them on a device.
    pub loader: Loader<'a>,
    /// Does not: matrices are only declared, with this storage.
    pub declared: Option<DType>,
    /// The most bytes of one tensor.
    pub binding: u64,
}

impl<'a> Parameters<'a> {
    /// Puts parameters on a device, in tensors that it can bind.
    pub fn new(gpu: &'a Gpu, storage: Storage) -> Self {
        Self { loader: Loader { gpu, storage }, declared: None, binding: gpu.target().limits.binding }
    }

    /// The same without rounding.
    pub fn exact(&self) -> Self {
        Self { loader: self.loader.exact(), declared: self.declared.map(|_| DType::F32), binding: self.binding }
    }

    /// f32 values, which `read` is asked for unless they are only declared.
    ///
    /// # Errors
    /// Those of `read`, `OutOfMemory`.
    pub fn values(
        &self,
        label: &str,
        shape: impl Into<Shape>,
        read: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Parameter> {
        let shape = shape.into();
        match self.declared {
            Some(_) => Ok(Parameter::Declared(shape, DType::F32)),
            None => Ok(Parameter::Tensor(self.loader.values(label, shape, &read()?)?)),
        }
    }

    /// Whether a matrix is stored in f32; bytes of an element are at most 2 if not.
    fn wide(&self, half: bool) -> bool {
        match (self.declared, self.loader.storage) {
            (Some(dtype), _) => dtype == DType::F32,
            (None, storage) => storage == Storage::F32 || (storage == Storage::AsStored && !half),
        }
    }
}

/// Which part of which tensors makes a [`Projection`].
#[derive(Debug, Clone)]
pub struct Selection<'a> {
    /// Linear layers by name and their output features, one under another; all of `k` input features.
    pub layers: Vec<(&'a str, usize)>,
    /// Input features of the layers.
    pub k: usize,
    /// The rows taken of them together.
    pub rows: Range<usize>,
    /// The columns taken.
    pub columns: Range<usize>,
    /// The first and the second half of the rows alternate: gate and up of a gated linear unit.
    pub glu: bool,
    /// Take the biases of the rows, too.
    pub bias: bool,
}

impl<'a> Selection<'a> {
    /// All of one layer.
    pub fn of(layer: &'a str, n: usize, k: usize, bias: bool) -> Self {
        Self { layers: vec![(layer, n)], k, rows: 0..n, columns: 0..k, glu: false, bias }
    }

    /// The tensors `weight` or `bias` of the layers; a convolution of kernel 1 `(n, k, 1, 1)` is a linear layer, too.
    fn tensors(&self, w: &Weights, kind: &str) -> Result<Vec<HostTensor>> {
        let get = |(layer, n): &(&str, usize)| match (kind, w.at(layer).shape(kind).map_or(0, |s| s.len())) {
            ("bias", _) => w.at(layer).get(kind, &[*n]),
            (_, 4) => w.at(layer).get(kind, &[*n, self.k, 1, 1]),
            _ => w.at(layer).get(kind, &[*n, self.k]),
        };
        self.layers.iter().map(get).collect()
    }

    /// Row `i` of what is taken: layer and row there.
    fn source(&self, i: usize) -> (usize, usize) {
        let half = self.rows.len() / 2;
        let mut row = self.rows.start + if self.glu { i % 2 * half + i / 2 } else { i };
        let mut layer = 0;
        while row >= self.layers[layer].1 {
            row -= self.layers[layer].1;
            layer += 1;
        }
        (layer, row)
    }

    /// Rows `range` of what is taken of `tensors`, which have `width` elements a row.
    fn read(
        &self,
        tensors: &[HostTensor],
        range: Range<usize>,
        columns: &Range<usize>,
        width: usize,
    ) -> Result<Vec<f32>> {
        let mut values = vec![0.0; range.len() * columns.len()];
        for (i, out) in range.zip(values.chunks_mut(columns.len().max(1))) {
            let (layer, row) = self.source(i);
            tensors[layer].read_f32(row * width + columns.start, out)?;
        }
        Ok(values)
    }
}

/// A linear layer `y = x Wᵀ + b`, its weight in as many tensors as bindings ask for.
#[derive(Debug, Clone)]
pub struct Projection {
    /// First row and rows `(n, k)` of each part.
    parts: Vec<(usize, usize, Parameter)>,
    bias: Option<Parameter>,
    n: usize,
    k: usize,
    glu: bool,
}

/// Parts of a weight have a multiple of so many rows: whole tiles, and biases that can be sliced.
const GRAIN: usize = 256;

impl Projection {
    /// What `s` names below `w`.
    ///
    /// # Errors
    /// `Weights` if a tensor is missing or has another shape, `OutOfMemory`.
    pub fn load(p: &Parameters<'_>, w: &Weights, s: &Selection<'_>) -> Result<Self> {
        let total: usize = s.layers.iter().map(|(_, n)| n).sum();
        let (n, k) = (s.rows.len(), s.columns.len());
        ensure!(
            s.rows.end <= total && s.columns.end <= s.k && n * k > 0 && (!s.glu || n.is_multiple_of(2)),
            Internal,
            "rows {:?} and columns {:?} of {total} x {}",
            s.rows,
            s.columns,
            s.k
        );
        let label = w.at(s.layers[0].0);
        let tensors = if p.declared.is_some() { Vec::new() } else { s.tensors(w, "weight")? };
        let half = tensors.iter().all(|t| t.dtype() == HostDType::F16);
        let row_bytes = k as u64 * if p.wide(half) { 4 } else { 2 };
        let fit = (p.binding / row_bytes) as usize;
        // Parts of about one size.
        let even = |most: usize| n.div_ceil(n.div_ceil(most)).next_multiple_of(GRAIN).min(most);
        let step = if fit >= n { n } else { even((fit / GRAIN * GRAIN).max(GRAIN)) };
        let part = |start: usize| {
            let len = step.min(n - start);
            let weight = match p.declared {
                Some(dtype) => Parameter::Declared([len, k].into(), dtype),
                None => {
                    let values = s.read(&tensors, start..start + len, &s.columns, s.k)?;
                    Parameter::Tensor(p.loader.matrix(label.prefix(), len, k, &values, half)?)
                }
            };
            Ok((start, len, weight))
        };
        let parts = (0..n).step_by(step).map(part).collect::<Result<_>>()?;
        let bias = || s.read(&s.tensors(w, "bias")?, 0..n, &(0..1), 1);
        let bias = if s.bias { Some(p.values(label.prefix(), [n], bias)?) } else { None };
        Ok(Self { parts, bias, n, k, glu: s.glu })
    }

    /// Features that leave it.
    pub fn width(&self) -> usize {
        if self.glu { self.n / 2 } else { self.n }
    }

    /// The product of some tokens with the rest of `a`, into `a.out` or a new `(n, tokens, width)`.
    ///
    /// # Errors
    /// `Shape`.
    pub fn run(&self, g: &mut Graph, x: Tokens, a: Apply) -> Result<Value> {
        let [batch, _, k] = g.shape(x.value).axes("a projection's tokens")?;
        ensure!(k == self.k, Shape, "a projection of {} features from {}", self.k, g.shape(x.value));
        let columns = a.columns.unwrap_or([0, self.n]);
        let pair = if self.glu { 2 } else { 1 };
        let width = (columns[1] - columns[0]) / pair;
        let out = match a.out {
            Some(out) => out,
            None => {
                let value = g.temp([batch, x.len, width], DType::F32);
                Tokens::all(g, value)?
            }
        };
        let bias = self.bias.as_ref().map(|b| b.value(g));
        for (first, len, weight) in &self.parts {
            let (start, end) = (columns[0].max(*first), columns[1].min(first + len));
            if start >= end {
                continue;
            }
            let column = (start - columns[0]) / pair;
            let along = |s: Strides| Strides { offset: s.offset + column, ..s };
            let b = Batched {
                batch,
                m: x.len,
                n: end - start,
                k,
                x: x.strides(g),
                w: Strides { offset: (start - first) * k, batch: 0, row: k },
                bias_batch: 0,
                y: along(out.strides(g)),
                shape: g.shape(out.value),
            };
            let bias = match bias {
                Some(bias) if end - start < self.n => Some(g.slice(bias, start, end - start)?),
                whole => whole,
            };
            let residual = a.residual.map(|r| Residual { value: r.value, at: along(r.strides(g)), rows: r.len });
            let epilogue = Epilogue {
                bias,
                activation: a.activation,
                glu: self.glu,
                gate: a.gate.map(|gate| Gate { offset: gate.offset + column, ..gate }),
                residual,
                out: Some(out.value),
                precision: a.precision,
            };
            let weight = weight.value(g);
            matmul_batched(g, x.value, weight, b, epilogue)?;
        }
        Ok(out.value)
    }
}

/// Tokens `first .. first + len` of every sequence of a value `(n, t, d)`.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// The sequences.
    pub value: Value,
    /// The first token.
    pub first: usize,
    /// How many.
    pub len: usize,
}

impl Tokens {
    /// Every token.
    ///
    /// # Errors
    /// `Shape` if the value has other axes.
    pub fn all(g: &Graph, value: Value) -> Result<Self> {
        let [_, len, _] = g.shape(value).axes("tokens")?;
        Ok(Self { value, first: 0, len })
    }

    fn strides(&self, g: &Graph) -> Strides {
        let (rows, row) = g.shape(self.value).rows_cols();
        let batch = rows / g.shape(self.value).first().copied().unwrap_or(1).max(1) * row;
        Strides { offset: self.first * row, batch, row }
    }
}

/// What a [`Projection`] does besides the product: `y = residual + gate * activation(x Wᵀ + b)`.
#[derive(Clone, Copy, Default)]
pub struct Apply {
    /// After the bias; the gate's half's if the rows alternate.
    pub activation: Activation,
    /// A factor for each column and batch element.
    pub gate: Option<Gate>,
    /// Added at last.
    pub residual: Option<Tokens>,
    /// Written here.
    pub out: Option<Tokens>,
    /// Only these output features, from and to.
    pub columns: Option<[usize; 2]>,
    /// How x may be rounded.
    pub precision: Precision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_from_their_layers_and_alternate() {
        let mut rows = Selection { layers: vec![("q", 2), ("k", 2), ("mlp", 4)], ..Selection::of("", 0, 3, false) };
        rows.rows = 1..5;
        assert_eq!((0..4).map(|i| rows.source(i)).collect::<Vec<_>>(), [(0, 1), (1, 0), (1, 1), (2, 0)]);
        (rows.rows, rows.glu) = (4..8, true);
        assert_eq!((0..4).map(|i| rows.source(i)).collect::<Vec<_>>(), [(2, 0), (2, 2), (2, 1), (2, 3)]);
    }
}
