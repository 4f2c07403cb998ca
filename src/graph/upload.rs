//! Uploads within a play: weights that take turns in the same memory.

use super::{Bound, Graph};
use crate::{
    error::{Context, Result, ensure},
    gpu::Tensor,
};
use std::{fmt::Debug, ops::Range, sync::Arc};

/// Bytes in host memory, or a way to make them, in the layout of the tensor that they are for.
pub trait Source: Debug + Send + Sync {
    /// Calls `f` with the bytes.
    ///
    /// # Errors
    /// What reading and packing them reports, and those of `f`.
    fn with(&self, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
}

/// A tensor that every play fills before one of its dispatches.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    /// The dispatch.
    before: usize,
    tensor: Tensor,
    source: Arc<dyn Source>,
    scope: String,
}

impl Graph {
    /// Every play fills `tensor` from `source` before the dispatch that is recorded next. What was recorded before runs with
    /// what the tensor held until then: tensors may share a buffer.
    pub fn upload(&mut self, tensor: &Tensor, source: Arc<dyn Source>) {
        let (before, scope) = (self.dispatches.len(), self.scope.join("."));
        self.uploads.push(Upload { before, tensor: tensor.clone(), source, scope });
    }

    /// Bytes that every play uploads besides its inputs.
    pub fn upload_bytes(&self) -> u64 {
        self.uploads.iter().map(|u| u.tensor.bytes()).sum()
    }
}

impl Bound {
    /// Whether there are uploads before a step; a submit begins there.
    pub(super) fn uploads_before(&self, step: usize) -> bool {
        !self.due(step).is_empty()
    }

    /// Queues the uploads before a step. They are copied behind all that was submitted, and the host makes the bytes
    /// while that computes.
    pub(super) async fn feed(&self, step: usize) -> Result<()> {
        let due = self.due(step);
        if due.is_empty() {
            return Ok(());
        }
        // There waiting for a submit returns at once: staging memory would not be bounded.
        #[cfg(target_arch = "wasm32")]
        self.gpu.done().await?;
        for upload in &self.plan.graph.uploads[due] {
            let write = &mut |bytes: &[u8]| {
                let expected = upload.tensor.bytes();
                ensure!(bytes.len() as u64 == expected, Internal, "{} bytes for a tensor of {expected}", bytes.len());
                self.gpu.write(upload.tensor.buffer(), 0, bytes);
                Ok(())
            };
            upload.source.with(write).context(|| upload.scope.clone())?;
        }
        self.gpu.check()
    }

    /// The uploads that are due when `step` begins. They are recorded in the order of their dispatches.
    fn due(&self, step: usize) -> Range<usize> {
        let dispatch = self.steps[step].dispatch;
        // A dispatch may have become several steps.
        if step > 0 && self.steps[step - 1].dispatch == dispatch {
            return 0..0;
        }
        let all = &self.plan.graph.uploads;
        all.partition_point(|u| u.before < dispatch)..all.partition_point(|u| u.before <= dispatch)
    }
}
