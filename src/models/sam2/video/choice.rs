//! What is taken of a decoder's four masks. After `SAM2Base._forward_sam_heads`.

use crate::{
    error::{Result, ensure},
    models::sam2::{
        config::Decoder,
        mask_decoder::{MASKS, OUTPUT_TOKENS},
        predictor::{Behaviour, best_of_three, sigmoid, stability},
    },
};

/// The logit of every pixel of an object that is not there (`NO_OBJ_SCORE`).
pub(super) const ABSENT: f32 = -1024.0;

/// One object on one frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    /// Logits at a quarter of the model's side, before holes are filled.
    pub(super) low: Vec<f32>,
    /// The IoU that the model expects of this mask.
    pub(super) iou: f32,
    /// The logit of "the object is in the picture".
    pub(super) score: f32,
    /// The object pointer `(d)`.
    pub(super) pointer: Vec<f32>,
}

/// Whether a frame with so many points (corners of a box are two) is asked for three masks.
pub(super) fn multimask(points: usize, tracking: bool, memory: &crate::models::sam2::config::Memory) -> bool {
    let (least, most) = memory.multimask_points;
    (!tracking || memory.multimask_for_tracking) && (least..=most).contains(&points)
}

/// Of `masks (4, low, low)`, `scores (6, width)` and `pointers (4, d)` of one object: the best of three masks, or the single
/// one, in whose place the best of three comes where it is unstable.
///
/// # Errors
/// `Numeric` if one of them is not finite.
pub(super) fn choose(
    [masks, scores, pointers]: [&[f32]; 3],
    multimask: bool,
    (decoder, behaviour): (&Decoder, Behaviour),
    no_pointer: &[f32],
) -> Result<Choice> {
    let finite = [masks, scores, pointers].iter().all(|values| values.iter().all(|v| v.is_finite()));
    ensure!(finite, Numeric, "the model gave NaN or infinity; try f32 weights, or checked shaders (IMPASTO_CHECKED=1)");
    let (plane, width, d) = (masks.len() / MASKS, scores.len() / OUTPUT_TOKENS, no_pointer.len());
    let iou = |i: usize| sigmoid(scores[width + i]);
    let mask = |i: usize| &masks[i * plane..][..plane];
    let unstable =
        || behaviour == Behaviour::Builder && stability(mask(0), decoder.stability_delta) < decoder.stability_threshold;
    // The single mask keeps its pointer, even where another takes its place.
    let (chosen, token) = match multimask {
        true => (best_of_three(iou), best_of_three(iou)),
        false if unstable() => (best_of_three(iou), 0),
        false => (0, 0),
    };
    let (iou, score) = (iou(chosen), scores[0]);
    Ok(match score > 0.0 {
        true => Choice { low: mask(chosen).to_vec(), iou, score, pointer: pointers[token * d..][..d].to_vec() },
        false => Choice { low: vec![ABSENT; plane], iou, score, pointer: no_pointer.to_vec() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::sam2::config::TINY;

    /// Of masks of 10, 20 and 30 everywhere, the second the best, and a first one of `single`; pointers are 0, 1, 2 and 3.
    fn answer(score: f32, single: f32, multimask: bool) -> (f32, f32) {
        let masks: Vec<f32> = (0..16).map(|i| if i < 4 { single } else { (i / 4 * 10) as f32 }).collect();
        let mut scores = vec![0.0; 6 * 4];
        (scores[0], scores[6]) = (score, 2.0);
        let pointers: Vec<f32> = (0..8).map(|i| (i / 2) as f32).collect();
        let how = (&TINY.decoder, Behaviour::Builder);
        let found = choose([&masks, &scores, &pointers], multimask, how, &[9.0, 9.0]).unwrap();
        (found.low[0], found.pointer[0])
    }

    #[test]
    fn pointers_follow_the_mask_where_there_were_several() {
        assert_eq!(answer(1.0, 5.0, true), (20.0, 2.0));
        // One, stable: itself. Unstable: the best of three, with the pointer of the single one.
        assert_eq!(answer(1.0, 5.0, false), (5.0, 0.0));
        assert_eq!(answer(1.0, 0.01, false), (20.0, 0.0));
        assert_eq!(answer(0.0, 5.0, false), (ABSENT, 9.0));
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let how = (&TINY.decoder, Behaviour::Builder);
        let mut masks = vec![1.0; 16];
        masks[7] = f32::NAN;
        let e = choose([&masks, &[0.0; 24], &[0.0; 8]], true, how, &[9.0, 9.0]).unwrap_err();
        assert_eq!(e.kind(), crate::ErrorKind::Numeric);
    }
}
