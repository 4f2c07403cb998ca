//! `impasto generate`: a picture from a prompt.

mod model;
mod outputs;
mod picture;
mod report;
mod texts;

use super::{
    failure::{Failure, Outcome, print_json, print_line},
    global::Global,
    progress::Progress,
    signal,
};
use impasto::{
    gpu::Gpu,
    image::Picture,
    models::flux::{
        pipeline::{Event, Made, Model, Options, Plan, Preview, Prompts, Settings, Stage, Watch, generate},
        sampling::Recipe,
    },
};
use model::{ModelArgs, model_hash, open_tensors};
use outputs::Outputs;
use picture::PictureArgs;
use report::{GpuBytes, Report};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Instant,
};
use texts::Texts;

/// Make a picture from a prompt, with FLUX.1 or FLUX.2
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What is to be seen
    #[arg(required_unless_present = "embeds")]
    prompt: Option<String>,
    /// Embedded texts in place of text encoders: safetensors with prompt_embeds and, for FLUX.1, pooled_prompt_embeds;
    /// negative_prompt_embeds and negative_pooled_prompt_embeds for --true-cfg
    #[arg(long, value_name = "FILE", conflicts_with = "negative")]
    embeds: Option<PathBuf>,
    #[command(flatten)]
    picture: PictureArgs,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    model: ModelArgs,
}

const EXAMPLES: &str = "\
The same command makes the same file on the same adapter. With --noise diffusers (the default) the noise is that of a \
torch.Generator on the CPU, one for all pictures of -n; `bfl` takes the seeds N, N + 1 .. The picture's file holds \
everything that remakes it.

Examples:
  impasto generate \"a fox in the snow\" -o fox.png
  impasto generate \"a fox\" --model FLUX.1-dev/ --steps 20 --seed 7 -n 4 -o 'fox-{seed}.png'
  impasto generate \"a fox\" --transformer flux1-dev-Q4_K.gguf --vae ae.safetensors --text-encoder clip_l.safetensors \\
      --text-encoder-2 t5xxl_fp16.safetensors --tokenizer clip/ --tokenizer-2 t5/
  impasto generate \"in winter\" --image summer.png --strength 0.7
  impasto generate --embeds fox.safetensors --dry-run --quantize q4

--json prints one object: model, adapter, prompt, seed, width, height, steps, timings_ms {text, load, step, vae}, \
gpu_bytes {planned, peak}, files.";

pub(super) fn run(args: &Args, global: &Global) -> Outcome {
    args.picture.check()?;
    let images = args.picture.count;
    let files = args.outputs.pictures(args.picture.seed, images)?;
    args.outputs.check(&args.inputs(), files.clone())?;
    let start = args.picture.image.as_ref().map(Picture::load).transpose()?;
    let embeds = args.embeds.as_ref().map(|path| open_tensors(path, "--embeds")).transpose()?;
    let prompts = embeds.map(|file| Prompts::read(&file)).transpose()?;

    let progress = global.progress();
    // The adapter first: without one a download would be in vain.
    let gpu = global.open_gpu()?;
    let clock = Instant::now();
    let model = args.model.open(global, &progress)?;
    let mut options = args.picture.options(&model, start)?;
    options.storage = args.model.storage(&model);
    options.budget = args.model.max_vram.or(global.max_memory);
    options.loras = args.model.loras(&model)?;
    let settings = options.settings(&model)?;
    if args.picture.negative.is_some() && settings.true_cfg.is_none() {
        return Err(Failure::Usage("--negative has no effect without --true-cfg above 1".into()));
    }
    let texts = Texts::new(args, prompts, (&gpu, &model), &settings, &progress)?;
    let tokens = texts.length;
    progress.stage("planning");
    let plan = Plan::new(&gpu, &model, &options, texts.plan()?, tokens)?;
    if args.outputs.dry_run {
        let (name, adapter) = (args.model.name(), gpu.info().name.as_str());
        return progress
            .beside(|| report::dry_run((&name, &model), adapter, options.size, tokens, &plan, args.outputs.json));
    }
    plan.check(options.budget)?;
    let load = clock.elapsed().as_secs_f64() * 1e3;

    let clock = Instant::now();
    let prompts = texts.embed(&progress)?;
    let text_time = clock.elapsed().as_secs_f64() * 1e3;
    let mut run = Run { args, gpu, model, options, settings, plan, progress: &progress };
    let mut made = run.generate(&prompts)?;
    made.timings.insert("text", text_time);
    *made.timings.entry("load").or_default() += load;
    run.write(&files, &prompts, &made)?;
    run.report(files, made, global.quiet)
}

impl Args {
    /// Every file that is read and must not be written.
    fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs = self.model.inputs();
        inputs.extend(self.embeds.clone());
        inputs.extend(self.picture.image.clone());
        inputs.extend(self.picture.init_latents.clone());
        inputs
    }
}

struct Run<'a> {
    args: &'a Args,
    gpu: Gpu,
    model: Model,
    options: Options,
    settings: Settings,
    plan: Plan,
    progress: &'a Progress,
}

