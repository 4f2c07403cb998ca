//! Masks judged on the device: counts instead of pixels come back.

use super::{
    decoders::{DecodeKey, Judge},
    mask_decoder::{MASKS, OUTPUT_TOKENS},
    predictor::{Behaviour, Predictor, best_of_three, sigmoid, token_count},
    prompt::Prompt,
};
use crate::{
    error::{Context, Result, bail, ensure},
    graph::{Control, Value},
};

/// A mask that was decoded and judged, not read back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    /// Which prompt it answers.
    pub(super) prompt: usize,
    pub(super) iou: f32,
    pub(super) object_score: f32,
    /// NaN for an empty mask.
    pub(super) stability: f32,
    /// `[x0, y0, x1, y1]`, inclusive; zeros for an empty mask, as the reference.
    pub(super) bounds: [f32; 4],
    /// Where its logits lie on the device.
    row: usize,
    key: DecodeKey,
}

impl Predictor {
    /// Decodes prompts of one shape, `batch` at most (padded to that many, so that one bound decoder serves all).
    pub(super) async fn judge(
        &mut self,
        prompts: &[Prompt],
        batch: usize,
        multimask: bool,
        threshold: f32,
        offset: f32,
        control: Control<'_>,
    ) -> Result<Vec<Judged>> {
        let Some((width, height)) = self.picture else { bail!(Argument, "encode a picture before prompting it") };
        let Some(first) = prompts.first() else { return Ok(Vec::new()) };
        ensure!(prompts.len() <= batch, Internal, "{} prompts in a batch of {batch}", prompts.len());
        let padded: Vec<&Prompt> = prompts.iter().chain(std::iter::repeat(first)).take(batch).collect();
        let tokens = self.tokens(&padded, width, height);
        let mut masks = Vec::new();
        for prompt in &padded {
            masks.extend(self.mask_logits(prompt)?.unwrap_or_default());
        }
        let judge = Judge { size: [height, width], threshold: [threshold.to_bits(), offset.to_bits()] };
        let key = DecodeKey { batch, points: token_count(first), mask: first.mask.is_some(), judge: Some(judge) };
        let decoder = self.decoder(key)?;
        let Some([stats, low_stats]) = decoder.stats else { bail!(Internal, "a decoder that does not judge") };
        let mut inputs: Vec<(Value, &[u8])> = vec![(decoder.tokens, bytemuck::cast_slice(&tokens))];
        inputs.extend(decoder.mask.map(|v| (v, bytemuck::cast_slice(&masks))));
        let outputs = [decoder.scores, stats, low_stats];
        let out = decoder.bound.run(&inputs, &outputs, control).await.context(|| "decoding prompts")?;
        let scores: Vec<f32> = bytemuck::pod_collect_to_vec(&out[0]);
        let counts = |bytes: &[u8]| bytemuck::pod_collect_to_vec::<u8, [u32; 8]>(bytes);
        let (stats, low_stats) = (counts(&out[1]), counts(&out[2]));
        ensure!(scores.iter().all(|v| v.is_finite()), Numeric, "the model gave NaN or infinity");

        let c = &self.model.config.decoder;
        let per_prompt = scores.len() / batch;
        let width_of_row = per_prompt / OUTPUT_TOKENS;
        let mut judged = Vec::new();
        for prompt in 0..prompts.len() {
            let scores = &scores[prompt * per_prompt..][..per_prompt];
            let iou = |i: usize| sigmoid(scores[width_of_row + i]);
            let [inner, outer, ..] = low_stats[prompt * MASKS];
            let unstable = outer > 0 && (inner as f32 / outer as f32) < c.stability_threshold;
            let chosen = match multimask {
                true => 1..MASKS,
                false if self.options.behaviour == Behaviour::Builder && unstable => {
                    let best = best_of_three(iou);
                    best..best + 1
                }
                false => 0..1,
            };
            for i in chosen {
                let row = prompt * MASKS + i;
                let [inner, outer, area, x0, y0, x1, y1, _] = stats[row];
                let bounds = if area == 0 { [0.0; 4] } else { [x0, y0, x1, y1].map(|v| v as f32) };
                let stability = inner as f32 / outer as f32;
                judged.push(Judged { prompt, iou: iou(i), object_score: scores[0], stability, bounds, row, key });
            }
        }
        Ok(judged)
    }

    /// The low-resolution logits of masks that the last call of [`judge`](Self::judge) judged.
    pub(super) async fn judged_logits(&mut self, judged: &[Judged]) -> Result<Vec<Vec<f32>>> {
        let Some(first) = judged.first() else { return Ok(Vec::new()) };
        let rows: Vec<usize> = judged.iter().map(|j| j.row).collect();
        let decoder = self.decoder(first.key)?;
        let logits = decoder.bound.read_rows(decoder.masks, &rows).await?;
        let logits: Vec<Vec<f32>> = logits.iter().map(|b| bytemuck::pod_collect_to_vec(b)).collect();
        ensure!(logits.iter().flatten().all(|l| l.is_finite()), Numeric, "the model gave NaN or infinity");
        Ok(logits)
    }
}
