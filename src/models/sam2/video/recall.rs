//! Which memories a frame attends to. After `SAM2Base._prepare_memory_conditioned_features` (`sam2/modeling/sam2_base.py`) and
//! `select_closest_cond_frames` (`sam2_utils.py`).

use std::collections::BTreeMap;

/// Frames, each with what is remembered of it.
type Frames<T> = Vec<(usize, T)>;

/// What is remembered of an object, frame by frame: `T` is a memory and a pointer.
#[derive(Debug, Clone)]
pub(super) struct History<T> {
    /// Conditioning frames, which were prompted, in the order of their prompts.
    pub(super) prompted: Frames<T>,
    /// Other frames.
    pub(super) tracked: BTreeMap<usize, T>,
}

/// What decides which frames are recalled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Memories that are attended to beside those of further conditioning frames (`num_maskmem`).
    pub(super) slots: usize,
    /// Object pointers of frames, at most (`max_obj_ptrs_in_encoder`).
    pub(super) pointers: usize,
    /// Conditioning frames, at most (`max_cond_frames_in_attn`).
    pub(super) prompted: Option<usize>,
    /// Memories of tracked frames are taken every so many frames (`memory_temporal_stride_for_eval`).
    pub(super) stride: usize,
    /// Frames of the clip, where they are known.
    pub(super) frames: Option<usize>,
    /// Frames around the present one that are kept at least.
    pub(super) kept: usize,
}

/// What a frame attends to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recall<T> {
    /// Memories, each with its row of the positions in time.
    pub(super) memories: Vec<(T, usize)>,
    /// Object pointers, each with its place in time, as a share of the longest that is attended to: signed, positive on
    /// the side that tracking comes from.
    pub(super) pointers: Vec<(T, f32)>,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self { prompted: Vec::new(), tracked: BTreeMap::new() }
    }
}

impl<T: Clone> History<T> {
    /// What `frame` attends to, tracked forward or in `reverse`.
    pub(super) fn recall(&self, frame: usize, reverse: bool, rules: &Rules) -> Recall<T> {
        let slots = rules.slots;
        let [selected, others] = self.select(frame, rules.prompted);
        // A prompted frame that is not among the selected counts as any other.
        let other = |t: usize| {
            let unselected = || others.iter().find(|(at, _)| *at == t).map(|(_, entry)| entry.clone());
            self.tracked.get(&t).cloned().or_else(unselected)
        };
        let mut memories: Vec<(T, usize)> = selected.iter().map(|(_, entry)| (entry.clone(), slots - 1)).collect();
        for back in (1..slots).rev() {
            let at = self.memory_frame(frame, back, reverse, rules.stride);
            memories.extend(at.and_then(other).map(|entry| (entry, back - 1)));
        }

        let most = rules.frames.map_or(rules.pointers, |n| n.min(rules.pointers));
        // A clip of one frame has no other frame to point to.
        let longest = (most.max(2) - 1) as f32;
        // Not from rounded numbers: a stream's frames may have large ones.
        let ahead = |a: usize, b: usize| a as i64 - b as i64;
        let signed = |t: usize| (if reverse { ahead(t, frame) } else { ahead(frame, t) }) as f32;
        let past = selected.iter().filter(|(t, _)| signed(*t) >= 0.0);
        let mut pointers: Vec<(T, f32)> = past.map(|(t, entry)| (entry.clone(), signed(*t) / longest)).collect();
        for back in 1..most {
            let at = if reverse { Some(frame + back) } else { frame.checked_sub(back) };
            let Some(at) = at.filter(|at| rules.frames.is_none_or(|n| *at < n)) else { break };
            pointers.extend(other(at).map(|entry| (entry, back as f32 / longest)));
        }
        Recall { memories, pointers }
    }

    /// Takes out what no frame from `frame` on, in either direction, attends to as long as nothing else is prompted: tracked
    /// frames that are far from it, and from every prompted one, to which tracking in the other direction may return.
    pub(super) fn forget(&mut self, frame: usize, rules: &Rules) -> Vec<T> {
        let reach = ((rules.slots - 1) * rules.stride).max(rules.pointers - 1);
        let far = |t: usize| {
            let prompted = |(p, _): &(usize, T)| t.abs_diff(*p) <= reach;
            t.abs_diff(frame) > reach.max(rules.kept) && !self.prompted.iter().any(prompted)
        };
        let gone: Vec<usize> = self.tracked.keys().copied().filter(|t| far(*t)).collect();
        gone.into_iter().filter_map(|t| self.tracked.remove(&t)).collect()
    }

    /// Of conditioning frames, then of the others.
    pub(super) fn entries(&self) -> impl Iterator<Item = &T> {
        self.prompted.iter().map(|(_, entry)| entry).chain(self.tracked.values())
    }

    /// The frame whose memory is `back` steps away.
    fn memory_frame(&self, frame: usize, back: usize, reverse: bool, stride: usize) -> Option<usize> {
        let beyond = back.saturating_sub(2) * stride;
        match (back, reverse) {
            (1, false) => frame.checked_sub(1),
            (1, true) => Some(frame + 1),
            (_, false) => (frame.checked_sub(2)? / stride * stride).checked_sub(beyond),
            (_, true) => Some((frame + 2).next_multiple_of(stride) + beyond),
        }
    }