impl Run<'_> {
    fn generate(&mut self, prompts: &Prompts) -> Outcome<Made> {
        let (images, steps) = (self.options.images, self.settings.schedule.steps());
        let all = (images * steps) as f32;
        let done = AtomicUsize::new(0);
        let sampling = AtomicBool::new(false);
        let preview = match &self.args.outputs.preview {
            None => None,
            Some(to) => {
                self.progress.stage("fitting the preview");
                let (gpu, autoencoder) = (&self.gpu, &self.model.autoencoder);
                let fitted =
                    self.progress.with(|control| pollster::block_on(Preview::fit(gpu, autoencoder, control)))?;
                Some((fitted, to))
            }
        };
        let tell = |event: Event<'_>| match event {
            Event::Stage(stage) => {
                sampling.store(matches!(stage, Stage::Sample(_)), Relaxed);
                match stage {
                    Stage::Encode => self.progress.stage("encoding the picture"),
                    Stage::Load => self.progress.stage("loading the transformer"),
                    Stage::Sample(0) => self.progress.timed(format!("step 1/{steps}")),
                    Stage::Sample(image) => {
                        self.progress.say(format!("picture {}/{images}, step 1/{steps}", image + 1))
                    }
                    Stage::Decode => self.progress.stage("decoding"),
                }
            }
            Event::Share(share) if sampling.load(Relaxed) => {
                self.progress.share((done.load(Relaxed) as f32 + share) / all);
            }
            Event::Share(share) => self.progress.share(share),
            Event::Step { image, step, expected, .. } => {
                done.fetch_add(1, Relaxed);
                let which = if images > 1 { format!("picture {}/{images}, ", image + 1) } else { String::new() };
                if step + 1 < steps {
                    self.progress.say(format!("{which}step {}/{steps}", step + 2));
                }
                if let Some((preview, to)) = &preview {
                    let show = |picture| self.progress.beside(|| to.show(&picture, image, step));
                    if let Err(e) = preview.picture(expected, self.options.size).and_then(show) {
                        tracing::warn!("no preview: {e}");
                    }
                }
            }
        };
        let watch = Watch { tell: Some(&tell), cancel: Some(&signal::CANCEL) };
        let made = pollster::block_on(generate(&self.gpu, &self.model, prompts, &self.options, watch))?;
        Ok(made)
    }

    fn write(&self, files: &[PathBuf], prompts: &Prompts, made: &Made) -> Outcome {
        self.progress.stage("writing");
        self.args.outputs.write_tensors(prompts, made, self.options.size)?;
        let recipe = self.recipe(prompts.prompt.tokens)?;
        for (index, path) in files.iter().enumerate() {
            signal::check()?;
            let picture = made.picture(index, self.options.size)?;
            Outputs::write(path, &picture, &Recipe { index, ..recipe.clone() })?;
        }
        Ok(())
    }

    /// Of the first picture.
    fn recipe(&self, max_sequence_length: usize) -> Outcome<Recipe> {
        let (args, o) = (self.args, &self.options);
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Recipe {
            version: env!("CARGO_PKG_VERSION").into(),
            model: args.model.name(),
            model_hash: model_hash(&self.model),
            weights: Some(self.model.transformer.digest()?),
            quantize: args.model.quantized(),
            prompt: args.prompt.clone().unwrap_or_default(),
            negative_prompt: args.picture.negative.clone(),
            max_sequence_length,
            width: o.size.width(),
            height: o.size.height(),
            steps: self.settings.steps,
            guidance: self.settings.guidance,
            true_cfg: self.settings.true_cfg,
            schedule: o.shift.name().into(),
            seed: o.seed,
            noise: o.profile.name().into(),
            images: o.images,
            index: 0,
            image: args.picture.image.as_ref().map(name),
            strength: args.picture.strength(),
            embeds: args.embeds.as_ref().map(name),
            init_latents: args.picture.init_latents.as_ref().map(name),
            loras: args.model.applied(),
        })
    }

    fn report(&self, files: Vec<PathBuf>, made: Made, quiet: bool) -> Outcome {
        let rounded = |v: f64| (v * 1e3).round() / 1e3;
        let total: f64 = made.timings.values().sum();
        let files: Vec<String> = files.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        if !self.args.outputs.json {
            let line = format!("{} in {:.1} s", files.join(", "), total / 1e3);
            return if quiet { Ok(()) } else { self.progress.beside(|| print_line(&line)) };
        }
        let mut timings_ms: std::collections::BTreeMap<_, _> =
            made.timings.iter().map(|(stage, time)| (*stage, rounded(*time))).collect();
        timings_ms.insert("total", rounded(total));
        let report = Report {
            model: &self.args.model.name(),
            adapter: &self.gpu.info().name,
            prompt: self.args.prompt.as_deref().unwrap_or_default(),
            seed: self.options.seed,
            width: self.options.size.width(),
            height: self.options.size.height(),
            steps: self.settings.schedule.steps(),
            timings_ms,
            gpu_bytes: GpuBytes { planned: self.plan.bytes(), peak: made.peak },
            files,
        };
        self.progress.beside(|| print_json(&report))
    }
}
