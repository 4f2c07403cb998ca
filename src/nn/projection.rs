//! Linear layers of large transformers: rows gathered from several checkpoint tensors, cut where a binding ends, with or
//! without bias, from and into parts of a sequence.

use super::low_rank::{Pair, add_biases};
use crate::{
    error::{Result, ensure},
    graph::{Graph, Value},
    kernels::matmul::{Activation, Addend, Batched, Epilogue, Gate, Precision, Residual, Strides, matmul_batched},
    shape::DType,
    weights::Weights,
};
use std::sync::Arc;

pub use super::{
    matrix::Selection,
    parameters::{Parameter, Parameters, Place, Slot, Tally},
};

/// A linear layer `y = x Wᵀ + b`, its weight in as many tensors as bindings ask for.
#[derive(Debug, Clone)]
pub struct Projection {
    /// First row and rows `(n, k)` of each part.
    parts: Vec<(usize, usize, Parameter)>,
    bias: Option<Parameter>,
    low_rank: Option<Pair>,
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
        let taken = Arc::new(s.weights(w)?);
        let ([n, k], label) = (taken.size(), w.at(s.name));
        let fit = (p.binding / taken.layout(p.loader.storage).bytes(k) as u64) as usize;
        // Parts of about one size.
        let even = |most: usize| n.div_ceil(n.div_ceil(most)).next_multiple_of(GRAIN).min(most);
        let step = if fit >= n { n } else { even((fit / GRAIN * GRAIN).max(GRAIN)) };
        let part = |start: usize| {
            let len = step.min(n - start);
            Ok((start, len, p.matrix(label.prefix(), &taken, start..start + len)?))
        };
        let parts = (0..n).step_by(step).map(part).collect::<Result<_>>()?;
        let changes = p.adapters.and_then(|adapters| adapters.bias(w, s));
        let biases = || {
            let mut biases = if s.bias { s.biases(w)? } else { vec![0.0; n] };
            add_biases(changes.as_deref().unwrap_or_default(), s, &mut biases)?;
            Ok(biases)
        };
        let bias = match s.bias || changes.is_some() {
            true => Some(p.values(label.prefix(), [n], biases)?),
            false => None,
        };
        Ok(Self { parts, bias, low_rank: Pair::load(p, w, s)?, n, k, glu: s.glu })
    }

    /// Features that leave it.
    pub fn width(&self) -> usize {
        if self.glu { self.n / 2 } else { self.n }
    }

    /// Features of the widest value that it makes for a token.
    pub fn widest(&self) -> usize {
        if self.low_rank.is_some() { self.n } else { self.width() }
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
        let addend = self.low_rank.as_ref().map(|pair| pair.run(g, x, columns, a.precision)).transpose()?;
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
                addend: addend.map(|a| Addend { at: Strides { offset: start - columns[0], ..a.at }, ..a }),
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

    pub(super) fn strides(&self, g: &Graph) -> Strides {
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
