//! From embeddings and noise to a picture, against diffusers: the pipelines of `tests/fixtures/flux*_pipe` on the
//! miniatures of `tests/fixtures/flux*_mini`.

use crate::common::{fixture, gpu};
use impasto::{
    ErrorKind,
    gpu::{self, Checks, Gpu},
    graph::Control,
    image::Picture,
    kernels::deviation,
    models::flux::{
        self, Condition, Config, Denoiser, DenoiserOptions, Size, Version,
        pipeline::{Embeddings, Locations, Model, Options, Plan, Preview, Prompts, Start, TextPlan, Watch, generate},
        rope,
        sampling::{Device, Generator, Latents, Precision, Profile, Size as PictureSize, image_ids, text_ids},
    },
    nn::Storage,
    text::{self, Cache, EncoderPlan},
    weights::Weights,
};
use pollster::block_on;

/// A device of its own, whose bytes nobody else moves.
pub(crate) fn lone(max_memory: Option<u64>) -> Gpu {
    block_on(Gpu::open(&gpu::Options { untuned: true, max_memory, ..gpu::Options::from_env() })).unwrap()
}

fn values(io: &Weights, name: &str) -> Vec<f32> {
    io.tensor(name).unwrap().to_f32().unwrap()
}

/// The first step of a pipeline: its size, and what goes into the transformer.
struct First {
    config: Config,
    weights: Weights,
    io: Weights,
    size: Size,
    vectors: Vec<f32>,
    table: Vec<f32>,
}

impl First {
    fn open(transformer: &str) -> Self {
        let folder = fixture(&format!("{transformer}_transformer_mini"));
        let (config, weights) = flux::open(&folder).unwrap();
        let io = Weights::open(&folder.join("io.safetensors")).unwrap();
        let shape = |name| io.shape(name).unwrap();
        let (img, txt) = (shape("in.hidden_states"), shape("in.encoder_hidden_states"));
        let size = Size { batch: 1, text: txt[1], image: img[1] };
        let condition = Condition {
            timestep: 0.5,
            guidance: config.guidance.then_some(3.5),
            pooled: config.pooled.map(|n| vec![0.25; n]),
        };
        let gpu = gpu(Checks::Trusted);
        let vectors = block_on(flux::vectors(gpu, &weights, &config, &[condition])).unwrap().batch(&config, &[0]);
        let ids = [text_ids(config.version, size.text), image_ids(0, size.image, 1)].concat();
        let table = rope::table(&config, &ids);
        Self { config, weights, io, size, vectors, table }
    }

    fn first(&self, name: &str) -> Vec<f32> {
        let all = values(&self.io, name);
        all[..all.len() / self.io.shape(name).unwrap()[0]].to_vec()
    }
}

#[test]
fn a_denoiser_takes_what_was_planned() {
    let gpu = gpu(Checks::Trusted);
    for name in ["flux1_dev", "flux1_schnell", "flux2_klein"] {
        let first = First::open(name);
        for storage in [Storage::AsStored, Storage::F32, Storage::F16, Storage::Q8, Storage::Q4] {
            let options = DenoiserOptions { storage, ..DenoiserOptions::default() };
            let plan = Denoiser::plan(gpu, &first.weights, &first.config, first.size, &options).unwrap();
            let denoiser = Denoiser::new(gpu, &first.weights, first.config.clone(), first.size, &options).unwrap();
            assert_eq!(plan.bytes(), denoiser.bytes(), "{name} {storage:?}: {plan:?}");
        }
        let budget = Some(1000);
        let options = DenoiserOptions { budget, ..DenoiserOptions::default() };
        let e = Denoiser::new(gpu, &first.weights, first.config.clone(), first.size, &options).unwrap_err();
        assert_eq!(e.kind(), impasto::ErrorKind::OutOfMemory);
    }
}

