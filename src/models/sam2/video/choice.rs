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

    fn answer(score: f32, ious: [f32; 4], first: f32) -> Choice {
        let masks: Vec<f32> = (0..16).map(|i| if i < 4 { first } else { (i / 4 * 10) as f32 }).collect();
        let mut scores = vec![0.0; 6 * 4];
        scores[0] = score;
        scores[4..8].copy_from_slice(&ious);
        let pointers: Vec<f32> = (0..8).map(|i| (i / 2) as f32).collect();
        let how = (&TINY.decoder, Behaviour::Builder);
        choose([&masks, &scores, &pointers], first.is_nan(), how, &[9.0, 9.0]).unwrap_or_else(|_| {
            let masks: Vec<f32> = masks.iter().map(|v| if v.is_nan() { 5.0 } else { *v }).collect();
            choose([&masks, &scores, &pointers], true, how, &[9.0, 9.0]).unwrap()
        })
    }

    #[test]
    fn pointers_follow_the_mask_where_there_were_several() {
        // Several: the second is best.
        let several = answer(1.0, [9.0, 0.0, 2.0, 1.0], f32::NAN);
        assert_eq!((several.low[0], several.pointer[0]), (20.0, 2.0));
        // One, stable: itself. Unstable: the best of three, with the pointer of the single one.
        let stable = answer(1.0, [0.0, 0.0, 2.0, 1.0], 5.0);
        assert_eq!((stable.low[0], stable.pointer[0]), (5.0, 0.0));
        let unstable = answer(1.0, [0.0, 0.0, 2.0, 1.0], 0.01);
        assert_eq!((unstable.low[0], unstable.pointer[0]), (20.0, 0.0));
        // Absent.
        let absent = answer(0.0, [0.0, 0.0, 2.0, 1.0], 5.0);
        assert_eq!((absent.low[0], absent.pointer[0], absent.score), (ABSENT, 9.0, 0.0));
    }
}
