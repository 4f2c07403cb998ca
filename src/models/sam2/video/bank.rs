//! Memories on the device: slots that are taken and given back.

use crate::{
    error::{Result, ensure},
    gpu::{Gpu, Tensor, Usage},
    shape::DType,
};

/// Room for memories.
#[derive(Debug)]
pub(super) struct Bank {
    /// `(slots, cells, dim)`.
    pub(super) tensor: Tensor,
    free: Vec<usize>,
    memory: [usize; 2],
}

impl Bank {
    /// Room for `slots` memories of `cells x dim`.
    pub(super) fn new(gpu: &Gpu, slots: usize, memory: [usize; 2]) -> Result<Self> {
        let tensor = gpu.zeros("memories", [slots, memory[0], memory[1]], DType::F32)?;
        Ok(Self { tensor, free: (0..slots).rev().collect(), memory })
    }

    /// Makes room for `more` memories. Says whether the tensor is another now; what is in it stays.
    pub(super) fn reserve(&mut self, gpu: &Gpu, more: usize) -> Result<bool> {
        if self.free.len() >= more {
            return Ok(false);
        }
        let slots = self.tensor.shape()[0];
        // By half at least: a bank grows a few times, not with every object.
        let larger = (slots + more - self.free.len()).max(slots + slots / 2);
        let tensor = gpu.zeros("memories", [larger, self.memory[0], self.memory[1]], DType::F32)?;
        gpu.copy(self.tensor.buffer(), tensor.buffer(), self.tensor.bytes())?;
        self.tensor = tensor;
        self.free.splice(0..0, (slots..larger).rev());
        Ok(true)
    }

    /// A slot that [`reserve`](Self::reserve) has made room for.
    pub(super) fn take(&mut self) -> Option<usize> {
        self.free.pop()
    }

    /// The memories in `slots`, one after the other.
    pub(super) async fn read(&self, gpu: &Gpu, slots: &[usize]) -> Result<Vec<f32>> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let each = self.slot_bytes();
        let all = each * slots.len() as u64;
        let staging = gpu.buffer("read", all, Usage::Download)?;
        let mut submission = gpu.submission();
        for (i, slot) in slots.iter().enumerate() {
            submission.copy(self.tensor.buffer(), *slot as u64 * each, &staging, i as u64 * each, each);
        }
        submission.submit();
        staging.map_read(gpu, all, bytemuck::pod_collect_to_vec).await
    }

    /// Puts a memory into a slot.
    pub(super) fn write(&self, gpu: &Gpu, slot: usize, memory: &[f32]) -> Result<()> {
        let fits = memory.len() as u64 * 4 == self.slot_bytes();
        ensure!(fits, Internal, "a memory of {} values", memory.len());
        gpu.write(self.tensor.buffer(), slot as u64 * self.slot_bytes(), bytemuck::cast_slice(memory));
        gpu.check()
    }

    fn slot_bytes(&self) -> u64 {
        (self.memory[0] * self.memory[1] * 4) as u64
    }

    /// A memory that nothing attends to any more.
    pub(super) fn give(&mut self, slot: usize) {
        self.free.push(slot);
    }
}
