//! Weights as recordings see them, and the places where they are put.

use super::{
    Adapters, Loader, Storage,
    matrix::{Matrix, Taken},
    stack::Uploads,
};
use crate::{
    error::{Context, Result, ensure},
    gpu::{Buffer, Gpu, Tensor, buffer_bytes},
    graph::{Graph, Value},
    shape::{DType, Shape},
    weights::Weights,
};
use std::{
    cell::RefCell,
    ops::Range,
    sync::{Arc, OnceLock},
};

/// A weight as recordings see it.
#[derive(Debug, Clone)]
pub enum Parameter {
    /// On the device.
    Tensor(Tensor),
    /// Nowhere: for recordings that are planned, listed and measured call by call, and never bound.
    Declared(Shape, DType),
}

impl Parameter {
    /// The value in a recording.
    pub fn value(&self, g: &mut Graph) -> Value {
        match self {
            Self::Tensor(tensor) => g.tensor(tensor),
            Self::Declared(shape, dtype) => g.declare(*shape, *dtype),
        }
    }
}

/// Where parameters are put.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// Each into a tensor of its own.
    Device,
    /// Nowhere: their bytes are counted.
    Declared(&'a RefCell<Tally>),
    /// Matrices into a slot, before each use; the rest, which is small, into tensors of its own.
    Slot(&'a RefCell<Slot>),
}

/// Bytes of declared parameters, as the buffers that they would take.
#[derive(Debug, Default)]
pub struct Tally {
    /// Each matrix.
    pub matrices: Vec<u64>,
    /// All else together.
    pub values: u64,
    /// Look for values that f16 cannot hold, which are kept in f32: reads what the checkpoint has in wider types.
    pub exact: bool,
}

impl Tally {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.matrices.iter().sum::<u64>() + self.values
    }
}

/// Memory that the matrices of one layer after another take.
#[derive(Debug, Default)]
pub struct Slot {
    /// What no matrix has taken yet.
    pub(super) free: Vec<Buffer>,
    /// Where the matrices that were put here are, and what fills them.
    pub(super) uploads: Uploads,
    /// Bytes of packed matrices that may still be kept in host memory.
    pub(super) keep: u64,
}

/// Makes parameters.
#[derive(Debug, Clone)]
pub struct Parameters<'a> {
    /// The device, and the storage of matrices.
    pub loader: Loader<'a>,
    /// Where they are put.
    pub place: Place<'a>,
    /// The most bytes of one tensor.
    pub binding: u64,
    /// Low-rank changes to layers.
    pub adapters: Option<&'a Adapters>,
}

/// Layers take either: those that are never only declared have no more than a loader.
impl<'a> From<&Loader<'a>> for Parameters<'a> {
    fn from(l: &Loader<'a>) -> Self {
        Self::new(l.gpu, l.storage)
    }
}

impl<'a> From<&Self> for Parameters<'a> {
    fn from(p: &Self) -> Self {
        p.clone()
    }
}

impl<'a> Parameters<'a> {
    /// Puts parameters on a device, in tensors that it can bind.
    pub fn new(gpu: &'a Gpu, storage: Storage) -> Self {
        let binding = gpu.target().limits.binding;
        Self { loader: Loader { gpu, storage }, place: Place::Device, binding, adapters: None }
    }

    /// The same with low-rank changes.
    pub fn with(&self, adapters: &'a Adapters) -> Self {
        Self { adapters: Some(adapters), ..self.clone() }
    }

    /// The same elsewhere.
    pub fn at<'b>(&self, place: Place<'b>) -> Parameters<'b>
    where
        'a: 'b,
    {
        Parameters { loader: self.loader.clone(), place, binding: self.binding, adapters: self.adapters }
    }

    /// The same without rounding.
    pub fn exact(&self) -> Self {
        Self { loader: self.loader.exact(), ..self.clone() }
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
        match self.place {
            Place::Declared(tally) => {
                tally.borrow_mut().values += buffer_bytes(DType::F32.bytes(shape.count()) as u64);
                Ok(Parameter::Declared(shape, DType::F32))
            }
            Place::Device | Place::Slot(_) => Ok(Parameter::Tensor(self.loader.values(label, shape, &read()?)?)),
        }
    }

    /// The f32 values `name (len)` below `w`.
    ///
    /// # Errors
    /// `Weights` if they are missing or of another shape, `OutOfMemory`.
    pub fn vector(&self, w: &Weights, name: &str, len: usize) -> Result<Parameter> {
        let tensor = w.get(name, &[len])?;
        self.values(w.prefix(), [len], || tensor.to_f32())
    }

    /// Some rows of a matrix.
    pub(super) fn matrix(&self, label: &str, taken: &Arc<Taken>, rows: Range<usize>) -> Result<Parameter> {
        let dtype = taken.layout(self.loader.storage);
        if taken.loses_blocks(dtype) && self.loader.storage == Storage::AsStored {
            tracing::warn!("{label}: no kernel reads its blocks so: kept in f32");
        }
        let shape = |m: &Matrix| Shape::from([m.rows.len(), m.taken.size()[1]]);
        let mut m = Matrix { label: label.into(), taken: taken.clone(), rows, dtype, kept: None };
        match self.place {
            Place::Declared(tally) => {
                let mut tally = tally.borrow_mut();
                if tally.exact {
                    m.fit()?;
                }
                tally.matrices.push(buffer_bytes(m.bytes()));
                Ok(Parameter::Declared(shape(&m), m.dtype))
            }
            Place::Device => {
                let (dtype, packed) = m.pack_or_widen()?;
                Ok(Parameter::Tensor(self.loader.gpu.upload(label, shape(&m), dtype, packed.as_ref())?))
            }
            Place::Slot(slot) => {
                m.fit()?;
                let mut slot = slot.borrow_mut();
                let fits = |i: &usize| slot.free[*i].bytes() >= m.bytes();
                let smallest = (0..slot.free.len()).filter(fits).min_by_key(|i| slot.free[*i].bytes());
                ensure!(smallest.is_some(), Internal, "{label}: no room in the slot for {} bytes", m.bytes());
                let buffer = slot.free.swap_remove(smallest.unwrap_or(0));
                let tensor = Tensor::within(&buffer, shape(&m), m.dtype).context(|| label.to_owned())?;
                if m.is_packed() && m.bytes() <= slot.keep {
                    slot.keep -= m.bytes();
                    m.kept = Some(OnceLock::new());
                }
                slot.uploads.push((tensor.clone(), Arc::new(m)));
                Ok(Parameter::Tensor(tensor))
            }
        }
    }
}
