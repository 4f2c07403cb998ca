//! Low-rank changes to linear layers (LoRA), applied as a layer runs: `y = act(W x + b + B A x)`. So they go with weights of
//! any storage, which stay as they are, and cost two thin products.

use super::projection::{Parameter, Parameters, Selection, Tokens};
use crate::{
    error::Result,
    graph::Graph,
    kernels::matmul::{Addend, Batched, Epilogue, Precision, Strides, matmul_batched},
    weights::Weights,
};
use std::{collections::BTreeMap, fmt::Debug, ops::Range, sync::Arc};

/// One low-rank change to some rows of a linear layer.
pub trait LowRank: Debug + Send + Sync {
    /// The rows of the layer's weight, which are outputs.
    fn rows(&self) -> Range<usize>;
    /// Rows of `A` and columns of `B`.
    fn rank(&self) -> usize;
    /// `(rank, inputs)`.
    ///
    /// # Errors
    /// `Weights` if it cannot be read.
    fn a(&self) -> Result<Vec<f32>>;
    /// `(rows, rank)`, with all factors.
    ///
    /// # Errors
    /// `Weights` if it cannot be read.
    fn b(&self) -> Result<Vec<f32>>;
    /// Whether the outputs get a bias, too.
    fn has_bias(&self) -> bool;
    /// The bias `(rows)`, with all factors; zeros if there is none.
    ///
    /// # Errors
    /// `Weights` if it cannot be read.
    fn bias(&self) -> Result<Vec<f32>>;
}

/// Low-rank changes by the path of their layer.
#[derive(Debug, Clone, Default)]
pub struct Adapters(pub BTreeMap<String, Vec<Arc<dyn LowRank>>>);

impl Adapters {
    /// Those that change a row of a selection below `w`.
    fn of(&self, w: &Weights, s: &Selection<'_>) -> Vec<Arc<dyn LowRank>> {
        let all = self.0.get(w.at(s.name).prefix()).map_or(&[][..], Vec::as_slice);
        let touches = |a: &&Arc<dyn LowRank>| a.rows().start < s.rows.end && s.rows.start < a.rows().end;
        all.iter().filter(touches).cloned().collect()
    }

    /// What biases change, if any does. The columns of a layer's inputs may be several selections: the first has the bias.
    pub(super) fn bias(&self, w: &Weights, s: &Selection<'_>) -> Option<Vec<Arc<dyn LowRank>>> {
        let with: Vec<_> = self.of(w, s).into_iter().filter(|a| a.has_bias()).collect();
        (!with.is_empty() && s.columns.start == 0).then_some(with)
    }
}

/// Adds rows of biases to a selection's.
pub(super) fn add_biases(adapters: &[Arc<dyn LowRank>], s: &Selection<'_>, biases: &mut [f32]) -> Result<()> {
    for adapter in adapters {
        let (rows, values) = (adapter.rows(), adapter.bias()?);
        for (i, bias) in biases.iter_mut().enumerate() {
            if rows.contains(&s.row(i)) {
                *bias += values[s.row(i) - rows.start];
            }
        }
    }
    Ok(())
}

/// All low-rank changes of a selection as one: `A` has those of all adapters, one under another, `B` side by side, zeros in
/// the rows that an adapter leaves.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    a: Parameter,
    b: Parameter,
    rank: usize,
    k: usize,
}

impl Pair {
    /// That of a selection below `w`, if there are changes to it.
    pub(super) fn load(p: &Parameters<'_>, w: &Weights, s: &Selection<'_>) -> Result<Option<Self>> {
        let adapters = p.adapters.map_or_else(Vec::new, |adapters| adapters.of(w, s));
        if adapters.is_empty() {
            return Ok(None);
        }
        // By fours, as kernels read.
        let rank = adapters.iter().map(|a| a.rank()).sum::<usize>().next_multiple_of(4);
        let (n, k, label) = (s.rows.len(), s.columns.len(), w.at(s.name));
        let read_a = || {
            let mut a = Vec::with_capacity(rank * k);
            for adapter in &adapters {
                adapter.a()?.chunks(s.k).for_each(|row| a.extend_from_slice(&row[s.columns.clone()]));
            }
            a.resize(rank * k, 0.0);
            Ok(a)
        };
        let read_b = || {
            let (mut b, mut first) = (vec![0.0; n * rank], 0);
            for adapter in &adapters {
                let (values, rows, r) = (adapter.b()?, adapter.rows(), adapter.rank());
                for (i, row) in b.chunks_mut(rank).enumerate().filter(|(i, _)| rows.contains(&s.row(*i))) {
                    row[first..first + r].copy_from_slice(&values[(s.row(i) - rows.start) * r..][..r]);
                }
                first += r;
            }
            Ok(b)
        };
        Ok(Some(Self {
            a: p.values(label.prefix(), [rank, k], read_a)?,
            b: p.values(label.prefix(), [n, rank], read_b)?,
            rank,
            k,
        }))
    }

    /// What some tokens add to output features `columns`.
    pub(super) fn run(&self, g: &mut Graph, x: Tokens, columns: [usize; 2], precision: Precision) -> Result<Addend> {
        let (batch, m) = (g.shape(x.value)[0], x.len);
        let dense = |n: usize| Strides { offset: 0, batch: m * n, row: n };
        let rows = |first: usize, k: usize| Strides { offset: first * k, batch: 0, row: k };
        let (r, n) = (self.rank, columns[1] - columns[0]);
        let b = |n: usize, k: usize, x: Strides, first: usize| Batched {
            batch,
            m,
            n,
            k,
            x,
            w: rows(first, k),
            bias_batch: 0,
            y: dense(n),
            shape: [batch, m, n].into(),
        };
        let (from, a) = (b(r, self.k, x.strides(g), 0), self.a.value(g));
        let inner = matmul_batched(g, x.value, a, from, Epilogue { precision, ..Epilogue::default() })?;
        let (from, up) = (b(n, r, dense(r), columns[0]), self.b.value(g));
        let value = matmul_batched(g, inner, up, from, Epilogue::default())?;
        Ok(Addend { value, at: dense(n) })
    }
}
