//! Recordings bound to the device, kept because frames repeat a few shapes.

use super::{
    bank::Bank,
    model::{Base, Found, RecalledValues, Recording, RememberGraph, Sizes, VideoModel},
};
use crate::{
    error::{Result, bail},
    gpu::Gpu,
    graph::{BindOptions, Bound, Graph, Value},
    models::sam2::model::{EmbeddingTensors, Model},
};
use std::collections::HashMap;

/// A bound answer to prompts.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) bound: Bound,
    pub(super) tokens: Value,
    pub(super) mask: Option<Value>,
    pub(super) recalled: Vec<RecalledValues>,
    pub(super) found: Found,
}

/// A bound memory encoder.
#[derive(Debug)]
pub(super) struct Remember {
    pub(super) bound: Bound,
    pub(super) masks: Value,
    pub(super) hard: Value,
    pub(super) places: Value,
}

/// What recordings read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) image: &'a Model,
    pub(super) video: &'a VideoModel,
    pub(super) embedding: &'a EmbeddingTensors,
    pub(super) bank: &'a Bank,
    /// Memories are rounded to bfloat16.
    pub(super) bf16: bool,
}

/// Those in use.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    answers: HashMap<Sizes, (Answers, u64)>,
    remember: HashMap<[usize; 2], (Remember, u64)>,
    /// Counts uses, to drop the one unused for longest.
    clock: u64,
}

/// Recordings of a kind kept bound.
const KEPT: usize = 8;

/// The entry of `key`, made by `make` if it is not there, in the place of the one unused for longest.
fn get<K: Copy + Eq + std::hash::Hash, T>(
    all: &mut HashMap<K, (T, u64)>,
    key: K,
    clock: u64,
    make: impl FnOnce() -> Result<T>,
) -> Result<&mut T> {
    if !all.contains_key(&key) {
        if all.len() >= KEPT
            && let Some(oldest) = all.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| *k)
        {
            all.remove(&oldest);
        }
        all.insert(key, (make()?, clock));
    }
    match all.get_mut(&key) {
        Some((entry, used)) => {
            *used = clock;
            Ok(entry)
        }
        None => bail!(Internal, "no recording"),
    }
}

impl Graphs {
    /// Dispatches of the recordings that were used last: of an answer, of a memory encoder.
    #[cfg(test)]
    pub(super) fn dispatches(&self) -> [usize; 2] {
        let answers = self.answers.values().max_by_key(|(_, used)| *used).map(|(a, _)| &a.bound);
        let remember = self.remember.values().max_by_key(|(_, used)| *used).map(|(r, _)| &r.bound);
        [answers, remember].map(|bound| bound.map_or(0, |b| b.graph().dispatches().len()))
    }

    /// How often a recording was used.
    #[cfg(test)]
    pub(super) fn uses(&self) -> u64 {
        self.clock
    }

    /// Forgets what reads or writes the bank, which is another.
    pub(super) fn clear(&mut self) {
        self.answers.retain(|sizes, _| !matches!(sizes.base, Base::Memories { .. }));
        self.remember.clear();
    }

    /// Bound for `sizes`.
    ///
    /// # Errors
    /// `OutOfMemory`, and what the device reports.
    pub(super) fn answers(&mut self, p: Parts<'_>, sizes: Sizes, options: &BindOptions) -> Result<&mut Answers> {
        self.clock += 1;
        get(&mut self.answers, sizes, self.clock, || {
            let g = Graph::new(p.gpu.target());
            let Recording { graph, tokens, mask, recalled, found } =
                p.video.record(p.image, g, p.embedding, &p.bank.tensor, sizes)?;
            let bound = graph.plan()?.bind(p.gpu, options)?;
            let (dispatches, flops) = (bound.graph().dispatches().len(), bound.graph().flops());
            tracing::info!(?sizes, dispatches, flops, "answers bound");
            Ok(Answers { bound, tokens, mask, recalled, found })
        })
    }

    /// Bound for so many objects and masks of such a side.
    ///
    /// # Errors
    /// `OutOfMemory`, and what the device reports.
    pub(super) fn remember(
        &mut self,
        p: Parts<'_>,
        [objects, low]: [usize; 2],
        options: &BindOptions,
    ) -> Result<&mut Remember> {
        self.clock += 1;
        get(&mut self.remember, [objects, low], self.clock, || {
            let g = Graph::new(p.gpu.target());
            let sizes = [objects, low, p.image.side];
            let RememberGraph { graph, masks, hard, places } =
                p.video.record_remember(g, p.embedding, &p.bank.tensor, sizes, p.bf16)?;
            let bound = graph.plan()?.bind(p.gpu, options)?;
            let (dispatches, flops) = (bound.graph().dispatches().len(), bound.graph().flops());
            tracing::info!(objects, low, dispatches, flops, "memory encoder bound");
            Ok(Remember { bound, masks, hard, places })
        })
    }
}
