//! Layers: weights and kernels together. A struct's fields, its checkpoint paths and its scopes are the same words.

mod conv;
mod linear;
mod low_rank;
mod matrix;
mod norm;
mod parameters;
pub mod projection;
pub mod stack;

pub use conv::{Conv2d, ConvTranspose2d};
pub(crate) use linear::Rows;
pub use linear::{Linear, Run};
pub use low_rank::{Adapters, LowRank};
pub use norm::{GroupNorm, LayerNorm};

use crate::{
    error::{Context, Result},
    gpu::{Gpu, Tensor},
    graph::{BindOptions, Control, Graph, Value},
    quant,
    shape::{DType, Shape},
    weights::{HostTensor, quantize_q4, quantize_q8},
};

/// How matrix weights are kept on the device. Norms, biases and small convolutions stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// As in the file, so that no value changes: blocks where kernels read them, f16 for f16 and plain 8-bit floats,
    /// f32 for the others.
    #[default]
    AsStored,
    /// f32.
    F32,
    /// f16.
    F16,
    /// Blocks of 8-bit integers; f16 for rows that are no multiple of 32.
    Q8,
    /// Blocks of 4-bit integers; f16 for rows that are no multiple of 32.
    Q4,
}

/// The block layouts that `matmul` reads.
const READ: [DType; 6] = [DType::Q8, DType::Q4, DType::Q5, DType::Q4K, DType::Q5K, DType::Q6K];

/// Puts weights on a device.
#[derive(Debug, Clone)]
pub struct Loader<'a> {
    /// The device.
    pub gpu: &'a Gpu,
    /// How matrices are kept.
    pub storage: Storage,
}

impl Loader<'_> {
    /// The same without rounding, for the few layers whose error the rest of a model cannot average out.
    pub fn exact(&self) -> Self {
        let storage = match self.storage {
            Storage::F16 | Storage::Q8 | Storage::Q4 => Storage::F32,
            kept => kept,
        };
        Self { storage, ..self.clone() }
    }

    /// A matrix `(n, k)` of a file, kept as [`Storage`] says. A convolution of kernel 1 `(n, k, 1, 1)` is one too.
    ///
    /// # Errors
    /// `Weights` if it holds integers, `Numeric` for values that the storage cannot hold, `OutOfMemory`.
    pub fn weight(&self, label: &str, tensor: &HostTensor) -> Result<Tensor> {
        let (n, k) = Shape::from(&tensor.shape()[..tensor.shape().len().min(2)]).rows_cols();
        let dtype = tensor.device_dtype();
        if self.storage == Storage::AsStored && dtype.block() > 1 {
            if READ.contains(&dtype) {
                return self.gpu.upload(label, [n, k], dtype, bytemuck::cast_slice(&tensor.packed()?));
            }
            tracing::warn!("{label}: no kernel reads {} blocks yet: kept in f32", tensor.dtype());
        }
        self.matrix(label, n, k, &tensor.to_f32()?, dtype == DType::F16)
    }

    /// A matrix of `n` rows of `k`, kept as [`Storage`] says; `half` tells whether f16 holds its values unchanged.
    ///
    /// # Errors
    /// `Numeric` for values that the storage cannot hold, `OutOfMemory`.
    pub fn matrix(&self, label: &str, n: usize, k: usize, values: &[f32], half: bool) -> Result<Tensor> {
        let blocks = k.is_multiple_of(quant::BLOCK);
        let wanted = match self.storage {
            Storage::AsStored if half => DType::F16,
            Storage::AsStored | Storage::F32 => DType::F32,
            Storage::Q8 if blocks => DType::Q8,
            Storage::Q4 if blocks => DType::Q4,
            Storage::F16 | Storage::Q8 | Storage::Q4 => DType::F16,
        };
        let packed = match wanted {
            DType::F16 if !quant::fits_f16(values) => {
                tracing::warn!("{label} has values beyond f16: kept in f32");
                return self.values(label, [n, k], values);
            }
            DType::F16 => quant::pack_f16(values),
            DType::Q8 => quantize_q8(n, k, values).context(|| label.to_owned())?,
            DType::Q4 => quantize_q4(n, k, values).context(|| label.to_owned())?,
            _ => return self.values(label, [n, k], values),
        };
        self.gpu.upload(label, [n, k], wanted, bytemuck::cast_slice(&packed))
    }

    /// f32 values of any shape.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn values(&self, label: &str, shape: impl Into<Shape>, values: &[f32]) -> Result<Tensor> {
        self.gpu.upload(label, shape, DType::F32, bytemuck::cast_slice(values))
    }

    /// Computes once, at load, what depends on weights and resolution only: plays the recording and keeps its result.
    ///
    /// # Errors
    /// What recording and device report.
    pub async fn bake(&self, label: &str, record: impl FnOnce(&mut Graph) -> Result<Value>) -> Result<Tensor> {
        let mut g = Graph::new(self.gpu.target());
        let v = record(&mut g)?;
        let tensor = self.gpu.zeros(label, g.shape(v), g.dtype(v))?;
        g.store(v, &tensor)?;
        g.plan()?.bind(self.gpu, &BindOptions::default())?.run(&[], &[], Control::default()).await?;
        Ok(tensor)
    }
}
