//! What a session tells.

use super::choice::Choice;
use crate::{
    error::Result,
    image::{Mask, resize},
};
use std::sync::Arc;

/// An object on a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracked {
    /// Its number.
    pub object: u32,
    /// The logit of "the object is in the picture".
    pub score: f32,
    /// The IoU that the model expects of the mask.
    pub iou: f32,
    /// Logits at a quarter of the model's side, row by row, holes filled; -1024 everywhere where the object is absent.
    pub low_res: Vec<f32>,
    side: usize,
    size: (usize, usize),
    /// Which object of a frame has a pixel, and which this one is.
    winners: Option<(Arc<[u32]>, u32)>,
}

/// What a logit is at most where another object has a higher one.
const LOST: f32 = -10.0;

impl Tracked {
    pub(super) fn new(object: u32, choice: Choice, side: usize, size: (usize, usize)) -> Self {
        let Choice { low, iou, score, .. } = choice;
        Self { object, score, iou, low_res: low, side, size, winners: None }
    }

    /// Of the objects of a frame, at its size, only the one with the highest logit keeps a pixel. After
    /// `_apply_non_overlapping_constraints` (`sam2/modeling/sam2_base.py`).
    pub(super) fn without_overlap(found: &mut [Self]) -> Result<()> {
        let [first, others @ ..] = &found[..] else { return Ok(()) };
        if others.is_empty() {
            return Ok(());
        }
        let mut best = first.logits()?;
        let mut winners = vec![0; best.len()];
        for (i, other) in (1..).zip(others) {
            for ((best, winner), logit) in best.iter_mut().zip(&mut winners).zip(other.logits()?) {
                if logit > *best {
                    (*best, *winner) = (logit, i);
                }
            }
        }
        let winners: Arc<[u32]> = winners.into();
        for (i, one) in (0..).zip(found) {
            one.winners = Some((winners.clone(), i));
        }
        Ok(())
    }

    /// Logits at the frame's size, bilinear from the low-resolution ones in one step; with
    /// [`non_overlap`](super::Options::non_overlap) at most -10 where another object has a higher one.
    ///
    /// # Errors
    /// `Shape`.
    pub fn logits(&self) -> Result<Vec<f32>> {
        let (width, height) = self.size;
        let mut logits = resize::bilinear(&self.low_res, (self.side, self.side), height, width)?;
        if let Some((winners, own)) = &self.winners {
            let lost = logits.iter_mut().zip(winners.iter()).filter(|(_, winner)| *winner != own);
            lost.for_each(|(logit, _)| *logit = logit.min(LOST));
        }
        Ok(logits)
    }

    /// The mask at the frame's size: where [`logits`](Self::logits) are above 0.
    ///
    /// # Errors
    /// `Shape`.
    pub fn mask(&self) -> Result<Mask> {
        let (width, height) = self.size;
        if self.winners.is_some() {
            return Mask::from_logits(&self.logits()?, width, height, 0.0);
        }
        resize::bilinear_mask(&self.low_res, (self.side, self.side), height, width, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three objects of 2x2 logits on a frame of 3x3, as `torch.nn.functional.interpolate` and the official function have it;
    /// the second and the third are equal in places.
    #[test]
    fn a_pixel_has_one_object_at_most() {
        let low = [[4.0, -2.0, 1.0, 3.0], [-12.0, 5.0, 1.0, -1.0], [2.0, 5.0, -30.0, -1.0]];
        let one = |(i, low): (u32, [f32; 4])| {
            let choice = Choice { low: low.to_vec(), iou: 0.5, score: 1.0, pointer: Vec::new() };
            Tracked::new(i, choice, 2, (3, 3))
        };
        let mut found: Vec<Tracked> = (0..).zip(low).map(one).collect();
        Tracked::without_overlap(&mut found[..1]).unwrap();
        assert_eq!(found[0].winners, None, "one object does not overlap");
        Tracked::without_overlap(&mut found).unwrap();
        let expected: [[f32; 9]; 3] = [
            [4.0, -10.0, -10.0, 2.5, 1.5, -10.0, 1.0, 2.0, 3.0],
            [-12.0, -10.0, 5.0, -10.0, -10.0, 2.0, -10.0, -10.0, -10.0],
            [-10.0, 3.5, -10.0, -14.0, -10.0, -10.0, -30.0, -15.5, -10.0],
        ];
        for (one, expected) in found.iter().zip(expected) {
            let far = one.logits().unwrap().iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "object {}: {far}", one.object);
            let mask = one.mask().unwrap();
            let bits: Vec<bool> = (0..9).map(|i| mask.get(i % 3, i / 3)).collect();
            assert_eq!(bits, expected.map(|l| l > 0.0));
        }
    }
}