#[test]
fn a_denoiser_names_the_block_that_broke() {
    let gpu = gpu(Checks::Trusted);
    let first = First::open("flux2_klein");
    let (img, txt) = (first.first("in.hidden_states"), first.first("in.encoder_hidden_states"));
    let (c, control) = (&first.config, Control::default());
    let denoiser = || {
        let options = DenoiserOptions::default();
        let mut denoiser = Denoiser::new(gpu, &first.weights, c.clone(), first.size, &options).unwrap();
        denoiser.begin(&txt, &first.table);
        denoiser
    };
    let mut twice = denoiser();
    let velocity = block_on(twice.step(&img, &first.vectors, control)).unwrap();
    assert!(velocity.iter().all(|v| v.is_finite()));
    // The prompt stays where it is.
    assert_eq!(block_on(twice.step(&img, &first.vectors, control)).unwrap(), velocity);
    // Vectors of the single blocks and of the final layer: 12 for double blocks come before them.
    for (vector, block) in [(12, "single_blocks.0"), (0, "double_blocks.0"), (15, "final_layer.norm")] {
        let mut vectors = first.vectors.clone();
        vectors[vector * c.hidden] = f32::NAN;
        assert_eq!(block_on(denoiser().first_bad_block(&img, &vectors, control)).unwrap(), block);
    }
}

/// A pipeline of diffusers on miniatures: what went in, what came out.
pub(crate) struct Pipe {
    pub(crate) io: Weights,
    pub(crate) model: Model,
}

/// Pixels of the pictures of all fixtures.
const SIZE: [usize; 2] = [96, 64];

impl Pipe {
    pub(crate) fn open(name: &str, transformer: &str) -> Self {
        let family = &transformer[..5];
        let model = Model::open(&Locations {
            transformer: Some(fixture(&format!("{transformer}_transformer_mini"))),
            vae: Some(fixture(&format!("{family}_vae_mini"))),
            ..Locations::default()
        });
        let io = Weights::open(&fixture(&format!("{name}_pipe")).join("io.safetensors")).unwrap();
        Self { io, model: model.unwrap() }
    }

    pub(crate) fn get(&self, name: &str) -> Vec<f32> {
        values(&self.io, name)
    }

    pub(crate) fn prompts(&self) -> Prompts {
        let embeddings = |prefix: &str| {
            let name = format!("in.{prefix}prompt_embeds");
            let shape = self.io.shape(&name)?;
            let pooled = format!("in.{prefix}pooled_prompt_embeds");
            let pooled = self.io.has(&pooled).then(|| self.get(&pooled));
            Some(Embeddings { prompt: self.get(&name), tokens: shape[1], width: shape[2], pooled })
        };
        Prompts { prompt: embeddings("").unwrap(), negative: embeddings("negative_") }
    }

    pub(crate) fn size() -> PictureSize {
        PictureSize::exact(SIZE[0], SIZE[1]).unwrap()
    }

    /// The picture that goes in, of values from 0 to 1 in planes.
    pub(crate) fn picture(&self) -> Picture {
        let planes = self.get("in.image");
        let pixels = planes.len() / 3;
        let rgb = (0..planes.len()).map(|i| (planes[i % 3 * pixels + i / 3] * 255.0).round() as u8).collect();
        Picture::new(SIZE[0], SIZE[1], rgb).unwrap()
    }

    /// The initial latents as tokens: FLUX.2's are there as they are drawn.
    pub(crate) fn init(&self) -> Vec<f32> {
        let latents = self.get("in.latents");
        match self.model.config.version {
            Version::Flux1 => latents,
            Version::Flux2 => Latents::new(Version::Flux2, Self::size()).tokens_of_noise(&latents).unwrap(),
        }
    }

    /// Runs it, and holds latents after each step and the picture against diffusers'.
    fn check(&self, name: &str, options: &Options) {
        let gpu = gpu(Checks::Trusted);
        let made = block_on(generate(gpu, &self.model, &self.prompts(), options, Watch::default())).unwrap();
        let steps = (0..).take_while(|i| self.io.has(&format!("step{i}.latents"))).count();
        assert_eq!(made.steps[0].len(), steps, "{name}");
        for (i, found) in made.steps[0].iter().enumerate() {
            let (nmse, max) = deviation(found, &self.get(&format!("step{i}.latents")));
            println!("{name} step {i}: nmse {nmse:.1e}, max {max:.1e}");
            assert!(nmse <= 1e-8, "{name} step {i}: nmse {nmse:.1e}, max {max:.1e}");
        }
        let expected = self.get("image");
        let planes = |c: usize| made.images[0].iter().skip(c).step_by(3).copied();
        let found: Vec<f32> = (0..3).flat_map(planes).collect();
        let psnr = psnr(&found, &expected);
        println!("{name}: {psnr:.1} dB");
        assert!(psnr >= 50.0, "{name}: {psnr:.1} dB");
        // In 8 bits, too.
        let picture = made.picture(0, options.size).unwrap();
        let bytes: Vec<f32> = picture.rgb().iter().map(|v| f32::from(*v)).collect();
        let pixels = expected.len() / 3;
        let other = (0..bytes.len()).filter(|i| {
            let theirs = expected[i % 3 * pixels + i / 3] * 255.0;
            (bytes[*i] - theirs).abs() > 0.51
        });
        assert_eq!(other.count(), 0, "{name}");
    }
}

