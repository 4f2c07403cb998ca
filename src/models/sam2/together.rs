//! Objects that go through the device together: what they need at once is cut into pieces that a binding holds.
//!
//! The cuts are those for [`TOGETHER`] objects however many there are, so that a frame takes as many dispatches with one.

use crate::{
    error::Result,
    graph::{Graph, Value},
    kernel::{Class, Target},
    shape::DType,
};

/// Objects that cuts are made for.
const TOGETHER: usize = 16;

/// Bytes of the largest piece on a GPU, though a binding may hold more: memory is bounded however many objects there are. 16 of
/// them attend to seven memories of 64 x 64 cells in one piece.
const PIECE: u64 = 512 << 20;

/// On a CPU: the keys of one object's range are then read from its cache, not from memory. With seven memories in ranges of two,
/// 10 MB, a frame of SAM 2.1 tiny took 10.1 s beside its encoding, with all of them at once 17.0 (32 MB of cache).
const SOFTWARE_PIECE: u64 = 128 << 20;

/// Bytes of a piece on a device.
pub(super) fn piece(target: &Target) -> usize {
    let most = if target.class() == Class::Gpu { PIECE } else { SOFTWARE_PIECE };
    target.limits.binding.min(most) as usize
}

/// Of `cells` rows of each of [`TOGETHER`] objects, `inner` f32 a row: so many that one piece holds those of all objects.
fn part(piece: usize, [cells, inner]: [usize; 2]) -> usize {
    let room = piece / (TOGETHER * inner * 4);
    // Whole rows of workgroups, which also start where a binding may.
    cells.min((room / 64 * 64).max(64))
}

/// Objects that go through [`by_rows`] together.
pub(super) fn most(piece: usize, [cells, inner]: [usize; 2]) -> usize {
    piece / (part(piece, [cells, inner]) * inner * 4)
}

/// `f(g, first, out)` for one part of the rows `n * cells` of `n` objects after another: its result for those from `first` on, as
/// many as `out` has, goes to `out`. All of them are the result, of `width` columns. In between, `f` has values of `inner`.
pub(super) fn by_rows(
    g: &mut Graph,
    [n, cells]: [usize; 2],
    [inner, width]: [usize; 2],
    mut f: impl FnMut(&mut Graph, usize, Value) -> Result<Value>,
) -> Result<Value> {
    let y = g.temp([n * cells, width], DType::F32);
    let step = n * part(piece(g.target()), [cells, inner]);
    for first in (0..n * cells).step_by(step) {
        let out = g.slice(y, first, step.min(n * cells - first))?;
        f(g, first, out)?;
    }
    Ok(y)
}

/// Memories, and tokens of pointers, of each range of the tokens that a frame attends to. Their keys `(tokens, d)` are in one
/// piece for each range, of [`TOGETHER`] objects if those of one memory are. The first has the most tokens.
pub(super) fn ranges(piece: usize, [cells, d]: [usize; 2], memories: usize, pointers: usize) -> Vec<[usize; 2]> {
    let room = piece / (TOGETHER * d * 4);
    let cut = |count: usize| {
        // The last is of the smaller ones.
        let mut all: Vec<[usize; 2]> = (0..count).map(|i| [(memories + count - 1 - i) / count, 0]).collect();
        if let Some([_, last]) = all.last_mut() {
            *last = pointers;
        }
        all.sort_by_key(|[memories, pointers]| std::cmp::Reverse(memories * cells + pointers));
        all
    };
    let fits = |all: &Vec<[usize; 2]>| all[0][0] * cells + all[0][1] <= room;
    (1..memories.max(1)).map(cut).find(fits).unwrap_or_else(|| cut(memories.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_parts_whatever_the_objects() {
        // The inner values of an MLP of memory attention, and of the memory encoder.
        assert_eq!([1 << 30, 128 << 20].map(|b| part(b, [4096, 2048])), [4096, 1024]);
        assert_eq!([1 << 30, 128 << 20].map(|b| most(b, [4096, 2048])), [32, 16]);
        assert_eq!([part(128 << 20, [4096, 1024]), most(128 << 20, [4096, 1024])], [2048, 16]);
        assert_eq!([part(100 << 20, [4096, 2048]), most(100 << 20, [4096, 2048])], [768, 16]);
        // Rows that are too long for all of them, and few rows.
        assert_eq!([part(1 << 20, [4096, 2048]), most(1 << 20, [4096, 2048])], [64, 2]);
        assert_eq!(part(1 << 20, [16, 2048]), 16);
    }

    #[test]
    fn ranges_of_tokens_fit_a_binding() {
        let of = |piece, memories, pointers| ranges(piece, [4096, 256], memories, pointers);
        assert_eq!(of(1 << 30, 7, 64), [[7, 64]]);
        // Two memories of 16 objects in 128 MiB.
        assert_eq!(of(128 << 20, 1, 4), [[1, 4]]);
        assert_eq!(of(128 << 20, 2, 0), [[2, 0]]);
        assert_eq!(of(128 << 20, 2, 4), [[1, 4], [1, 0]]);
        assert_eq!(of(128 << 20, 7, 64), [[2, 0], [2, 0], [2, 0], [1, 64]]);
        assert_eq!(of(128 << 20, 6, 64), [[2, 0], [2, 0], [1, 64], [1, 0]]);
        // No smaller than a memory.
        assert_eq!(of(16 << 20, 3, 8), [[1, 8], [1, 0], [1, 0]]);
        for (memories, pointers) in [(46, 300), (40, 4), (5, 64), (1, 0)] {
            let all = of(128 << 20, memories, pointers);
            assert_eq!(all.iter().fold([0, 0], |a, b| [a[0] + b[0], a[1] + b[1]]), [memories, pointers]);
            assert!(all.iter().all(|[m, p]| m * 4096 + p <= 8192));
        }
    }
}
