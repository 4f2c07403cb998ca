//! What a prompt gives.

use super::predictor::Ask;
use crate::{
    error::Result,
    image::{Mask, components::fill_holes_and_sprinkles, resize},
};

/// The answer to one prompt.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The logit of "the object is in the picture". Pictures are not blanked by it.
    pub object_score: f32,
    /// One mask, or three for an ambiguous prompt, in the model's order.
    pub candidates: Vec<Candidate>,
}

impl Prediction {
    /// The candidate of the highest predicted IoU, the first of equals.
    pub fn best(&self) -> &Candidate {
        self.candidates.iter().fold(&self.candidates[0], |best, c| if c.iou > best.iou { c } else { best })
    }
}

/// One mask.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The IoU that the model expects of this mask.
    pub iou: f32,
    /// Logits at a quarter of the model's side, row by row, before holes are filled.
    pub low_res: Vec<f32>,
    side: usize,
    /// `low_res` with holes and sprinkles treated, if that was asked for and changed anything.
    filled: Option<Vec<f32>>,
    threshold: f32,
    size: (usize, usize),
}

/// A mask's numbers at the picture's size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// `|logit > threshold + offset| / |logit > threshold - offset|`: `calculate_stability_score`; NaN when empty.
    pub stability: f32,
    /// Mean of `|logit|` at low resolution: how sure the model is on the whole.
    pub mean_abs_logit: f32,
}

impl Candidate {
    pub(super) fn new(
        low_res: Vec<f32>,
        side: usize,
        iou: f32,
        ask: &Ask,
        width: usize,
        height: usize,
    ) -> Result<Self> {
        let filled = if ask.max_hole_area > 0 || ask.max_sprinkle_area > 0 {
            let mut logits = low_res.clone();
            let areas = (ask.max_hole_area, ask.max_sprinkle_area);
            fill_holes_and_sprinkles(&mut logits, side, side, ask.threshold, areas.0, areas.1)?;
            Some(logits)
        } else {
            None
        };
        Ok(Self { iou, low_res, side, filled, threshold: ask.threshold, size: (width, height) })
    }

    /// Side of [`low_res`](Self::low_res).
    pub fn low_res_side(&self) -> usize {
        self.side
    }

    /// The logits that refine this mask when given back as a prompt: clamped to +-32 as the reference does.
    pub fn refinement(&self) -> Vec<f32> {
        self.low_res.iter().map(|l| l.clamp(-32.0, 32.0)).collect()
    }

    /// Logits at the picture's size, bilinear from the low-resolution ones in one step.
    ///
    /// # Errors
    /// `Shape`.
    pub fn logits(&self) -> Result<Vec<f32>> {
        let (width, height) = self.size;
        resize::bilinear(self.treated(), (self.side, self.side), height, width)
    }

    /// The mask at the picture's size.
    ///
    /// # Errors
    /// `Shape`.
    pub fn mask(&self) -> Result<Mask> {
        let (width, height) = self.size;
        resize::bilinear_mask(self.treated(), (self.side, self.side), height, width, self.threshold)
    }

    /// Stability at `offset` and mean absolute logit.
    ///
    /// # Errors
    /// `Shape`.
    pub fn statistics(&self, offset: f32) -> Result<Statistics> {
        let logits = self.logits()?;
        let above = |t: f32| logits.iter().filter(|l| **l > t).count() as f32;
        let stability = above(self.threshold + offset) / above(self.threshold - offset);
        let mean_abs_logit = self.low_res.iter().map(|l| f64::from(l.abs())).sum::<f64>() / self.low_res.len() as f64;
        Ok(Statistics { stability, mean_abs_logit: mean_abs_logit as f32 })
    }

    fn treated(&self) -> &[f32] {
        self.filled.as_deref().unwrap_or(&self.low_res)
    }
}
