//! Layers one after another, of which the device may not hold all: some stay, the others take turns in two slots.
//!
//! While one layer computes, the host reads and packs the weights of the next and copies them into the other slot.
//! What is computed is the same either way, to the bit: only the time at which weights arrive differs.

use super::parameters::{Parameters, Place, Slot, Tally};
use crate::{
    error::Result,
    gpu::{Gpu, Tensor, Usage},
    graph::{Graph, Source},
};
use std::{cell::RefCell, sync::Arc};

/// Tensors of a layer that are filled before it runs, and what fills them.
pub(super) type Uploads = Vec<(Tensor, Arc<dyn Source>)>;

/// Packed matrices of all streamed layers that may stay in host memory. What lies in the file as the device has it (f16,
/// f32) is uploaded from the memory map and never kept; the rest (blocks, and what is quantised or rounded at load) would be
/// packed in every play: Q4_0 at some 130 M values a second on one core.
pub const HOST_BYTES: u64 = 4 << 30;

/// Which layers stay on the device, and the bytes that all of them take there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    /// For each layer: whether it stays.
    pub resident: Vec<bool>,
    /// Bytes of the matrices that stay, and of all other parameters.
    pub weights: u64,
    /// Bytes of both slots.
    pub slots: u64,
    /// Bytes that every play uploads.
    pub streamed: u64,
    /// The buffers of a slot.
    buffers: Vec<u64>,
}

impl Residency {
    /// For layers of these parameters within `room` bytes. Layers that stay are spread evenly, so that the uploads of the
    /// others have time. If not even the slots fit, all are streamed: the caller has to look at [`bytes`](Self::bytes).
    pub fn new(layers: &[Tally], room: Option<u64>) -> Self {
        let matrices: Vec<u64> = layers.iter().map(|l| l.matrices.iter().sum()).collect();
        let (values, total) = (layers.iter().map(|l| l.values).sum::<u64>(), matrices.iter().sum::<u64>());
        let resident = Self {
            resident: vec![true; layers.len()],
            weights: values + total,
            slots: 0,
            streamed: 0,
            buffers: Vec::new(),
        };
        let buffers = largest(layers);
        let slots = 2 * buffers.iter().sum::<u64>();
        let Some(room) = room.filter(|room| resident.weights > *room && total > slots) else { return resident };
        let stay = room.saturating_sub(values + slots);
        // Of every byte that has passed, the share that stays; a layer stays once there is enough for it.
        let mut credit = 0u128;
        let mut plan = Self { resident: Vec::new(), weights: values, slots, streamed: 0, buffers };
        for bytes in matrices {
            credit += u128::from(bytes) * u128::from(stay) / u128::from(total);
            let stays = credit >= u128::from(bytes);
            plan.resident.push(stays);
            if stays {
                credit -= u128::from(bytes);
                plan.weights += bytes;
            } else {
                plan.streamed += bytes;
            }
        }
        plan
    }

    /// Of `count` layers all stay; their bytes are not known.
    pub fn all(count: usize) -> Self {
        Self { resident: vec![true; count], weights: 0, slots: 0, streamed: 0, buffers: Vec::new() }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.weights + self.slots
    }

    /// How many layers are streamed.
    pub fn streamed_layers(&self) -> usize {
        self.resident.iter().filter(|stays| !*stays).count()
    }
}

/// For a slot that every layer fits in: the largest matrix of any layer, the largest second one, and so on.
fn largest(layers: &[Tally]) -> Vec<u64> {
    let mut buffers = Vec::new();
    for layer in layers {
        let mut sizes = layer.matrices.clone();
        sizes.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        buffers.resize(buffers.len().max(sizes.len()), 0);
        buffers.iter_mut().zip(sizes).for_each(|(buffer, bytes)| *buffer = bytes.max(*buffer));
    }
    buffers
}

/// Layers and where their weights are.
#[derive(Debug)]
pub struct Stack<L> {
    layers: Vec<(L, Uploads)>,
}

impl<L> Stack<L> {
    /// Only declares layers, and counts what `load` asks for. `exact` as in [`Tally`].
    ///
    /// # Errors
    /// Those of `load`.
    pub fn declare(
        p: &Parameters<'_>,
        count: usize,
        exact: bool,
        load: impl Fn(&Parameters<'_>, usize) -> Result<L>,
    ) -> Result<(Self, Vec<Tally>)> {
        let (mut layers, mut tallies) = (Vec::new(), Vec::new());
        for i in 0..count {
            let tally = RefCell::new(Tally { exact, ..Tally::default() });
            layers.push((load(&p.at(Place::Declared(&tally)), i)?, Vec::new()));
            tallies.push(tally.into_inner());
        }
        Ok((Self { layers }, tallies))
    }

    /// Loads layers as a plan says.
    ///
    /// # Errors
    /// Those of `load`, `OutOfMemory`.
    pub fn load(
        p: &Parameters<'_>,
        plan: &Residency,
        load: impl Fn(&Parameters<'_>, usize) -> Result<L>,
    ) -> Result<Self> {
        let gpu: &Gpu = p.loader.gpu;
        let buffer = |bytes: &u64| gpu.buffer("weight slot", *bytes, Usage::Storage);
        let slot = |_| plan.buffers.iter().map(buffer).collect::<Result<Vec<_>>>();
        let slots = (0..if plan.slots > 0 { 2 } else { 0 }).map(slot).collect::<Result<Vec<_>>>()?;
        let (mut layers, mut turn, mut keep) = (Vec::new(), 0, HOST_BYTES);
        for (i, stays) in plan.resident.iter().enumerate() {
            if *stays {
                layers.push((load(&p.at(Place::Device), i)?, Vec::new()));
                continue;
            }
            let slot = RefCell::new(Slot { free: slots[turn % 2].clone(), uploads: Vec::new(), keep });
            let layer = load(&p.at(Place::Slot(&slot)), i)?;
            let slot = slot.into_inner();
            (turn, keep) = (turn + 1, slot.keep);
            layers.push((layer, slot.uploads));
        }
        Ok(Self { layers })
    }

    /// How many layers there are.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Layer `i`, whose weights are there for what is recorded on `g` until another layer is asked for.
    pub fn layer(&self, g: &mut Graph, i: usize) -> &L {
        let (layer, uploads) = &self.layers[i];
        for (tensor, source) in uploads {
            g.upload(tensor, source.clone());
        }
        layer
    }
}