pub(crate) fn psnr(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2));
    -10.0 * (squares.sum::<f64>() / found.len() as f64).log10()
}

fn options(pipe: &Pipe, steps: usize) -> Options {
    Options { steps: Some(steps), init_latents: Some(pipe.init()), ..Options::new(Pipe::size()) }
}

#[test]
fn pictures_equal_the_reference() {
    for (name, transformer, steps, true_cfg) in [
        ("flux1_dev", "flux1_dev", 4, None),
        ("flux1_dev_truecfg", "flux1_dev", 3, Some(2.5)),
        ("flux1_schnell", "flux1_schnell", 4, None),
        ("flux2_klein", "flux2_klein", 4, None),
        ("flux2_klein_cfg", "flux2_klein", 3, Some(4.0)),
        ("flux2_dev", "flux2_dev", 4, None),
    ] {
        let pipe = Pipe::open(name, transformer);
        pipe.check(name, &Options { true_cfg, ..options(&pipe, steps) });
    }
}

/// The seed of the fixtures' generator. In diffusers one generator draws what pipelines with pictures need.
pub(crate) const SEED: u64 = 1234;

#[test]
fn a_picture_to_begin_with_equals_the_reference() {
    let pipe = Pipe::open("flux1_img2img", "flux1_dev");
    let mut noise = Profile::Diffusers.noise(Version::Flux1, SEED, 1);
    let count = Latents::new(Version::Flux1, Pipe::size()).len();
    assert_eq!((noise.posterior(count), noise.latents(count)), (Some(pipe.get("rng.0")), pipe.get("rng.1")));
    let start = Some(Start { picture: pipe.picture(), strength: 0.6, mask: None });
    let o = Options { steps: Some(5), seed: SEED, start, ..Options::new(Pipe::size()) };
    assert_eq!(o.settings(&pipe.model).unwrap().schedule.steps(), 3);
    pipe.check("flux1_img2img", &o);
}

#[test]
fn pictures_of_a_batch_are_those_of_their_noise() {
    let pipe = Pipe::open("flux2_klein", "flux2_klein");
    let (gpu, prompts) = (gpu(Checks::Trusted), pipe.prompts());
    let run = |o: &Options| block_on(generate(gpu, &pipe.model, &prompts, o, Watch::default())).unwrap();
    let o = Options { steps: Some(2), seed: 5, images: 2, ..Options::new(Pipe::size()) };
    let both = run(&o);
    assert_ne!(both.images[0], both.images[1]);
    // One draw for both: the first has the noise of a batch of one; the second is where its latents lead.
    assert_eq!(run(&Options { images: 1, ..o.clone() }).images[0], both.images[0]);
    let second = Options { images: 1, init_latents: Some(both.init[1].clone()), ..o.clone() };
    assert_eq!(run(&second).images[0], both.images[1]);
    let bfl = |seed, images| run(&Options { profile: Profile::Bfl, seed, images, ..o.clone() }).images;
    assert_eq!(bfl(5, 2)[1], bfl(6, 1)[0]);
}

#[test]
fn previews_look_like_the_picture() {
    // The embedded miniature: what is linear here was trained to be.
    let (gpu, model) = (gpu(Checks::Trusted), flux::mini().unwrap());
    let preview = block_on(Preview::fit(gpu, &model.autoencoder, Control::default())).unwrap();
    // Flat halves: what is one colour in the picture has to be that colour in the preview.
    let size = PictureSize::exact(128, 64).unwrap();
    let features = model.config.out_channels;
    let noise = Generator::new(Device::Cpu, 3).normal(2 * features, Precision::F32);
    let half = |token: usize| usize::from(token % size.columns() >= size.columns() / 2);
    let tokens: Vec<f32> = (0..size.tokens()).flat_map(|t| noise[half(t) * features..][..features].to_vec()).collect();
    let image = block_on(model.autoencoder.decode(gpu, std::slice::from_ref(&tokens), size, None, Control::default()))
        .unwrap()
        .remove(0);
    let small = preview.picture(&tokens, size).unwrap();
    assert_eq!((small.width(), small.height()), (16, 8));
    let mut far: f32 = 0.0;
    for (x, y) in [(3, 4), (12, 4)] {
        for c in 0..3 {
            let block = (0..64).map(|i| image[((y * 8 + i / 8) * 128 + x * 8 + i % 8) * 3 + c]);
            let mean = block.sum::<f32>() / 64.0;
            let found = f32::from(small.rgb()[(y * 16 + x) * 3 + c]) / 255.0;
            println!("at {x},{y}: {found:.2} for {mean:.2}");
            far = far.max((found - mean).abs());
        }
    }
    assert!(far <= 0.2, "{far}");
}

