//! Memories: on the device those that are recalled, on the host those that may be.

use crate::{
    error::{Result, bail, ensure},
    gpu::{Gpu, Tensor, Usage},
    shape::DType,
};
use std::collections::BTreeMap;

/// Names a memory.
pub(super) type Id = u64;

/// Where a memory is.
#[derive(Debug)]
enum Place {
    Device {
        slot: usize,
        /// When it was wanted last.
        used: u64,
    },
    Host(Box<[f32]>),
}

/// Room on the device for memories. Where it ends, those that were wanted least recently move to the host.
#[derive(Debug)]
pub(super) struct Bank {
    /// `(slots, cells, dim)`.
    pub(super) tensor: Tensor,
    places: BTreeMap<Id, Place>,
    free: Vec<usize>,
    next: Id,
    /// Counts calls of `fetch`.
    clock: u64,
    memory: [usize; 2],
    /// The most slots that a binding holds.
    most: usize,
}

impl Bank {
    /// Room for `slots` memories of `cells x dim`.
    pub(super) fn new(gpu: &Gpu, slots: usize, memory: [usize; 2]) -> Result<Self> {
        let tensor = gpu.zeros("memories", [slots, memory[0], memory[1]], DType::F32)?;
        let most = (gpu.target().limits.binding / (memory[0] * memory[1] * 4) as u64) as usize;
        let free = (0..slots).rev().collect();
        Ok(Self { tensor, places: BTreeMap::new(), free, next: 0, clock: 0, memory, most: most.max(slots) })
    }

    /// Sees to it that all `wanted` memories are on the device and that `new` more find room, within `slots` if that is
    /// enough. Says whether the tensor is another now.
    ///
    /// # Errors
    /// `OutOfMemory` for more than a binding holds, and what the device reports.
    pub(super) async fn fetch(&mut self, gpu: &Gpu, wanted: &[Id], new: usize, slots: usize) -> Result<bool> {
        self.clock += 1;
        let mut missing = Vec::new();
        for id in wanted {
            match self.places.get_mut(id) {
                Some(Place::Device { used, .. }) => *used = self.clock,
                Some(Place::Host(_)) if !missing.contains(id) => missing.push(*id),
                Some(Place::Host(_)) => {}
                None => bail!(Internal, "a memory that is not there"),
            }
        }
        let kept =
            self.places.values().filter(|p| matches!(p, Place::Device { used, .. } if *used == self.clock)).count();
        let needed = kept + missing.len() + new;
        ensure!(
            needed <= self.most,
            OutOfMemory,
            "{needed} memories are needed at once, this device binds {}; a smaller image size makes them smaller",
            self.most
        );
        let grown = self.grow(gpu, needed.max(slots.min(self.most)))?;
        let short = (missing.len() + new).saturating_sub(self.free.len());
        self.evict(gpu, short).await?;
        for id in missing {
            let Some(slot) = self.free.pop() else { bail!(Internal, "no room for a memory") };
            if let Some(Place::Host(values)) = self.places.insert(id, Place::Device { slot, used: self.clock }) {
                gpu.write(self.tensor.buffer(), slot as u64 * self.bytes(), bytemuck::cast_slice(&values));
            }
        }
        gpu.check()?;
        Ok(grown)
    }

    /// The most memories that the device can hold.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// A memory of which nothing is known yet, in room that [`fetch`](Self::fetch) has made.
    pub(super) fn take(&mut self) -> Option<Id> {
        let slot = self.free.pop()?;
        Some(self.add(Place::Device { slot, used: self.clock }))
    }

    /// A memory that comes from elsewhere.
    pub(super) fn put(&mut self, values: &[f32]) -> Id {
        self.add(Place::Host(values.into()))
    }

    /// The slot of a memory that is on the device.
    pub(super) fn slot(&self, id: Id) -> Option<usize> {
        match self.places.get(&id)? {
            Place::Device { slot, .. } => Some(*slot),
            Place::Host(_) => None,
        }
    }

    /// A memory that nothing attends to any more.
    pub(super) fn give(&mut self, id: Id) {
        if let Some(Place::Device { slot, .. }) = self.places.remove(&id) {
            self.free.push(slot);
        }
    }

