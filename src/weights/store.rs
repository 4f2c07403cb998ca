//! What the readers of the file formats hand to [`Weights`](super::Weights): tensors by the file's names.

use super::{Bytes, HostDType, dtype::byte_count};
use crate::error::{Result, bail};
use std::{collections::BTreeMap, fmt};

/// No model comes near; a bound on what a hostile header can make us hold.
pub(super) const MAX_TENSORS: usize = 100_000;
/// Torch and safetensors know no bound; no model comes near this one.
pub(super) const MAX_RANK: usize = 8;

/// Tensors by the name that the file gives them.
pub(super) type Tensors = BTreeMap<String, Entry>;

/// A tensor as it lies in a file. The reader that made it has checked that all its elements are inside `data`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: HostDType,
    pub(super) shape: Vec<usize>,
    /// Its elements; with `strides`, the storage from its first element on.
    pub(super) data: Bytes,
    /// The distance in elements between neighbours along each axis, where the tensor is not row-major.
    pub(super) strides: Option<Vec<usize>>,
}

impl Entry {
    /// The elements in row-major order: without a copy, unless the file holds them in another order.
    pub(super) fn contiguous(&self) -> Result<Bytes> {
        let Some(strides) = &self.strides else { return Ok(self.data.clone()) };
        let size = self.dtype.size();
        let Some(total) = byte_count(&self.shape, self.dtype) else { bail!(Weights, "a tensor's size overflows") };
        let mut out = Vec::with_capacity(total);
        let mut index = vec![0usize; self.shape.len()];
        while out.len() < total {
            let at = size * index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
            out.extend_from_slice(&self.data[at..at + size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(out.into())
    }
}

/// The formats that [`Weights::open`](super::Weights::open) recognises, by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One safetensors file.
    SafeTensors,
    /// Several safetensors files and their index.
    Sharded,
    /// A PyTorch zip archive.
    Torch,
    /// A GGUF file.
    Gguf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SafeTensors => "safetensors",
            Self::Sharded => "safetensors, sharded",
            Self::Torch => "PyTorch",
            Self::Gguf => "GGUF",
        })
    }
}

/// A name out of a file, safe to print: quoted, escaped, and cut where it is absurdly long.
pub(super) fn printable(name: &str) -> String {
    match name.char_indices().nth(120) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// The names nearest to `wanted` by edit distance, best first: what the user, or a name table, may have meant.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    // Long names and long lists exist only in hostile files; the table is quadratic in the first.
    let mut all: Vec<(usize, &str)> =
        names.filter(|n| n.len() <= 256).take(5_000).map(|n| (distance(wanted, n), n)).collect();
    all.sort();
    all.into_iter().filter(|(d, n)| *d <= wanted.len().max(n.len()) / 2).take(3).map(|(_, n)| n).collect()
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
