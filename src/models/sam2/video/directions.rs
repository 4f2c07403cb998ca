//! In which direction frames were tracked.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Frames that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    first: usize,
    /// Included.
    last: usize,
    reverse: bool,
}

/// Frames that were tracked, each forward or in reverse: as runs, in order, so that a stream of any length takes one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Directions(Vec<Run>);

impl Directions {
    /// Whether `frame` was tracked in reverse, if it was tracked.
    pub(super) fn get(&self, frame: usize) -> Option<bool> {
        self.find(frame).ok().map(|i| self.0[i].reverse)
    }

    /// `frame` is tracked, whatever it was before.
    pub(super) fn insert(&mut self, frame: usize, reverse: bool) {
        self.remove(frame);
        let (Ok(at) | Err(at)) = self.find(frame);
        let mut run = Run { first: frame, last: frame, reverse };
        let (mut from, mut to) = (at, at);
        if let Some(before) = self.0[..at].last().filter(|r| r.reverse == reverse && r.last + 1 == frame) {
            (run.first, from) = (before.first, at - 1);
        }
        if let Some(after) = self.0.get(at).filter(|r| r.reverse == reverse && r.first == frame + 1) {
            (run.last, to) = (after.last, at + 1);
        }
        self.0.splice(from..to, [run]);
    }

    /// `frame` counts as never tracked.
    pub(super) fn remove(&mut self, frame: usize) {
        let Ok(i) = self.find(frame) else { return };
        let run = self.0[i];
        let before = (run.first < frame).then(|| Run { last: frame - 1, ..run });
        let after = (frame < run.last).then(|| Run { first: frame + 1, ..run });
        self.0.splice(i..=i, before.into_iter().chain(after));
    }

    /// Whether runs that came from a file are in order and end at `last` at the latest.
    pub(super) fn is_valid(&self, last: usize) -> bool {
        self.0.iter().all(|r| r.first <= r.last && r.last <= last)
            && self.0.windows(2).all(|pair| pair[0].last < pair[1].first)
    }

    /// The run of `frame`, or where it would be.
    fn find(&self, frame: usize) -> Result<usize, usize> {
        self.0.binary_search_by(|run| match run {
            run if run.last < frame => Ordering::Less,
            run if run.first > frame => Ordering::Greater,
            _ => Ordering::Equal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every sequence of operations ends as it does with a map that has an entry a frame.
    #[test]
    fn as_a_map_with_an_entry_a_frame() {
        let (mut runs, mut map) = (Directions::default(), BTreeMap::new());
        let mut seed = 1u64;
        for _ in 0..4000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (frame, what) = ((seed >> 33) as usize % 24, (seed >> 60) % 3);
            match what {
                0 => {
                    runs.remove(frame);
                    map.remove(&frame);
                }
                _ => {
                    runs.insert(frame, what == 1);
                    map.insert(frame, what == 1);
                }
            }
            let all = (0..24).all(|t| runs.get(t) == map.get(&t).copied());
            assert!(all && runs.is_valid(23), "{runs:?} for {map:?}");
            let merged = runs.0.windows(2).all(|p| p[0].last + 1 < p[1].first || p[0].reverse != p[1].reverse);
            assert!(merged, "{runs:?}");
        }
    }

    #[test]
    fn a_stream_takes_one_run() {
        let mut runs = Directions::default();
        (0..100_000).for_each(|t| runs.insert(t, false));
        assert_eq!(runs.0.len(), 1);
        assert_eq!((runs.get(99_999), runs.get(100_000)), (Some(false), None));
    }

    #[test]
    fn runs_out_of_order_are_told() {
        let run = |first, last| Run { first, last, reverse: false };
        assert!(Directions(vec![run(0, 4), run(5, 5), run(9, 10)]).is_valid(10));
        for bad in [vec![run(4, 3)], vec![run(0, 11)], vec![run(0, 4), run(4, 5)], vec![run(6, 7), run(1, 2)]] {
            assert!(!Directions(bad.clone()).is_valid(10), "{bad:?}");
        }
    }
}
