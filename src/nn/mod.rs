//! Layers: weights and kernels together. A struct's fields, its checkpoint paths and its scopes are the same words.

mod conv;
mod linear;
mod norm;

pub use conv::{Conv2d, ConvTranspose2d};
pub(crate) use linear::Rows;
pub use linear::{Linear, Run};
pub use norm::LayerNorm;

use crate::{
    error::Result,
    gpu::{Gpu, Tensor},
    graph::{BindOptions, Control, Graph, Value},
    quant,
    shape::{DType, Shape},
};

/// How matrix weights are kept on the device. Norms, biases and small convolutions stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// f16 where the file has f16, else f32: no value changes.
    #[default]
    AsStored,
    /// f32.
    F32,
    /// f16.
    F16,
    /// Blocks of 8-bit integers; f16 for rows that are no multiple of 32.
    Q8,
}

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
            Storage::F16 | Storage::Q8 => Storage::F32,
            kept => kept,
        };
        Self { storage, ..self.clone() }
    }

    /// A matrix of `n` rows of `k`, kept as [`Storage`] says; `half` tells whether the file held f16.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn matrix(&self, label: &str, n: usize, k: usize, values: &[f32], half: bool) -> Result<Tensor> {
        let wanted = match self.storage {
            Storage::AsStored if half => DType::F16,
            Storage::AsStored | Storage::F32 => DType::F32,
            Storage::Q8 if k.is_multiple_of(quant::BLOCK) => DType::Q8,
            Storage::F16 | Storage::Q8 => DType::F16,
        };
        match wanted {
            DType::F16 if !quant::fits_f16(values) => {
                tracing::warn!("{label} has values beyond f16: kept in f32");
                self.gpu.upload(label, [n, k], DType::F32, bytemuck::cast_slice(values))
            }
            DType::F16 => self.gpu.upload(label, [n, k], DType::F16, bytemuck::cast_slice(&quant::pack_f16(values))),
            DType::Q8 => self.gpu.upload(label, [n, k], DType::Q8, bytemuck::cast_slice(&quant::pack_q8(values))),
            _ => self.gpu.upload(label, [n, k], DType::F32, bytemuck::cast_slice(values)),
        }
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
