//! Slots that plans share.

use crate::{
    error::Result,
    gpu::{Buffer, Gpu, Usage},
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
        let mut used = vec![false; pool.len()];
        let mut slots = vec![None; sizes.len()];
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
        for i in order {
            let fits = |&j: &usize| !used[j] && pool[j].bytes() >= sizes[i];
            let found = (0..pool.len()).filter(fits).min_by_key(|&j| pool[j].bytes());
            let j = match found {
                Some(j) => j,
                None => {
                    pool.push(gpu.buffer("shared slot", sizes[i], Usage::Storage)?);
                    used.push(false);
                    pool.len() - 1
                }
            };
            used[j] = true;
            slots[i] = Some(pool[j].clone());
        }
        Ok(slots.into_iter().flatten().collect())
    }
}
