//! Pictures from pictures, against diffusers: the pipelines of `tests/fixtures/flux*_pipe` that take some. What goes in besides is
//! that of pipelines without.

use crate::{
    common::{fixture, gpu},
    generate::{Pipe, lone, psnr},
};
use impasto::{
    ErrorKind,
    gpu::Checks,
    graph::Control,
    image::Picture,
    kernels::deviation,
    models::flux::{
        self,
        pipeline::{Embeddings, Options, Plan, Prompts, References, TextPlan, Watch, generate},
        sampling::Size,
    },
    weights::Weights,
};
use pollster::block_on;

/// What a pipeline of diffusers made.
struct Expected(Weights);

impl Expected {
    fn open(name: &str) -> Self {
        Self(Weights::open(&fixture(&format!("{name}_pipe")).join("io.safetensors")).unwrap())
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.0.tensor(name).unwrap().to_f32().unwrap()
    }

    fn u8(&self, name: &str) -> Vec<u8> {
        self.0.tensor(name).unwrap().bytes().to_vec()
    }

    /// Runs `options`, and holds latents after each step and the picture against these.
    fn check(&self, pipe: &Pipe, options: &Options) {
        let gpu = gpu(Checks::Trusted);
        let made = block_on(generate(gpu, &pipe.model, &pipe.prompts(), options, Watch::default())).unwrap();
        let steps = (0..).take_while(|i| self.0.has(&format!("step{i}.latents"))).count();
        assert!(steps > 1 && made.steps[0].len() == steps);
        for (i, found) in made.steps[0].iter().enumerate() {
            near(&format!("step {i}"), found, &self.f32(&format!("step{i}.latents")));
        }
        let picture = made.picture(0, options.size).unwrap();
        let (found, expected) = (picture.rgb(), self.u8("image"));
        let far = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        let unit = |bytes: &[u8]| bytes.iter().map(|v| f32::from(*v) / 255.0).collect::<Vec<f32>>();
        let psnr = psnr(&unit(found), &unit(&expected));
        println!("picture: {psnr:.1} dB, at most {far:?} levels apart");
        assert!(psnr >= 50.0 && far <= Some(1), "{psnr:.1} dB, {far:?} levels");
    }
}

fn near(what: &str, found: &[f32], expected: &[f32]) {
    let (nmse, max) = deviation(found, expected);
    println!("{what}: nmse {nmse:.1e}, max {max:.1e}");
    assert!(found.len() == expected.len() && nmse <= 1e-8, "{what}: nmse {nmse:.1e}, max {max:.1e}");
}

/// The picture that goes into all of them.
fn picture() -> Picture {
    Pipe::open("flux1_img2img", "flux1_dev").picture()
}

/// The references of both models' fixtures: one of the size that is made, one smaller.
fn references(of: &str) -> References {
    let mut pictures = vec![picture()];
    if of == "flux2_klein_edit" {
        pictures.push(Picture::new(64, 64, Expected::open(of).u8("in.image.1")).unwrap());
    }
    References { pictures, keep_size: true }
}

fn editing(of: &str) -> (Pipe, Options) {
    let (base, steps, guidance) = match of {
        "flux1_kontext" => ("flux1_dev", 3, Some(2.5)),
        _ => ("flux2_klein", 2, None),
    };
    let pipe = Pipe::open(base, base);
    let (init_latents, references) = (Some(pipe.init()), Some(references(of)));
    let options = Options { steps: Some(steps), guidance, init_latents, references, ..Options::new(Pipe::size()) };
    (pipe, options)
}

#[test]
fn references_are_encoded_as_by_the_reference() {
    for of in ["flux1_kontext", "flux2_klein_edit"] {
        let (pipe, options) = editing(of);
        let sizes = options.reference_sizes(pipe.model.config.version).unwrap();
        let mut found = Vec::new();
        for (picture, size) in references(of).pictures.iter().zip(sizes) {
            let (ae, control) = (&pipe.model.autoencoder, Control::default());
            found.extend(block_on(ae.encode(gpu(Checks::Trusted), picture, size, None, None, control)).unwrap());
        }
        near(of, &found, &Expected::open(of).f32("call0.references"));
    }
}

#[test]
fn edited_pictures_equal_the_reference() {
    for of in ["flux1_kontext", "flux2_klein_edit"] {
        let (pipe, options) = editing(of);
        Expected::open(of).check(&pipe, &options);
    }
}

/// Whole, and with blocks streamed: the bytes that were planned, and the same picture. On the embedded miniature, whose
/// transformer takes more than its autoencoder.
#[test]
fn references_are_planned_and_streamed() {
    let (model, lone) = (flux::mini().unwrap(), lone(None));
    let c = &model.config;
    let (prompt, pooled) = (vec![0.1; 20 * c.context], c.pooled.map(|n| vec![0.1; n]));
    let prompt = Embeddings { prompt, tokens: 20, width: c.context, pooled };
    let prompts = Prompts { prompt, negative: None };
    let references = Some(References { pictures: vec![picture().crop([40, 20, 72, 52]).unwrap()], keep_size: true });
    let alone = Options { steps: Some(2), ..Options::new(Size::exact(32, 32).unwrap()) };
    let whole = Options { references, ..alone.clone() };
    let plan = |o: &Options| Plan::new(gpu(Checks::Trusted), &model, o, vec![TextPlan::Given], 20).unwrap();
    let run = |o: &Options| block_on(generate(&lone, &model, &prompts, o, Watch::default())).unwrap();

    let large = plan(&whole);
    let streamed = Options { budget: Some(large.bytes() - 1), ..whole.clone() };
    let small = plan(&streamed);
    assert!(small.transformer.streamed_blocks() > 0 && large.transformer.streamed_blocks() == 0);
    let found = run(&streamed);
    assert_eq!(found.peak, small.bytes());
    let expected = run(&whole);
    assert_eq!(expected.peak, large.bytes());
    assert!(found.steps == expected.steps && found.images == expected.images);
    // The reference counts, and is seen.
    assert_eq!((large.encode.len(), plan(&alone).encode.len()), (1, 0));
    assert!(large.transformer.bytes() > plan(&alone).transformer.bytes());
    assert!(run(&alone).images != expected.images);
}

#[test]
fn pictures_that_do_not_fit_the_model_are_refused() {
    let refused = |pipe: &Pipe, o: Options, says: &str| {
        let e =
            block_on(generate(gpu(Checks::Trusted), &pipe.model, &pipe.prompts(), &o, Watch::default())).unwrap_err();
        assert!(e.kind() == ErrorKind::Argument && e.to_string().contains(says), "{says}: {:?} {e}", e.kind());
    };
    let (pipe, o) = editing("flux1_kontext");
    let two = References { pictures: vec![picture(); 2], keep_size: true };
    refused(&pipe, Options { references: Some(two), ..o }, "side by side");
    let (pipe, o) = editing("flux2_klein_edit");
    let narrow = References { pictures: vec![Picture::new(16, 96, vec![0; 3 * 16 * 96]).unwrap()], keep_size: true };
    refused(&pipe, Options { references: Some(narrow), ..o }, "16x96");
}
