//! Encode a picture once, prompt it many times. After `SAM2ImagePredictor` (`sam2/sam2_image_predictor.py`).

use super::{
    config::Config,
    decoders::{DecodeKey, Decoder, Decoders},
    mask_decoder::{MASKS, OUTPUT_TOKENS},
    model::{EmbeddingTensors, MEAN, Model, STD},
    prompt::{MaskPrompt, Prompt},
    prompt_encoder::Label,
    result::{Candidate, Prediction},
};
use crate::{
    error::{Context, Result, bail, ensure},
    gpu::Gpu,
    graph::{BindOptions, Bound, Control, DispatchTime, Graph, SlotPool, Value},
    image::{Picture, resize},
    nn::Storage,
    weights::Weights,
};

/// Which of the two official behaviours: SAM 2 has different ones by the function that builds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// As `build_sam2`: a single mask falls back to the best of three where it is unstable.
    #[default]
    Builder,
    /// As the bare configuration, with which the benchmark tables were made: no fallback.
    Raw,
}

/// How to build a predictor.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Pixels along the side of the square that the encoder sees; the model's own when `None`. A multiple of 32.
    pub image_size: Option<usize>,
    /// How matrices are kept on the device.
    pub storage: Storage,
    /// Builder or raw.
    pub behaviour: Behaviour,
    /// Refuse plans that need more bytes on the device than this, weights included.
    pub max_bytes: Option<u64>,
}

/// What to decode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask {
    /// Three masks for an ambiguous prompt (the reference's default), or one.
    pub multimask: bool,
    /// Logits above this are the object.
    pub threshold: f32,
    /// Fill background regions of at most this many low-resolution pixels; 0 fills none.
    pub max_hole_area: u64,
    /// Drop foreground regions of at most this many low-resolution pixels; 0 drops none.
    pub max_sprinkle_area: u64,
}

impl Default for Ask {
    fn default() -> Self {
        Self { multimask: true, threshold: 0.0, max_hole_area: 0, max_sprinkle_area: 0 }
    }
}

/// SAM 2 on a device, with room for one encoded picture.
#[derive(Debug)]
pub struct Predictor {
    pub(super) gpu: Gpu,
    pub(super) model: Model,
    pub(super) options: Options,
    pool: SlotPool,
    pub(super) embedding: EmbeddingTensors,
    encoder: Option<(Bound, Value)>,
    decoders: Decoders,
    pub(super) picture: Option<(usize, usize)>,
}

