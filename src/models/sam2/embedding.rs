//! An encoded picture on the host: to inspect, to keep in a file, to prompt again later without encoding.

use super::predictor::Predictor;
use crate::{
    error::{Context, ErrorKind, IntoError, Result, bail, ensure},
    gpu::Tensor,
    graph::{BindOptions, Control, Graph},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;

/// What the encoder makes of a picture, in the reference's names and NCHW order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Width and height of the picture.
    pub picture: (usize, usize),
    /// Tells the weights that made it: those of another model give nonsense, even where the shapes agree.
    pub model: u64,
    /// `feat0`, `feat1` and `image_embed`: name, shape `(1, c, h, w)`, values.
    pub tensors: Vec<(String, [usize; 4], Vec<f32>)>,
}

/// Names of the tensors.
const NAMES: [&str; 3] = ["feat0", "feat1", "image_embed"];
/// Metadata key of the picture's size.
const PICTURE: &str = "picture";
/// Metadata key of what tells the model.
const MODEL: &str = "model";
/// The largest picture, in pixels: what a file says is allocated for.
const MAX_PIXELS: usize = 1 << 29;

impl Embedding {
    /// A safetensors file.
    ///
    /// # Errors
    /// `Internal` if it cannot be serialised.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let (width, height) = self.picture;
        let picture = (PICTURE.to_string(), format!("{width}x{height}"));
        let metadata = HashMap::from([picture, (MODEL.to_string(), format!("{:016x}", self.model))]);
        let views = self
            .tensors
            .iter()
            .map(|(name, shape, values)| {
                TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values)).map(|v| (name.clone(), v))
            })
            .collect::<Result<Vec<_>, _>>();
        views
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .error(ErrorKind::Internal, || "cannot serialise the embedding")
    }

    /// From a safetensors file that [`to_safetensors`](Self::to_safetensors) made.
    ///
    /// # Errors
    /// `Input` if it is anything else.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let not = || "not an embedding that impasto saved";
        let (_, header) = SafeTensors::read_metadata(bytes).error(ErrorKind::Input, not)?;
        let file = SafeTensors::deserialize(bytes).error(ErrorKind::Input, not)?;
        let said = |key: &str| header.metadata().as_ref()?.get(key).map(String::as_str);
        let size = said(PICTURE).and_then(|s| s.split_once('x'));
        let Some((Ok(width), Ok(height))) = size.map(|(w, h)| (w.parse::<usize>(), h.parse::<usize>())) else {
            bail!(Input, "{}: no picture size", not());
        };
        let pixels = width.saturating_mul(height);
        ensure!((1..=MAX_PIXELS).contains(&pixels), Input, "{}: a picture of {width}x{height}", not());
        let Some(Ok(model)) = said(MODEL).map(|m| u64::from_str_radix(m, 16)) else {
            bail!(Input, "{}: no model", not());
        };
        let tensors = NAMES
            .iter()
            .map(|name| {
                let t = file.tensor(name).error(ErrorKind::Input, not)?;
                let Ok(shape) = <[usize; 4]>::try_from(t.shape()) else { bail!(Input, "{}: {name}", not()) };
                ensure!(t.dtype() == Dtype::F32, Input, "{}: {name} is {:?}", not(), t.dtype());
                Ok((name.to_string(), shape, bytemuck::pod_collect_to_vec(t.data())))
            })
            .collect::<Result<_>>()?;
        Ok(Self { picture: (width, height), model, tensors })
    }
}

impl Predictor {
    /// The encoded picture.
    ///
    /// # Errors
    /// `Argument` before a picture was encoded; what the device reports.
    pub async fn embedding(&self) -> Result<Embedding> {
        let Some(picture) = self.picture else { bail!(Argument, "encode a picture first") };
        let mut tensors = Vec::new();
        for (name, tensor) in NAMES.into_iter().zip(self.embedding_parts()) {
            let [h, w, c] = channels_last(tensor);
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&tensor.read(&self.gpu).await?);
            tensors.push((name.to_string(), [1, c, h, w], transpose(&values, h * w, c)));
        }
        Ok(Embedding { picture, model: self.model.fingerprint(), tensors })
    }

    /// Makes a kept embedding the picture that is prompted.
    ///
    /// # Errors
    /// `Input` if it belongs to another model or image size; what the device reports.
    pub async fn restore(&mut self, embedding: &Embedding, control: Control<'_>) -> Result<()> {
        self.picture = None;
        ensure!(embedding.model == self.model.fingerprint(), Input, "the embedding was made by another model");
        for (tensor, (name, shape, values)) in self.embedding_parts().into_iter().zip(&embedding.tensors) {
            let [h, w, c] = channels_last(tensor);
            ensure!(
                *shape == [1, c, h, w],
                Input,
                "{name} of the embedding has shape {shape:?}, this model at this image size has {:?}",
                [1, c, h, w]
            );
            ensure!(values.iter().all(|v| v.is_finite()), Input, "{name} of the embedding holds NaN or infinity");
            tensor.fill(&self.gpu, bytemuck::cast_slice(&transpose(values, c, h * w)))?;
        }
        let g = self.model.record_restore(Graph::new(self.gpu.target()), &self.embedding)?;
        let mut bound = g.plan()?.bind(&self.gpu, &BindOptions::default())?;
        bound.run(&[], &[], control).await.context(|| "restoring an embedding")?;
        self.picture = Some(embedding.picture);
        Ok(())
    }

    /// In the order of [`NAMES`].
    fn embedding_parts(&self) -> [&Tensor; 3] {
        let e = &self.embedding;
        [&e.feat0, &e.feat1, &e.image_embed]
    }
}

/// Height, width and channels of `(1, h, w, c)` or of a square's rows `(h * w, c)`.
fn channels_last(tensor: &Tensor) -> [usize; 3] {
    match *tensor.shape() {
        [_, h, w, c] => [h, w, c],
        [cells, c] => [cells.isqrt(), cells.isqrt(), c],
        _ => unreachable!("embedding tensors have two or four axes"),
    }
}

/// `(rows, cols)` to `(cols, rows)`.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}
