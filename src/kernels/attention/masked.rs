//! What some attention has besides: a mask, a bias, shared heads, values of another width.

use super::{Attention, Value};
use crate::{
    error::{Result, ensure},
    graph::Graph,
    shape::DType,
};
use serde::{Deserialize, Serialize};

/// [`Attention`] as language models and SAM 2's memory have it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Masked {
    /// The call. Without windows.
    #[serde(flatten)]
    pub call: Attention,
    /// Query `t` meets the keys `0..=t` only. A padding on the right then costs nothing more: with fewer keys than queries,
    /// the last queries meet all keys.
    #[serde(default, skip_serializing_if = "is_default")]
    pub causal: bool,
    /// Neighbouring heads of q that share a head of k and v (grouped-query attention): 1, or what divides `heads`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub share: usize,
    /// Added to the scaled products.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: Option<Bias>,
    /// Width of a head of v and of the result, if it is not that of q and k: a multiple of 4, at most 512.
    #[serde(default, skip_serializing_if = "is_default")]
    pub value_dim: Option<usize>,
    /// The result is not combined: parts of it, so many at most, as [`attention_merge`](super::super::attention_merge) takes
    /// them. What [`attention_over_ranges`](super::attention_over_ranges) asks of a range.
    #[serde(default, skip_serializing_if = "is_default")]
    pub parts: Option<usize>,
}

impl From<Attention> for Masked {
    fn from(call: Attention) -> Self {
        Self { call, causal: false, share: 1, bias: None, value_dim: None, parts: None }
    }
}

/// Where the bias of batch element `b`, head `h`, query `t` and key `n` is: `offset + b * batch + h * head + t * row + n`, in
/// f32 elements.
///
/// A bias that depends on `n - t` alone has one line a head: `row` -1, `offset` the number of queries less one. Values are
/// finite: to mask by a bias, take -1e30.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bias {
    /// An f32 tensor.
    pub value: Value,
    /// The bias of the first head, query and key.
    pub offset: usize,
    /// From one batch element to the next; 0 if they share it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one query to the next.
    pub row: isize,
}

impl Bias {
    /// # Errors
    /// `Shape` if there is not a bias for every batch element, head, query and key of `a`.
    pub(super) fn check(&self, g: &Graph, a: &Attention) -> Result<()> {
        let first = self.offset as isize;
        let last_row = first + (a.queries as isize - 1) * self.row;
        let end = first.max(last_row) + ((a.batch - 1) * self.batch + (a.heads - 1) * self.head + a.keys) as isize;
        let (shape, dtype) = (g.shape(self.value), g.dtype(self.value));
        ensure!(
            dtype == DType::F32
                && first.min(last_row) >= 0
                && end as usize <= shape.count()
                && end <= u32::MAX as isize,
            Shape,
            "attention: {self:?} is {shape} {dtype:?}, for {} times {} heads, {} queries and {} keys",
            a.batch,
            a.heads,
            a.queries,
            a.keys
        );
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Windows, masked_attention, tests::fused},
        *,
    };
    use crate::{error::ErrorKind, kernel::Target};

    #[test]
    fn refuses_what_does_not_fit() {
        let refused = |change: &dyn Fn(&mut Masked)| {
            let mut g = Graph::new(&Target::default());
            let mut call = Masked::from(fused(&mut g, 4, 16, 64));
            let value = g.input("bias", [4, 127], DType::F32);
            call.bias = Some(Bias { value, offset: 63, batch: 0, head: 127, row: -1 });
            change(&mut call);
            masked_attention(&mut g, call).is_err_and(|e| [ErrorKind::Shape, ErrorKind::Argument].contains(&e.kind()))
        };
        let bias = |b: Bias| move |m: &mut Masked| m.bias = m.bias.map(|old| Bias { value: old.value, ..b });
        assert!(!refused(&|m| (m.causal, m.share) = (true, 4)));
        assert!(refused(&|m| m.share = 3));
        assert!(refused(&|m| m.share = 0));
        assert!(!refused(&|m| m.value_dim = Some(8)));
        assert!(refused(&|m| m.value_dim = Some(6)));
        assert!(refused(&|m| m.value_dim = Some(0)));
        assert!(refused(&|m| m.value_dim = Some(20)));
        assert!(refused(&|m| m.call.windows = Some(Windows { grid: [8, 8], size: 4, pool: 1, pad: m.call.q.value })));
        let mut g = Graph::new(&Target::default());
        let value = g.input("bias", [1], DType::F32);
        assert!(refused(&bias(Bias { value, offset: 62, batch: 0, head: 127, row: -1 })));
        assert!(refused(&bias(Bias { value, offset: 64, batch: 0, head: 127, row: -1 })));
        assert!(refused(&bias(Bias { value, offset: 63, batch: 0, head: 128, row: -1 })));
        assert!(refused(&bias(Bias { value, offset: 0, batch: 0, head: 0, row: 8 })));
        // Two batch elements over the same q, k and v.
        let twice = |batch: usize| {
            refused(&move |m| {
                m.call.batch = 2;
                for o in [&mut m.call.q, &mut m.call.k, &mut m.call.v] {
                    o.batch = 0;
                }
                m.bias = m.bias.map(|b| Bias { batch, head: 0, ..b });
            })
        };
        assert!(!twice(3 * 127) && twice(3 * 127 + 1));
    }
}