impl Predictor {
    /// A predictor from weights and their configuration.
    ///
    /// # Errors
    /// `Weights` if they do not fit the configuration, `Argument` for an image size that the stride forbids, and
    /// what the device reports.
    pub async fn new(gpu: &Gpu, config: Config, weights: &Weights, options: Options) -> Result<Self> {
        let side = options.image_size.unwrap_or(config.image_size);
        let model = Model::load(gpu, weights, config, side, options.storage)
            .await
            .context(|| format!("loading {}", weights.origin()))?;
        let embedding = model.embedding(gpu)?;
        Ok(Self {
            gpu: gpu.clone(),
            model,
            options,
            pool: SlotPool::default(),
            embedding,
            encoder: None,
            decoders: Decoders::default(),
            picture: None,
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.model.config
    }

    /// Pixels along the side of the square that the encoder sees.
    pub fn image_size(&self) -> usize {
        self.model.side
    }

    /// Width and height of the encoded picture.
    pub fn picture(&self) -> Option<(usize, usize)> {
        self.picture
    }

    /// Squashed to the model's square and normalised: the encoder's input. Runs on any thread, ahead of the encoder.
    ///
    /// # Errors
    /// `Input` for a picture that cannot be resized.
    pub fn preprocess(picture: &Picture, side: usize) -> Result<Vec<f32>> {
        resize::preprocess(picture, side, MEAN, STD)
    }

    /// Encodes a picture; what was encoded before is replaced.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub async fn set_image(&mut self, picture: &Picture, control: Control<'_>) -> Result<()> {
        let pixels = Self::preprocess(picture, self.model.side)?;
        self.encode(&pixels, picture.width(), picture.height(), control).await
    }

    /// Encodes a [preprocessed](Self::preprocess) picture that was `width` x `height`.
    ///
    /// # Errors
    /// `Shape` for the wrong number of values, `OutOfMemory`, `Cancelled`, and what the device reports.
    pub async fn encode(&mut self, pixels: &[f32], width: usize, height: usize, control: Control<'_>) -> Result<()> {
        self.picture = None;
        let (bound, image) = self.encoder()?;
        let input = (*image, bytemuck::cast_slice(pixels));
        bound.run(&[input], &[], control).await.context(|| "encoding the picture")?;
        self.picture = Some((width, height));
        Ok(())
    }

    /// Binds the encoder, if it is not yet: memory is allocated and shaders are compiled here.
    ///
    /// # Errors
    /// `OutOfMemory`, and what the device reports.
    pub fn encoder(&mut self) -> Result<&mut (Bound, Value)> {
        if self.encoder.is_none() {
            let g = Graph::new(self.gpu.target());
            let (g, image) = self.model.record_encode(g, &self.embedding)?;
            let bound = g.plan()?.bind(&self.gpu, &self.bind_options())?;
            let (dispatches, submits) = (bound.graph().dispatches().len(), bound.submits());
            let (slot_bytes, live_bytes) = (bound.plan().bytes(), bound.plan().live_bytes());
            tracing::info!(dispatches, submits, slot_bytes, live_bytes, "encoder bound");
            self.encoder = Some((bound, image));
        }
        match &mut self.encoder {
            Some(encoder) => Ok(encoder),
            None => bail!(Internal, "no encoder"),
        }
    }

    fn bind_options(&self) -> BindOptions {
        BindOptions { pool: Some(self.pool.clone()), budget: self.options.max_bytes, ..BindOptions::default() }
    }

    /// Segments objects of the encoded picture, in the order of `prompts`.
    ///
    /// Prompts of one shape (points, box, mask or not) are decoded in one batch.
    ///
    /// # Errors
    /// `Argument` for a prompt that cannot be meant or before a picture was encoded, `Numeric` if the model gives
    /// NaN, `Cancelled`, and what the device reports.
    pub async fn predict(&mut self, prompts: &[Prompt], ask: &Ask, control: Control<'_>) -> Result<Vec<Prediction>> {
        let Some((width, height)) = self.picture else { bail!(Argument, "encode a picture before prompting it") };
        let low = self.model.side / 4;
        let mut groups: Vec<(DecodeKey, Vec<usize>)> = Vec::new();
        let most = self.max_batch();
        for (i, prompt) in prompts.iter().enumerate() {
            prompt.check(width, height, low).context(|| format!("prompt {i}"))?;
            let key = DecodeKey { batch: 0, points: token_count(prompt), mask: prompt.mask.is_some(), judge: None };
            match groups.iter_mut().find(|(k, members)| *k == key && members.len() < most) {
                Some((_, members)) => members.push(i),
                None => groups.push((key, vec![i])),
            }
        }
        let mut results: Vec<Option<Prediction>> = prompts.iter().map(|_| None).collect();
        for (key, members) in groups {
            control.check()?;
            let batch: Vec<&Prompt> = members.iter().map(|&i| &prompts[i]).collect();
            let tokens = self.tokens(&batch, width, height);
            let mut masks = Vec::new();
            for prompt in &batch {
                masks.extend(self.mask_logits(prompt)?.unwrap_or_default());
            }
            let decoder = self.decoder(DecodeKey { batch: members.len(), ..key })?;
            let mut inputs: Vec<(Value, &[u8])> = vec![(decoder.tokens, bytemuck::cast_slice(&tokens))];
            inputs.extend(decoder.mask.map(|v| (v, bytemuck::cast_slice(&masks))));
            let outputs = [decoder.masks, decoder.scores];
            let out = decoder.bound.run_f32(&inputs, &outputs, control).await.context(|| "decoding prompts")?;
            let (logits, scores) = (&out[0], &out[1]);
            ensure!(
                logits.iter().chain(scores).all(|v| v.is_finite()),
                Numeric,
                "the model gave NaN or infinity; try f32 weights, or checked shaders (IMPASTO_CHECKED=1)"
            );
            let (per_mask, per_score) = (MASKS * low * low, scores.len() / members.len());
            for (n, &i) in members.iter().enumerate() {
                let logits = &logits[n * per_mask..][..per_mask];
                let scores = &scores[n * per_score..][..per_score];
                results[i] = Some(self.select(logits, scores, ask, width, height)?);
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// One prompt.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub async fn predict_one(&mut self, prompt: &Prompt, ask: &Ask, control: Control<'_>) -> Result<Prediction> {
        let mut all = self.predict(std::slice::from_ref(prompt), ask, control).await?;
        match all.pop() {
            Some(prediction) => Ok(prediction),
            None => bail!(Internal, "a prompt without a prediction"),
        }
    }

    /// Of the decoder's four masks those that were asked for. `MaskDecoder.forward` and
    /// `_dynamic_multimask_via_stability`.
    fn select(&self, logits: &[f32], scores: &[f32], ask: &Ask, width: usize, height: usize) -> Result<Prediction> {
        let c = &self.model.config;
        let low = self.model.side / 4;
        let width_of_row = scores.len() / OUTPUT_TOKENS;
        let iou = |i: usize| sigmoid(scores[width_of_row + i]);
        let plane = |i: usize| &logits[i * low * low..][..low * low];
        let chosen: Vec<usize> = if ask.multimask {
            (1..MASKS).collect()
        } else if self.options.behaviour == Behaviour::Builder
            && stability(plane(0), c.decoder.stability_delta) < c.decoder.stability_threshold
        {
            vec![best_of_three(iou)]
        } else {
            vec![0]
        };
        let candidate = |i: usize| Candidate::new(plane(i).to_vec(), low, iou(i), ask, width, height);
        Ok(Prediction {
            object_score: scores[0],
            candidates: chosen.into_iter().map(candidate).collect::<Result<_>>()?,
        })
    }

    /// Output tokens and embedded points of each prompt: `(batch, 6 + n, d)`.
    pub(super) fn tokens(&self, prompts: &[&Prompt], width: usize, height: usize) -> Vec<f32> {
        let side = self.model.side;
        let (sx, sy) = (side as f32 / width as f32, side as f32 / height as f32);
        let mut tokens = Vec::new();
        for prompt in prompts {
            tokens.extend_from_slice(self.model.output_tokens());
            let mut add = |x: f32, y: f32, label| {
                tokens.extend(self.model.prompt_encoder.point(x * sx, y * sy, label, side));
            };
            // Corners come before clicks; whatever there is, one padding point ends the list.
            if let Some([x0, y0, x1, y1]) = prompt.bounds {
                add(x0, y0, Label::TopLeft);
                add(x1, y1, Label::BottomRight);
            }
            for p in &prompt.points {
                add(p.x, p.y, if p.positive { Label::Positive } else { Label::Negative });
            }
            if token_count(prompt) > 0 {
                add(0.0, 0.0, Label::None);
            }
        }
        tokens
    }

    /// The mask prompt as logits at the model's low resolution.
    pub(super) fn mask_logits(&self, prompt: &Prompt) -> Result<Option<Vec<f32>>> {
        let low = self.model.side / 4;
        Ok(match &prompt.mask {
            None => None,
            Some(MaskPrompt::Logits(logits)) => Some(logits.clone()),
            Some(MaskPrompt::Binary(mask)) => {
                let soft = resize::antialias_mask(mask, low, low)?;
                Some(soft.into_iter().map(|m| 20.0 * m - 10.0).collect())
            }
        })
    }

    pub(super) fn decoder(&mut self, key: DecodeKey) -> Result<&mut Decoder> {
        let options = self.bind_options();
        self.decoders.get(key, &self.gpu, &self.model, &self.embedding, &options)
    }

    /// The most prompts that are decoded at once.
    pub fn max_batch(&self) -> usize {
        self.model.max_batch(&self.gpu)
    }

    /// Bytes planned on the device so far: weights, embedding, and the slots that all plans share.
    pub fn planned_bytes(&self) -> u64 {
        let encoder = self.encoder.as_ref().map(|(b, _)| b.plan().tensor_bytes());
        let decoder = self.decoders.tensor_bytes();
        // The two share the embedding; the overlap is small beside the weights and counted twice.
        self.pool.bytes() + encoder.unwrap_or(0) + decoder
    }

    /// Time of each dispatch of one encoding.
    ///
    /// # Errors
    /// `Gpu` where the adapter has no timestamps.
    pub async fn profile_encoder(&mut self) -> Result<Vec<DispatchTime>> {
        self.encoder()?.0.profile().await
    }
}

/// The logistic function.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Of masks 1 to 3 that of the highest IoU, the first of equals, as argmax.
pub(super) fn best_of_three(iou: impl Fn(usize) -> f32) -> usize {
    (2..MASKS).fold(1, |best, i| if iou(i) > iou(best) { i } else { best })
}

/// Tokens that a prompt's points take: corners, clicks, and a padding point after them. No point, no token.
pub(super) fn token_count(prompt: &Prompt) -> usize {
    let points = prompt.points.len() + if prompt.bounds.is_some() { 2 } else { 0 };
    if points == 0 { 0 } else { points + 1 }
}

/// `|logit > delta| / |logit > -delta|`; 1 where nothing is above `-delta`: `MaskDecoder._get_stability_scores`.
pub(super) fn stability(logits: &[f32], delta: f32) -> f32 {
    let above = |t: f32| logits.iter().filter(|l| **l > t).count() as f32;
    let (inner, outer) = (above(delta), above(-delta));
    if outer > 0.0 { inner / outer } else { 1.0 }
}