#[test]
fn what_cannot_be_is_refused() {
    let pipe = Pipe::open("flux1_dev", "flux1_dev");
    let gpu = gpu(Checks::Trusted);
    let refused = |prompts: &Prompts, o: &Options, kind: ErrorKind, says: &str| {
        let e = block_on(generate(gpu, &pipe.model, prompts, o, Watch::default())).unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(says), "{says}: {:?} {e}", e.kind());
    };
    let (good, o) = (pipe.prompts(), Options::new(Pipe::size()));
    let argument = ErrorKind::Argument;
    refused(&good, &Options { steps: Some(0), ..o.clone() }, argument, "0 steps");
    refused(&good, &Options { images: 0, ..o.clone() }, argument, "0 pictures");
    refused(&good, &Options { guidance: Some(f32::NAN), ..o.clone() }, argument, "guidance of NaN");
    refused(&good, &Options { true_cfg: Some(2.0), ..o.clone() }, argument, "needs a negative prompt");
    refused(&good, &Options { init_latents: Some(vec![0.0; 64]), ..o.clone() }, argument, "64 elements");
    refused(&good, &Options { init_latents: Some(vec![f32::NAN; 24 * 64]), ..o.clone() }, ErrorKind::Numeric, "NaN");
    refused(&good, &Options { budget: Some(1000), ..o.clone() }, ErrorKind::OutOfMemory, "1000");
    let with = |e: Embeddings| Prompts { prompt: e, negative: None };
    let e = &good.prompt;
    refused(&with(Embeddings { pooled: None, ..e.clone() }), &o, argument, "pooled");
    refused(&with(Embeddings { width: 16, tokens: 2 * e.tokens, ..e.clone() }), &o, argument, "16 features");
    let mut bad = e.clone();
    bad.prompt[7] = f32::INFINITY;
    refused(&with(bad), &o, ErrorKind::Numeric, "1 values");
    // Beyond f32 within the first block, whatever the text.
    let mut huge = e.clone();
    huge.pooled.iter_mut().flatten().for_each(|v| *v = 3e38);
    refused(&with(huge), &o, ErrorKind::Numeric, "step 1");

    let klein = Pipe::open("flux2_klein", "flux2_klein");
    // What others call guidance of klein is classifier-free; schnell has none.
    let guided = Options { guidance: Some(3.0), ..o.clone() };
    let settings = guided.settings(&klein.model).unwrap();
    assert_eq!((settings.guidance, settings.true_cfg), (None, Some(3.0)));
    let schnell = Pipe::open("flux1_schnell", "flux1_schnell");
    let settings = guided.settings(&schnell.model).unwrap();
    assert_eq!((settings.guidance, settings.true_cfg), (None, None));
    let stop = std::sync::atomic::AtomicBool::new(true);
    let watch = Watch { cancel: Some(&stop), ..Watch::default() };
    assert_eq!(block_on(generate(gpu, &pipe.model, &good, &o, watch)).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let transformer = |name: &str| Some(fixture(&format!("{name}_transformer_mini")));
    let refused = |at: Locations, kind: ErrorKind, says: &str| {
        let e = Model::open(&at).unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(says), "{says}: {:?} {e}", e.kind());
    };
    let none = Locations::default;
    refused(none(), ErrorKind::NotFound, "--transformer");
    refused(Locations { transformer: transformer("flux1_dev"), ..none() }, ErrorKind::NotFound, "--vae");
    let other = Some(fixture("flux2_vae_mini"));
    refused(Locations { transformer: transformer("flux1_dev"), vae: other, ..none() }, ErrorKind::Weights, "32 latent");
    refused(
        Locations { model: transformer("flux1_dev"), vae: transformer("flux1_dev"), ..none() },
        ErrorKind::Weights,
        "no FLUX autoencoder",
    );
}

