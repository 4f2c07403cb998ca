//! Decoders bound to the device, one for each shape of a run, kept because clicks repeat a few shapes.

use super::model::{DecodeGraph, EmbeddingTensors, Model};
use crate::{
    error::{Result, bail},
    gpu::Gpu,
    graph::{BindOptions, Bound, Graph, Value},
    kernels::mask_stats::mask_stats,
};
use std::collections::HashMap;

/// The shape of a decoder run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DecodeKey {
    /// Prompts.
    pub(super) batch: usize,
    /// Embedded points of each.
    pub(super) points: usize,
    /// Whether each brings a mask.
    pub(super) mask: bool,
    /// Judge the masks on the device.
    pub(super) judge: Option<Judge>,
}

/// What masks are judged by. Floats by their bits, to be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Judge {
    /// Height and width that the masks are for.
    pub(super) size: [usize; 2],
    /// Threshold and offset of the stability score.
    pub(super) threshold: [u32; 2],
}

/// A bound decoder and its values.
#[derive(Debug)]
pub(super) struct Decoder {
    pub(super) bound: Bound,
    pub(super) tokens: Value,
    pub(super) mask: Option<Value>,
    /// `(batch * 4, low, low)`.
    pub(super) masks: Value,
    pub(super) scores: Value,
    /// Counts at the picture's size and, for the single-mask fallback, at low resolution.
    pub(super) stats: Option<[Value; 2]>,
    used: u64,
}

/// Those in use.
#[derive(Debug, Default)]
pub(super) struct Decoders {
    bound: HashMap<DecodeKey, Decoder>,
    /// Counts uses, to drop the one unused for longest.
    clock: u64,
}

/// Decoders kept bound.
const KEPT: usize = 8;

impl Decoders {
    /// The decoder for a shape, bound now if it is not yet.
    pub(super) fn get(
        &mut self,
        key: DecodeKey,
        gpu: &Gpu,
        model: &Model,
        embedding: &EmbeddingTensors,
        options: &BindOptions,
    ) -> Result<&mut Decoder> {
        self.clock += 1;
        if !self.bound.contains_key(&key) {
            if self.bound.len() >= KEPT
                && let Some(oldest) = self.bound.iter().min_by_key(|(_, d)| d.used).map(|(k, _)| *k)
            {
                self.bound.remove(&oldest);
            }
            let decoder = Decoder::bind(key, gpu, model, embedding, options)?;
            self.bound.insert(key, decoder);
        }
        match self.bound.get_mut(&key) {
            Some(decoder) => {
                decoder.used = self.clock;
                Ok(decoder)
            }
            None => bail!(Internal, "no decoder"),
        }
    }

    /// Bytes of weights and embedding that the decoders use.
    pub(super) fn tensor_bytes(&self) -> u64 {
        self.bound.values().map(|d| d.bound.plan().tensor_bytes()).max().unwrap_or(0)
    }
}

impl Decoder {
    fn bind(
        key: DecodeKey,
        gpu: &Gpu,
        model: &Model,
        embedding: &EmbeddingTensors,
        options: &BindOptions,
    ) -> Result<Self> {
        let g = Graph::new(gpu.target());
        let recorded = model.record_decode(g, embedding, key.batch, key.points, key.mask)?;
        let DecodeGraph { mut graph, tokens, mask, decoded } = recorded;
        let [batch, masks, height, width] = graph.shape(decoded.masks).axes("decoded masks")?;
        let flat = graph.reshape(decoded.masks, [batch * masks, height, width])?;
        let stats = match key.judge {
            None => None,
            Some(judge) => {
                let [threshold, offset] = judge.threshold.map(f32::from_bits);
                let c = &model.config.decoder;
                let full = mask_stats(&mut graph, flat, judge.size[0], judge.size[1], threshold, offset)?;
                let low = mask_stats(&mut graph, flat, height, width, 0.0, c.stability_delta)?;
                graph.output(full, "stats");
                graph.output(low, "low stats");
                Some([full, low])
            }
        };
        let bound = graph.plan()?.bind(gpu, options)?;
        tracing::info!(
            batch = key.batch,
            points = key.points,
            mask = key.mask,
            dispatches = bound.graph().dispatches().len(),
            submits = bound.submits(),
            "decoder bound"
        );
        Ok(Self { bound, tokens, mask, masks: flat, scores: decoded.scores, stats, used: 0 })
    }
}
