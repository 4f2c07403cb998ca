//! Matrices on their way from a checkpoint to a device: which rows and columns of which tensors, and in which layout.

use super::{READ, Storage};
use crate::{
    error::{Context, Result, bail, ensure},
    graph::Source,
    quant,
    shape::DType,
    weights::{HostDType, HostTensor, Weights, quantize_q4, quantize_q8},
};
use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, OnceLock},
};

/// Which part of which tensors makes a [`Projection`](super::projection::Projection).
#[derive(Debug, Clone)]
pub struct Selection<'a> {
    /// The linear layer that they are of, by which adapters go.
    pub name: &'a str,
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
    /// The tensors have the second half of all rows first.
    pub swapped: bool,
    /// Take the biases of the rows, too.
    pub bias: bool,
}

impl<'a> Selection<'a> {
    /// All of one layer.
    pub fn of(layer: &'a str, n: usize, k: usize, bias: bool) -> Self {
        Self { name: layer, layers: vec![(layer, n)], k, rows: 0..n, columns: 0..k, glu: false, swapped: false, bias }
    }

    /// Which row of all layers together becomes row `i`.
    pub(super) fn row(&self, i: usize) -> usize {
        self.order().row(i)
    }

    fn order(&self) -> Order {
        let total = self.layers.iter().map(|(_, n)| n).sum();
        Order { rows: self.rows.clone(), glu: self.glu, swapped: self.swapped, total }
    }

    /// The rows and columns of the tensors `weight` below `w`; a convolution of kernel 1 `(n, k, 1, 1)` is a linear layer,
    /// too.
    pub(super) fn weights(&self, w: &Weights) -> Result<Taken> {
        let total: usize = self.layers.iter().map(|(_, n)| n).sum();
        let (n, k) = (self.rows.len(), self.columns.len());
        ensure!(
            self.rows.end <= total && self.columns.end <= self.k && n * k > 0 && (!self.glu || n.is_multiple_of(2)),
            Internal,
            "rows {:?} and columns {:?} of {total} x {}",
            self.rows,
            self.columns,
            self.k
        );
        let get = |(layer, n): &(&str, usize)| match w.at(layer).shape("weight").map_or(0, |s| s.len()) {
            4 => w.at(layer).get("weight", &[*n, self.k, 1, 1]),
            _ => w.at(layer).get("weight", &[*n, self.k]),
        };
        let tensors = self.layers.iter().map(get).collect::<Result<_>>()?;
        Ok(Taken { tensors, order: self.order(), columns: self.columns.clone() })
    }

    /// The elements of the tensors `bias` for the rows.
    pub(super) fn biases(&self, w: &Weights) -> Result<Vec<f32>> {
        let get = |(layer, n): &(&str, usize)| w.at(layer).get("bias", &[*n])?.to_f32();
        let all = self.layers.iter().map(get).collect::<Result<Vec<_>>>()?.concat();
        let order = self.order();
        Ok((0..self.rows.len()).map(|i| all[order.source(i)]).collect())
    }
}

/// The rows of a selection.
#[derive(Debug)]
struct Order {
    rows: Range<usize>,
    glu: bool,
    swapped: bool,
    /// Rows of the whole layer.
    total: usize,
}

impl Order {
    /// Which row of the layer becomes row `i`.
    fn row(&self, i: usize) -> usize {
        self.rows.start + if self.glu { i % 2 * (self.rows.len() / 2) + i / 2 } else { i }
    }

    /// Where the tensors have it.
    fn source(&self, i: usize) -> usize {
        if self.swapped { (self.row(i) + self.total / 2) % self.total } else { self.row(i) }
    }
}

/// What a selection names, found: nothing is read yet.
#[derive(Debug)]
pub(super) struct Taken {
    tensors: Vec<HostTensor>,
    order: Order,
    columns: Range<usize>,
}