#[test]
fn plans_hold() {
    let pipe = Pipe::open("flux1_dev", "flux1_dev");
    let gpu = gpu(Checks::Trusted);
    let o = Options { steps: Some(3), true_cfg: Some(2.0), images: 2, ..Options::new(Pipe::size()) };
    let plan = Plan::new(gpu, &pipe.model, &o, vec![TextPlan::Given; 2], 32).unwrap();
    assert_eq!((plan.steps, plan.runs, plan.images), (3, 2, 2));
    assert_eq!(plan.flops(), 2 * (6 * plan.transformer.flops + plan.decode.flops));
    assert_eq!(plan.bytes(), plan.transformer.bytes().max(plan.decode.bytes()));
    plan.check(Some(plan.bytes())).unwrap();
    assert_eq!(plan.check(Some(plan.bytes() - 1)).unwrap_err().kind(), ErrorKind::OutOfMemory);
}

#[test]
fn a_run_out_of_memory_streams() {
    let (model, shared) = (flux::mini().unwrap(), gpu(Checks::Trusted));
    let c = &model.config;
    let (prompt, pooled) = (vec![0.1; 20 * c.context], c.pooled.map(|n| vec![0.1; n]));
    let prompt = Embeddings { prompt, tokens: 20, width: c.context, pooled };
    let prompts = Prompts { prompt, negative: None };
    let o = Options { steps: Some(2), ..Options::new(PictureSize::exact(32, 32).unwrap()) };
    let make = |gpu: &Gpu, o: &Options| block_on(generate(gpu, &model, &prompts, o, Watch::default()));
    let bytes = |budget| {
        let o = Options { budget, ..o.clone() };
        let plan = Plan::new(shared, &model, &o, vec![TextPlan::Given], 20).unwrap();
        (plan.transformer.bytes(), plan.decode.bytes())
    };
    let (whole, decode) = bytes(None);
    assert!(whole > decode, "{whole} of {decode}");
    let made = make(&lone(Some(whole - 1)), &o).unwrap();
    assert!(made.peak < whole && made.images == make(shared, &o).unwrap().images);
    // A budget that was asked for is refused if it is too small.
    let (least, _) = bytes(Some(0));
    let e = make(shared, &Options { budget: Some(least - 1), ..o.clone() }).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutOfMemory);
}

#[test]
fn a_whole_run_takes_what_was_planned() {
    let lone = lone(None);
    let model = flux::mini().unwrap();
    let o = Options { steps: Some(1), ..Options::new(PictureSize::exact(128, 128).unwrap()) };
    let encoders = model.text.open(&model.config).unwrap();
    let run = text::Run { gpu: &lone, storage: o.storage, control: Control::default() };
    let (prompt, cache) = ("a red circle", tempfile::tempdir().unwrap());
    let cache = Cache::new(cache.path());
    let planned = || encoders.plan(run, prompt, 20, Some(&cache)).unwrap();
    let plan = Plan::new(&lone, &model, &o, vec![planned()], 20).unwrap();
    assert_eq!(lone.peak_bytes(), 0, "a plan takes no memory");

    let texts = plan.texts[0].encoders();
    assert_eq!(texts.iter().map(|e| e.name).collect::<Vec<_>>(), ["CLIP", "T5"]);
    let prompt = block_on(encoders.embed(run, prompt, 20, Some(&cache))).unwrap();
    assert_eq!(Some(lone.peak_bytes()), texts.iter().map(EncoderPlan::bytes).max());
    assert_eq!(planned(), TextPlan::Cached);

    let made = block_on(generate(&lone, &model, &Prompts { prompt, negative: None }, &o, Watch::default())).unwrap();
    assert_eq!(made.peak, plan.bytes());
    // A text encoder that is too large is named.
    let large = vec![TextPlan::Encoded(vec![EncoderPlan { resident: plan.bytes() + 1, ..texts[1].clone() }])];
    let e = Plan { texts: large, ..plan.clone() }.check(Some(plan.bytes())).unwrap_err();
    assert!(e.kind() == ErrorKind::OutOfMemory && e.to_string().contains("T5"), "{e}");
}
