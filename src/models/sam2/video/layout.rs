//! What objects recall, as the device takes it, and how many objects it takes together.

use super::{model::Base, object::Recalled, session::Session};
use crate::{
    error::{Result, ensure},
    models::sam2::together,
};

/// What is added to the scores of tokens that an object does not have.
const HIDDEN: f32 = -1e30;

impl Session {
    /// What an object recalls on a frame.
    ///
    /// # Errors
    /// `Argument` if it has no conditioning frame.
    pub(super) fn recall(&self, object: usize, frame: usize, reverse: bool) -> Result<Recalled> {
        let o = &self.objects[object];
        ensure!(
            !o.history.prompted.is_empty(),
            Argument,
            "object {} has no prompt left: prompt it, or remove it",
            o.id
        );
        Ok(o.history.recall(frame, reverse, &self.rules()))
    }

    /// A shape that all of this fits in.
    pub(super) fn base(&self, recalls: &[Recalled]) -> Base {
        let shape = |recall: &Recalled| [recall.memories.len(), recall.pointers.len() * self.pointer_tokens()];
        let shapes = || recalls.iter().map(shape);
        let [memories, pointers] = shapes().fold([0, 0], |a, b| [a[0].max(b[0]), a[1].max(b[1])]);
        Base::Memories { memories, pointers, padded: shapes().any(|s| s != [memories, pointers]) }
    }

    /// Tokens of an object pointer.
    fn pointer_tokens(&self) -> usize {
        self.image.config.hidden / self.memory.dim
    }

    fn cells(&self) -> usize {
        (self.image.side / 16).pow(2)
    }

    /// Bytes of what objects have together.
    fn piece(&self) -> usize {
        together::piece(self.gpu.target())
    }

    /// Memories and tokens of pointers of the ranges that are attended to.
    fn ranges(&self, base: Base) -> Vec<[usize; 2]> {
        let Base::Memories { memories, pointers, .. } = base else { return Vec::new() };
        together::ranges(self.piece(), [self.cells(), self.image.config.hidden], memories, pointers)
    }

    /// The most objects of the present frame that are remembered together.
    pub(super) fn most_remembered(&self) -> usize {
        let rows = together::most(self.piece(), [self.cells(), self.memory.fuser_dim]);
        let masks = self.piece() / (4 * self.image.side.pow(2));
        self.image.max_batch(&self.gpu).min(rows).min(masks).max(1)
    }

    /// The most objects that are followed together.
    pub(super) fn most(&self, base: Base) -> usize {
        let rows = together::most(self.piece(), [self.cells(), self.memory.mlp_dim]);
        let most = self.image.max_batch(&self.gpu).min(rows);
        // Without an object nothing is recalled.
        let Base::Memories { memories: memories @ 1.., .. } = base else { return most.max(1) };
        let keys = |[memories, pointers]: &[usize; 2]| memories * self.cells() + pointers;
        let fit = |range: &[usize; 2]| self.piece() / (4 * keys(range) * self.image.config.hidden);
        self.ranges(base).iter().map(fit).fold(most, usize::min).min(self.bank.most() / memories).max(1)
    }

    /// For each range places of memories and tokens of pointers, as many as `base` has, and a mask of those that are there.
    pub(super) fn recalled(&self, base: Base, recalls: &[Recalled]) -> Result<Vec<[Vec<f32>; 3]>> {
        let mut next = 0;
        let token = 2 * self.memory.dim;
        let hide = |mask: &mut Vec<f32>, hidden: bool, n: usize| {
            mask.extend(std::iter::repeat_n(if hidden { HIDDEN } else { 0.0 }, n));
        };
        let range = |[memories, pointers]: [usize; 2]| {
            let mut all = [(); 3].map(|()| Vec::new());
            let [places, tokens, mask] = &mut all;
            for recall in recalls {
                for at in next..next + memories {
                    let memory = recall.memories.get(at);
                    places.extend(match memory {
                        Some((entry, age)) => [self.slot(entry.memory)?, *age as f32],
                        // Any memory, which the mask hides.
                        None => [0.0; 2],
                    });
                    hide(mask, memory.is_none(), self.cells());
                }
                let there = recall.pointers.len() * self.pointer_tokens();
                if pointers > 0 {
                    for (entry, place) in &recall.pointers {
                        tokens.extend(self.video.pointer_tokens(&entry.choice.pointer, *place));
                    }
                    tokens.resize(tokens.len() + (pointers - there) * token, 0.0);
                    hide(mask, false, there);
                    hide(mask, true, pointers - there);
                }
            }
            next += memories;
            Ok(all)
        };
        self.ranges(base).into_iter().map(range).collect()
    }
}