impl Taken {
    /// Rows and columns.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.order.rows.len(), self.columns.len()]
    }

    /// How it is kept on a device; f16 only if its values fit.
    pub(super) fn layout(&self, storage: Storage) -> DType {
        let whole = |block| [self.columns.start, self.columns.end].iter().all(|c| c.is_multiple_of(block));
        let blocks = whole(quant::BLOCK);
        match storage {
            Storage::F32 => DType::F32,
            Storage::Q8 if blocks => DType::Q8,
            Storage::Q4 if blocks => DType::Q4,
            Storage::F16 | Storage::Q8 | Storage::Q4 => DType::F16,
            Storage::AsStored => {
                let of = HostTensor::device_dtype;
                let dtype = of(&self.tensors[0]);
                let same = self.tensors.iter().all(|t| of(t) == dtype);
                match dtype.block() {
                    1 if same => dtype,
                    block if same && self.kind().is_some() && whole(block) && READ.contains(&dtype) => dtype,
                    _ => DType::F32,
                }
            }
        }
    }

    /// Whether blocks of the file are given up.
    pub(super) fn loses_blocks(&self, dtype: DType) -> bool {
        dtype == DType::F32 && self.tensors.iter().any(|t| t.device_dtype().block() > 1)
    }

    /// The type of all tensors, if it is one and their bytes are the elements.
    fn kind(&self) -> Option<HostDType> {
        let kind = self.tensors[0].dtype();
        self.tensors.iter().all(|t| t.dtype() == kind && !t.has_scales()).then_some(kind)
    }

    /// Whether what is in `dtype` on the device has to be computed.
    fn differs(&self, dtype: DType) -> bool {
        let same = [(HostDType::F32, DType::F32), (HostDType::F16, DType::F16)];
        !self.kind().is_some_and(|kind| same.contains(&(kind, dtype)))
    }

    /// Tensor and row there that become row `i`.
    fn source(&self, i: usize) -> (&HostTensor, usize) {
        let mut row = self.order.source(i);
        let mut tensors = self.tensors.iter();
        loop {
            match tensors.next() {
                Some(t) if row < t.shape()[0] => return (t, row),
                Some(t) => row -= t.shape()[0],
                None => unreachable!("a selection's rows are those of its layers"),
            }
        }
    }

    /// The values of some rows.
    fn values(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut values = vec![0.0; rows.len() * self.columns.len()];
        for (i, out) in rows.zip(values.chunks_mut(self.columns.len().max(1))) {
            let (tensor, row) = self.source(i);
            let width = tensor.count() / tensor.shape()[0];
            tensor.read_f32(row * width + self.columns.start, out)?;
        }
        Ok(values)
    }

    /// The bytes of some rows, where they are neighbours in the file.
    fn neighbours(&self, rows: &Range<usize>) -> Option<&[u8]> {
        let ((first, from), (last, to)) = (self.source(rows.start), self.source(rows.end - 1));
        let row = first.bytes().len() / first.shape()[0];
        let whole = self.columns.len() == first.count() / first.shape()[0];
        let one = std::ptr::eq(first, last) && !self.order.glu && !self.order.swapped;
        (one && whole).then(|| &first.bytes()[from * row..(to + 1) * row])
    }

    /// The bytes of some rows, gathered if they have to be.
    fn bytes(&self, rows: Range<usize>) -> Cow<'_, [u8]> {
        if let Some(bytes) = self.neighbours(&rows) {
            return Cow::Borrowed(bytes);
        }
        let mut bytes = Vec::new();
        for i in rows {
            let (tensor, row) = self.source(i);
            let (block, size) = (tensor.dtype().block(), tensor.dtype().size());
            let [start, end] = [self.columns.start, self.columns.end].map(|c| c / block * size);
            bytes.extend_from_slice(&tensor.bytes()[row * (tensor.bytes().len() / tensor.shape()[0])..][start..end]);
        }
        Cow::Owned(bytes)
    }
}

/// Bytes for a device.
pub(super) enum Packed<'a> {
    Bytes(Cow<'a, [u8]>),
    Floats(Vec<f32>),
    Words(Vec<u32>),
}

impl AsRef<[u8]> for Packed<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Floats(values) => bytemuck::cast_slice(values),
            Self::Words(words) => bytemuck::cast_slice(words),
        }
    }
}

/// Some rows of what was taken, in a layout.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) label: String,
    pub(super) taken: Arc<Taken>,
    pub(super) rows: Range<usize>,
    pub(super) dtype: DType,
    /// Packed bytes, kept from their first use on.
    pub(super) kept: Option<OnceLock<Vec<u8>>>,
}