    /// The prompted frames that are attended to as such, and the others: all, or the nearest before, the nearest from
    /// `frame` on, and then the nearest of the rest.
    fn select(&self, frame: usize, most: Option<usize>) -> [Frames<T>; 2] {
        let Some(most) = most.filter(|most| self.prompted.len() > *most) else {
            return [self.prompted.clone(), Vec::new()];
        };
        let before = self.prompted.iter().map(|(t, _)| *t).filter(|t| *t < frame).max();
        let after = self.prompted.iter().map(|(t, _)| *t).filter(|t| *t >= frame).min();
        let mut order: Vec<usize> = before.into_iter().chain(after).collect();
        let mut rest: Vec<usize> = self.prompted.iter().map(|(t, _)| *t).filter(|t| !order.contains(t)).collect();
        rest.sort_by_key(|t| t.abs_diff(frame));
        order.extend(rest);
        order.truncate(most.max(2));
        let entry = |t: &usize| self.prompted.iter().find(|(at, _)| at == t).cloned();
        let selected = order.iter().filter_map(entry).collect();
        let others = self.prompted.iter().filter(|(t, _)| !order.contains(t)).cloned().collect();
        [selected, others]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(prompted: &[usize], tracked: impl IntoIterator<Item = usize>) -> History<usize> {
        History {
            prompted: prompted.iter().map(|t| (*t, *t)).collect(),
            tracked: tracked.into_iter().map(|t| (t, t)).collect(),
        }
    }

    const RULES: Rules = Rules { slots: 7, pointers: 16, prompted: None, stride: 1, frames: None, kept: 0 };

    #[test]
    fn recent_frames_and_prompted_ones() {
        let found = history(&[0], 1..20).recall(20, false, &RULES);
        assert_eq!(found.memories, [(0, 6), (14, 5), (15, 4), (16, 3), (17, 2), (18, 1), (19, 0)]);
        // The prompted frame's pointer lies beyond the longest distance; then the last fifteen.
        assert_eq!(found.pointers.len(), 16);
        assert_eq!((found.pointers[0], found.pointers[1]), ((0, 20.0 / 15.0), (19, 1.0 / 15.0)));
        assert_eq!(found.pointers[15], (5, 1.0));
        // At the beginning fewer; what was never tracked is skipped.
        let found = history(&[0], [1, 3]).recall(4, false, &RULES);
        assert_eq!(found.memories, [(0, 6), (1, 2), (3, 0)]);
        assert_eq!(found.pointers, [(0, 4.0 / 15.0), (3, 1.0 / 15.0), (1, 3.0 / 15.0)]);
    }

    #[test]
    fn reverse_looks_ahead() {
        let found = history(&[9], 10..30).recall(8, true, &RULES);
        assert_eq!(found.memories, [(9, 6), (14, 5), (13, 4), (12, 3), (11, 2), (10, 1)]);
        assert_eq!(found.pointers[..2], [(9, 1.0 / 15.0), (10, 2.0 / 15.0)]);
        // A frame prompted behind is attended to, but does not point.
        let found = history(&[2, 9], []).recall(8, true, &RULES);
        assert_eq!(found.memories, [(2, 6), (9, 6)]);
        assert_eq!(found.pointers, [(9, 1.0 / 15.0)]);
    }

    #[test]
    fn short_clips_and_strides() {
        let found = history(&[0], 1..4).recall(4, false, &Rules { frames: Some(5), ..RULES });
        assert_eq!(found.pointers, [(0, 1.0), (3, 0.25), (2, 0.5), (1, 0.75)]);
        let found = history(&[0], []).recall(0, true, &Rules { frames: Some(1), ..RULES });
        assert_eq!(found.pointers, [(0, 0.0)]);
        let found = history(&[0], 1..20).recall(20, false, &Rules { stride: 4, ..RULES });
        assert_eq!(found.memories, [(0, 6), (4, 4), (8, 3), (12, 2), (16, 1), (19, 0)]);
    }

    #[test]
    fn the_closest_of_many_prompted_frames() {
        let found = history(&[40, 0, 12, 18, 30], []).recall(20, false, &Rules { prompted: Some(3), ..RULES });
        // Nearest before, nearest after, nearest of the rest; 12 is not within the last six.
        let prompted: Vec<usize> = found.memories.iter().map(|(t, _)| *t).collect();
        assert_eq!(prompted, [18, 30, 12]);
        let found = history(&[0, 15, 17, 18], []).recall(20, false, &Rules { prompted: Some(2), ..RULES });
        // 15 is unselected, and recalled as if it had been tracked.
        assert_eq!(found.memories, [(18, 6), (17, 6), (15, 4)]);
    }

    #[test]
    fn what_is_far_is_forgotten() {
        let mut h = history(&[100], (101..200).chain(0..100));
        let gone = h.forget(180, &RULES);
        let left: Vec<usize> = h.tracked.keys().copied().collect();
        let expected: Vec<usize> = (85..=115).filter(|t| *t != 100).chain(165..=195).collect();
        assert_eq!(left, expected);
        assert_eq!(gone.len() + left.len(), 199);
        // What is left serves the next frame as all did.
        let all = history(&[100], (101..180).chain(0..100));
        assert_eq!(h.recall(180, false, &RULES), all.recall(180, false, &RULES));
        assert_eq!(h.recall(99, true, &RULES).memories, all.recall(99, true, &RULES).memories);
        // More on request.
        let mut h = history(&[100], 101..200);
        h.forget(199, &Rules { kept: 40, ..RULES });
        assert_eq!(h.tracked.keys().filter(|t| **t > 115).count(), 41);
    }
}
