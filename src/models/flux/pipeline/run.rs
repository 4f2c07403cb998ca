//! A run: noise to latents, step by step, and latents to pictures.

use super::{
    super::{
        Condition, Denoiser, Size, Vectors, rope,
        sampling::{self, image_ids, text_ids},
        vectors_with,
    },
    Embeddings, Model, Options, Prompts, Settings,
    autoencoder::finite,
    begin::Begin,
};
use crate::{
    error::{Error, Result, bail, ensure},
    gpu::Gpu,
    graph::Control,
    image::Picture,
};
use std::{collections::BTreeMap, sync::atomic::AtomicBool, time::Instant};

/// What a run tells while it is under way.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Something begins.
    Stage(Stage),
    /// The share of what is under way that is done, 0 to 1: of a stage, or of a step.
    Share(f32),
    /// A step is done.
    Step {
        /// The picture, from 0.
        image: usize,
        /// The step, from 0.
        step: usize,
        /// How many there are.
        steps: usize,
        /// The tokens of the picture as it is expected to become: what a preview shows.
        expected: &'a [f32],
    },
}

/// The stages of a run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Pictures that the run is given are encoded.
    Encode,
    /// What modulates the steps is computed, and the transformer loaded.
    Load,
    /// The steps of picture `n`, from 0.
    Sample(usize),
    /// The pictures are decoded.
    Decode,
}

/// Who is told, and who may stop it.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// Is told.
    pub tell: Option<&'a (dyn Fn(Event<'_>) + Sync)>,
    /// Set to stop: takes effect within some hundred milliseconds.
    pub cancel: Option<&'a AtomicBool>,
}

impl Watch<'_> {
    pub(super) fn tell(&self, event: Event<'_>) {
        if let Some(tell) = self.tell {
            tell(event);
        }
    }
}

/// What a run made.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// For each picture, the tokens that its first step began with.
    pub init: Vec<Vec<f32>>,
    /// For each picture, the tokens after each step.
    pub steps: Vec<Vec<Vec<f32>>>,
    /// The pictures `(height, width, 3)`, values from 0 to 1.
    pub images: Vec<Vec<f32>>,
    /// Milliseconds by stage: encode, load, step (all of them), vae.
    pub timings: BTreeMap<&'static str, f64>,
    /// The most bytes that were on the device since it was opened.
    pub peak: u64,
}

impl Made {
    /// Picture `i` in 8 bits a channel, rounded as diffusers does.
    ///
    /// # Errors
    /// `Internal` if the run had another size.
    pub fn picture(&self, i: usize, size: sampling::Size) -> Result<Picture> {
        let rgb = self.images[i].iter().map(|v| (v * 255.0).round_ties_even() as u8).collect();
        Picture::new(size.width(), size.height(), rgb)
    }
}

/// Makes pictures. The parts of the model are on the device one after the other.
///
/// # Errors
/// `Argument` for options or prompts that do not fit the model; `Numeric` if a value becomes NaN or infinite, with the step
/// and the block where it began; `Cancelled`; `OutOfMemory` and what else the device reports.
pub async fn generate(
    gpu: &Gpu,
    model: &Model,
    prompts: &Prompts,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Made> {
    let settings = options.settings(model)?;
    prompts.check(&model.config)?;
    let progress = |share: f32| watch.tell(Event::Share(share));
    let control = Control { cancel: watch.cancel, progress: Some(&progress) };
    let mut run = Run { gpu, model, options, settings, watch, control, clock: Instant::now(), made: Made::default() };
    let sides = run.sides(prompts)?;
    let begin = run.begin().await?;
    run.made.init = begin.init.clone();
    run.sample(&sides, &begin).await?;
    watch.tell(Event::Stage(Stage::Decode));
    let last: Vec<Vec<f32>> = run.made.steps.iter().filter_map(|steps| steps.last().cloned()).collect();
    run.made.images = model.autoencoder.decode(gpu, &last, options.size, options.budget, control).await?;
    run.lap("vae");
    Ok(Made { peak: gpu.peak_bytes(), ..run.made })
}

pub(super) struct Run<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) model: &'a Model,
    pub(super) options: &'a Options,
    pub(super) settings: Settings,
    pub(super) watch: Watch<'a>,
    pub(super) control: Control<'a>,
    clock: Instant,
    made: Made,
}

/// The transformer's inputs for one prompt.
struct Side<'a> {
    prompt: &'a Embeddings,
    /// Of every step.
    vectors: Vec<Vec<f32>>,
}

