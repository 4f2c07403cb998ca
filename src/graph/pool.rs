//! Slots that plans share.

use super::Plan;
use crate::{
    error::Result,
    gpu::{Buffer, Gpu, Usage, buffer_bytes},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Slots shared by plans of one session. What a plan leaves in its slots is gone once another plan plays.
#[derive(Debug, Clone, Default)]
pub struct SlotPool(Arc<Mutex<Vec<Buffer>>>);

impl SlotPool {
    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.lock().iter().map(Buffer::bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Buffer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One buffer for each of `sizes`: the smallest free one that is large enough, else a new one.
    pub(super) fn take(&self, gpu: &Gpu, sizes: &[u64]) -> Result<Vec<Buffer>> {
        let mut pool = self.lock();
        let mut bytes: Vec<u64> = pool.iter().map(Buffer::bytes).collect();
        let chosen = assign(&mut bytes, sizes);
        for bytes in &bytes[pool.len()..] {
            pool.push(gpu.buffer("shared slot", *bytes, Usage::Storage)?);
        }
        Ok(chosen.into_iter().map(|i| pool[i].clone()).collect())
    }
}

impl Plan {
    /// Adds to `slots`, the bytes of a pool's buffers, those that the pool gets when this plan is bound with it.
    pub fn share(&self, slots: &mut Vec<u64>) {
        assign(slots, &self.slots);
    }
}

/// Which of some buffers each of `sizes` gets: the largest chooses first. What none is free for is added to them.
fn assign(buffers: &mut Vec<u64>, sizes: &[u64]) -> Vec<usize> {
    let mut used = vec![false; buffers.len()];
    let mut chosen = vec![0; sizes.len()];
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    for i in order {
        let fits = |&j: &usize| !used[j] && buffers[j] >= sizes[i];
        let found = (0..buffers.len()).filter(fits).min_by_key(|&j| buffers[j]);
        let j = found.unwrap_or_else(|| {
            buffers.push(buffer_bytes(sizes[i]));
            used.push(false);
            buffers.len() - 1
        });
        used[j] = true;
        chosen[i] = j;
    }
    chosen
}