    /// Memories one after the other, wherever they are.
    pub(super) async fn read(&self, gpu: &Gpu, ids: &[Id]) -> Result<Vec<f32>> {
        let slots: Vec<usize> = ids.iter().filter_map(|id| self.slot(*id)).collect();
        let on_device = self.download(gpu, &slots).await?;
        let mut on_device = on_device.chunks_exact(self.memory.iter().product());
        let mut all = Vec::new();
        for id in ids {
            match self.places.get(id) {
                Some(Place::Host(values)) => all.extend_from_slice(values),
                _ => all.extend_from_slice(on_device.next().unwrap_or_default()),
            }
        }
        Ok(all)
    }

    fn add(&mut self, place: Place) -> Id {
        self.next += 1;
        self.places.insert(self.next, place);
        self.next
    }

    fn grow(&mut self, gpu: &Gpu, slots: usize) -> Result<bool> {
        let old = self.tensor.shape()[0];
        if slots <= old {
            return Ok(false);
        }
        let tensor = gpu.zeros("memories", [slots, self.memory[0], self.memory[1]], DType::F32)?;
        gpu.copy(self.tensor.buffer(), tensor.buffer(), self.tensor.bytes())?;
        self.tensor = tensor;
        self.free.splice(0..0, (old..slots).rev());
        Ok(true)
    }

    /// Moves the `count` memories that were wanted least recently to the host.
    async fn evict(&mut self, gpu: &Gpu, count: usize) -> Result<()> {
        let mut idle: Vec<(u64, Id, usize)> = Vec::new();
        for (id, place) in &self.places {
            if let Place::Device { slot, used } = place {
                idle.push((*used, *id, *slot));
            }
        }
        idle.sort_unstable();
        idle.truncate(count);
        let slots: Vec<usize> = idle.iter().map(|(.., slot)| *slot).collect();
        let values = self.download(gpu, &slots).await?;
        for ((_, id, slot), values) in idle.into_iter().zip(values.chunks_exact(self.memory.iter().product())) {
            self.places.insert(id, Place::Host(values.into()));
            self.free.push(slot);
        }
        Ok(())
    }

    async fn download(&self, gpu: &Gpu, slots: &[usize]) -> Result<Vec<f32>> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.bytes() * slots.len() as u64;
        let staging = gpu.buffer("read", all, Usage::Download)?;
        let mut submission = gpu.submission();
        for (i, slot) in slots.iter().enumerate() {
            let (from, to) = (*slot as u64 * self.bytes(), i as u64 * self.bytes());
            submission.copy(self.tensor.buffer(), from, &staging, to, self.bytes());
        }
        submission.submit();
        staging.map_read(gpu, all, bytemuck::pod_collect_to_vec).await
    }

    /// Of a memory.
    fn bytes(&self) -> u64 {
        (self.memory[0] * self.memory[1] * 4) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu;
    use pollster::block_on;

    /// Memories stay what they were, wherever they are moved to, and the device holds no more than it was asked to.
    #[test]
    fn memories_outlive_their_slots() {
        let gpu = block_on(Gpu::open(&gpu::Options { untuned: true, ..gpu::Options::from_env() })).unwrap();
        let mut bank = Bank::new(&gpu, 2, [16, 4]).unwrap();
        let value = |i: usize| vec![i as f32 + 0.5; 64];
        let ids: Vec<Id> = (0..5).map(|i| bank.put(&value(i))).collect();
        for (wanted, slots) in [(&ids[0..2], 2), (&ids[2..4], 2), (&ids[1..4], 3), (&ids[4..5], 3), (&ids[0..1], 3)] {
            let grown = block_on(bank.fetch(&gpu, wanted, 0, slots)).unwrap();
            assert_eq!((grown, bank.tensor.shape()[0]), (wanted.len() == 3, slots));
            assert!(wanted.iter().all(|id| bank.slot(*id).is_some()));
            for (i, id) in ids.iter().enumerate() {
                assert_eq!(block_on(bank.read(&gpu, &[*id])).unwrap(), value(i));
            }
        }
        assert_eq!(block_on(bank.read(&gpu, &ids)).unwrap(), (0..5).flat_map(value).collect::<Vec<f32>>());
        // What was wanted last stays; what is given back makes room.
        assert!(bank.slot(ids[0]).is_some() && bank.slot(ids[4]).is_some());
        bank.give(ids[0]);
        block_on(bank.fetch(&gpu, &[ids[4]], 2, 3)).unwrap();
        assert!(bank.take().is_some() && bank.take().is_some() && bank.take().is_none());
        let all = block_on(bank.fetch(&gpu, &[], usize::MAX >> 1, 3)).unwrap_err();
        assert_eq!(all.kind(), crate::ErrorKind::OutOfMemory);
    }
}
