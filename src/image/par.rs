//! Loops over rows, on all cores where there are threads: natively. In a browser they run one after the other.

#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::*;

/// Calls `f(i, chunk)` for the `i`-th chunk of `size` elements of `data`, in any order.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn chunks_mut<T: Send>(data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Send + Sync) {
    data.par_chunks_mut(size).enumerate().for_each(|(i, chunk)| f(i, chunk));
}

/// Calls `f(i, chunk)` for the `i`-th chunk of `size` elements of `data`.
#[cfg(target_arch = "wasm32")]
pub(super) fn chunks_mut<T: Send>(data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Send + Sync) {
    data.chunks_mut(size).enumerate().for_each(|(i, chunk)| f(i, chunk));
}

/// How many pieces of `n` rows keep the cores busy when each piece has a fixed cost: the rows of a piece.
pub(super) fn band(n: usize) -> usize {
    #[cfg(not(target_arch = "wasm32"))]
    let threads = rayon::current_num_threads();
    #[cfg(target_arch = "wasm32")]
    let threads = 1;
    n.div_ceil(4 * threads).max(16)
}