impl Matrix {
    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.dtype.bytes(self.rows.len() * self.taken.size()[1]) as u64
    }

    /// Whether an upload has more to do than to copy.
    pub(super) fn is_packed(&self) -> bool {
        self.taken.differs(self.dtype) || self.taken.neighbours(&self.rows).is_none()
    }

    /// Falls back to f32 if values are beyond f16: reads them all, unless the file has f16.
    pub(super) fn fit(&mut self) -> Result<()> {
        if self.dtype == DType::F16 && self.taken.differs(DType::F16) {
            // A row at a time: nothing is kept.
            for i in self.rows.clone() {
                if !quant::fits_f16(&self.taken.values(i..i + 1)?) {
                    self.warn();
                    self.dtype = DType::F32;
                    break;
                }
            }
        }
        Ok(())
    }

    fn warn(&self) {
        tracing::warn!("{} has values beyond f16: kept in f32", self.label);
    }

    /// The bytes and their layout: f32 instead of f16 if values are beyond that.
    pub(super) fn pack_or_widen(&self) -> Result<(DType, Packed<'_>)> {
        if self.dtype != DType::F16 || !self.taken.differs(DType::F16) {
            return Ok((self.dtype, self.pack()?));
        }
        let values = self.taken.values(self.rows.clone())?;
        if quant::fits_f16(&values) {
            return Ok((DType::F16, Packed::Words(quant::pack_f16(&values))));
        }
        self.warn();
        Ok((DType::F32, Packed::Floats(values)))
    }

    /// The bytes.
    fn pack(&self) -> Result<Packed<'_>> {
        let (taken, rows) = (&self.taken, self.rows.clone());
        if !taken.differs(self.dtype) {
            let mut bytes = taken.bytes(rows);
            let whole = bytes.len().next_multiple_of(4);
            if bytes.len() < whole {
                bytes.to_mut().resize(whole, 0);
            }
            return Ok(Packed::Bytes(bytes));
        }
        match (taken.kind(), self.dtype) {
            (Some(HostDType::Block(format)), dtype) if format.device() == dtype => {
                return Ok(Packed::Words(format.repack(&taken.bytes(rows)).context(|| self.label.clone())?));
            }
            _ => {}
        }
        let ([_, k], values) = (taken.size(), taken.values(rows.clone())?);
        Ok(match self.dtype {
            DType::F32 => Packed::Floats(values),
            DType::F16 => Packed::Words(quant::pack_f16(&values)),
            DType::Q8 => Packed::Words(quantize_q8(rows.len(), k, &values).context(|| self.label.clone())?),
            DType::Q4 => Packed::Words(quantize_q4(rows.len(), k, &values).context(|| self.label.clone())?),
            other => bail!(Internal, "{}: values cannot be packed as {other:?}", self.label),
        })
    }
}

impl Source for Matrix {
    fn with(&self, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match &self.kept {
            None => f(self.pack()?.as_ref()),
            Some(kept) => match kept.get() {
                Some(bytes) => f(bytes),
                None => {
                    let bytes = self.pack()?.as_ref().to_vec();
                    f(kept.get_or_init(|| bytes))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_from_their_layers_and_alternate() {
        let tensors = [("q", 2), ("k", 2), ("mlp", 4)].map(|(name, n)| (format!("{name}.weight"), vec![n, 3]));
        let w = Weights::blank(tensors).unwrap();
        let all = Selection { layers: vec![("q", 2), ("k", 2), ("mlp", 4)], ..Selection::of("", 0, 3, false) };
        let sources = |rows, glu| {
            let taken = Selection { rows, glu, ..all.clone() }.weights(&w).unwrap();
            let name = |i| (taken.source(i).0.name().to_owned(), taken.source(i).1);
            (0..4).map(name).collect::<Vec<_>>()
        };
        let expected = |all: [(&str, usize); 4]| all.map(|(name, row)| (format!("{name}.weight"), row)).to_vec();
        assert_eq!(sources(1..5, false), expected([("q", 1), ("k", 0), ("k", 1), ("mlp", 0)]));
        assert_eq!(sources(4..8, true), expected([("mlp", 0), ("mlp", 2), ("mlp", 1), ("mlp", 3)]));
    }
}
