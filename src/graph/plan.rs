//! Plan: lifetimes of values to buffer slots, so that memory is known before the first dispatch.

use super::{Graph, Storage, Value};
use crate::{
    error::{Result, ensure},
    gpu::buffer_bytes,
};
use std::collections::BTreeSet;

/// A recording with its memory laid out.
///
/// Slots are separate buffers, because wgpu forbids one buffer as read and read_write in one dispatch.
#[derive(Debug)]
pub struct Plan {
    pub(super) graph: Graph,
    /// Bytes of each slot.
    pub(super) slots: Vec<u64>,
    /// The slot of each value that lives in one.
    pub(super) slot_of: Vec<Option<usize>>,
    live: u64,
}

/// The first and last dispatch that touch a value, inclusive.
#[derive(Debug, Clone, Copy)]
struct Life {
    first: usize,
    last: usize,
}

impl Graph {
    /// Lays out the memory. Greedy by size: the largest values choose first, each takes a slot that is free over
    /// its whole life, so a slot's size is its first value's.
    ///
    /// # Errors
    /// `Internal` if a value is read before it is written.
    pub fn plan(self) -> Result<Plan> {
        let lives = self.lives()?;
        let mut order: Vec<usize> = (0..self.values.len()).filter(|&v| lives[v].is_some()).collect();
        order.sort_by_key(|&v| (std::cmp::Reverse(self.bytes(Value(v as u32))), v));

        let mut slots: Vec<(u64, Vec<Life>)> = Vec::new();
        let mut slot_of = vec![None; self.values.len()];
        for v in order {
            let Some(life) = lives[v] else { continue };
            let bytes = self.bytes(Value(v as u32)).max(4);
            let free = |(_, taken): &(u64, Vec<Life>)| taken.iter().all(|t| t.last < life.first || life.last < t.first);
            let slot = slots.iter().position(free).unwrap_or_else(|| {
                slots.push((bytes, Vec::new()));
                slots.len() - 1
            });
            slots[slot].1.push(life);
            slot_of[v] = Some(slot);
        }

        let live = (0..self.dispatches.len())
            .map(|i| {
                let alive = |v: &usize| lives[*v].is_some_and(|l| l.first <= i && i <= l.last);
                (0..self.values.len()).filter(alive).map(|v| self.bytes(Value(v as u32))).sum::<u64>()
            })
            .max()
            .unwrap_or(0);
        Ok(Plan { slots: slots.into_iter().map(|s| s.0).collect(), slot_of, graph: self, live })
    }

    /// The life of each value that needs a slot. Inputs and outputs live through the whole play.
    fn lives(&self) -> Result<Vec<Option<Life>>> {
        let end = self.dispatches.len();
        let mut lives: Vec<Option<Life>> = vec![None; self.values.len()];
        for (v, info) in self.values.iter().enumerate() {
            if matches!(info.storage, Storage::Input) {
                lives[v] = Some(Life { first: 0, last: end });
            }
        }
        for (i, d) in self.dispatches.iter().enumerate() {
            for (&v, written) in d.reads.iter().map(|v| (v, false)).chain(d.writes.iter().map(|v| (v, true))) {
                let root = self.root(v).0.0 as usize;
                if !matches!(self.values[root].storage, Storage::Slot) {
                    continue;
                }
                match &mut lives[root] {
                    Some(life) => life.last = life.last.max(i),
                    None => {
                        ensure!(written, Internal, "{}: {} reads a value that nothing wrote", d.scope, d.kernel.name);
                        lives[root] = Some(Life { first: i, last: i });
                    }
                }
            }
        }
        for (v, info) in self.values.iter().enumerate().filter(|(_, info)| info.output) {
            let root = self.root(Value(v as u32)).0.0 as usize;
            if matches!(self.values[root].storage, Storage::Slot) {
                let life = &mut lives[root];
                ensure!(life.is_some(), Internal, "output {} is never written", info.name);
                *life = life.map(|l| Life { last: end, ..l });
            }
        }
        Ok(lives)
    }
}

impl Plan {
    /// The recording.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Bytes of all slots, as the buffers that they become.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|bytes| buffer_bytes(*bytes)).sum()
    }

    /// Bytes of the largest set of values alive at one dispatch: what no layout can go below.
    pub fn live_bytes(&self) -> u64 {
        self.live
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of the tensors made outside that this plan uses: weights and shared state. Memory that several share counts
    /// once.
    pub fn tensor_bytes(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let tensors = self.graph.values.iter().filter_map(|info| match &info.storage {
            Storage::Tensor(t) => seen.insert(t.id()).then(|| t.buffer().bytes()),
            _ => None,
        });
        tensors.sum()
    }
}