impl Run<'_> {
    /// The time since the last call counts as `stage`.
    pub(super) fn lap(&mut self, stage: &'static str) {
        *self.made.timings.entry(stage).or_default() += self.clock.elapsed().as_secs_f64() * 1e3;
        self.clock = Instant::now();
    }

    /// The prompt, and the negative one where it counts.
    fn sides<'p>(&self, prompts: &'p Prompts) -> Result<Vec<&'p Embeddings>> {
        let mut sides = vec![&prompts.prompt];
        if self.settings.true_cfg.is_some() {
            let Some(negative) = &prompts.negative else {
                bail!(Argument, "classifier-free guidance needs a negative prompt, and none is given")
            };
            ensure!(
                negative.tokens == prompts.prompt.tokens,
                Argument,
                "the negative prompt has {} tokens, the prompt {}: both take the same number, by padding",
                negative.tokens,
                prompts.prompt.tokens
            );
            sides.push(negative);
        }
        Ok(sides)
    }

    /// What modulates every step of one prompt.
    async fn vectors(&self, prompt: &Embeddings) -> Result<Vec<Vec<f32>>> {
        let (schedule, c) = (&self.settings.schedule, &self.model.config);
        let condition = |step| Condition {
            timestep: schedule.sigma(step),
            guidance: self.settings.guidance,
            pooled: prompt.pooled.clone(),
        };
        let conditions: Vec<Condition> = (0..schedule.steps()).map(condition).collect();
        let all: Vectors = vectors_with(self.gpu, &self.model.transformer, c, &conditions, &self.options.loras).await?;
        Ok((0..schedule.steps()).map(|step| all.batch(c, &[step])).collect())
    }

    /// All steps of all pictures.
    async fn sample(&mut self, prompts: &[&Embeddings], begin: &Begin) -> Result<()> {
        let (o, c) = (self.options, &self.model.config);
        self.watch.tell(Event::Stage(Stage::Load));
        let mut sides = Vec::new();
        for prompt in prompts {
            self.control.check()?;
            sides.push(Side { prompt, vectors: self.vectors(prompt).await? });
        }
        let text = sides[0].prompt.tokens;
        let size = Size { batch: 1, text, image: o.size.tokens() + begin.positions().len() };
        let mut denoiser = Denoiser::new(self.gpu, &self.model.transformer, c.clone(), size, &o.denoiser())?;
        let image = image_ids(0, o.size.rows(), o.size.columns());
        let table = rope::table(c, &[text_ids(c.version, text), image, begin.positions().to_vec()].concat());
        denoiser.begin(&sides[0].prompt.prompt, &table);
        self.lap("load");

        for image in 0..o.images {
            self.watch.tell(Event::Stage(Stage::Sample(image)));
            let mut x = begin.init[image].clone();
            let mut after = Vec::new();
            for step in 0..self.settings.schedule.steps() {
                let input = begin.input(image, &x, o.size.tokens());
                let velocity = self.velocity(&mut denoiser, &sides, &table, &input, step).await?;
                let mut velocity = match velocity {
                    Ok(velocity) => velocity,
                    Err(which) => {
                        let broken = self.broken(denoiser, &sides[which], &table, &input, step).await?;
                        bail!(Numeric, "step {}: values are NaN or infinite from {broken} on", step + 1)
                    }
                };
                // What it says of references is not asked for.
                velocity.truncate(x.len());
                sampling::euler(&mut x, &velocity, self.settings.schedule.delta(step))?;
                finite(&x, "the latents").map_err(|e: Error| e.context(format!("step {}", step + 1)))?;
                self.lap("step");
                let left = self.settings.schedule.sigma(step + 1);
                begin.restore(image, &mut x, left)?;
                // A straight line from here leads to the picture.
                let expected: Vec<f32> = x.iter().zip(&velocity).map(|(x, v)| x - left * v).collect();
                let steps = self.settings.schedule.steps();
                self.watch.tell(Event::Step { image, step, steps, expected: &expected });
                after.push(x.clone());
            }
            self.made.steps.push(after);
        }
        Ok(())
    }

    /// The block that broke in a step whose tokens are `input`.
    async fn broken(
        &self,
        mut denoiser: Denoiser,
        side: &Side<'_>,
        table: &[f32],
        input: &[f32],
        step: usize,
    ) -> Result<String> {
        denoiser.begin(&side.prompt.prompt, table);
        denoiser.first_bad_block(input, &side.vectors[step], self.control).await
    }

    /// The velocity of a step, or which prompt's is not finite.
    async fn velocity(
        &self,
        denoiser: &mut Denoiser,
        sides: &[Side<'_>],
        table: &[f32],
        input: &[f32],
        step: usize,
    ) -> Result<Result<Vec<f32>, usize>> {
        let mut all = Vec::new();
        for (which, side) in sides.iter().enumerate() {
            if sides.len() > 1 {
                denoiser.begin(&side.prompt.prompt, table);
            }
            let velocity = denoiser.step(input, &side.vectors[step], self.control).await?;
            if velocity.iter().any(|v| !v.is_finite()) {
                return Ok(Err(which));
            }
            all.push(velocity);
        }
        let mut velocity = all.swap_remove(0);
        if let (Some(scale), Some(negative)) = (self.settings.true_cfg, all.first()) {
            sampling::true_cfg(&mut velocity, negative, scale)?;
        }
        Ok(Ok(velocity))
    }
}
