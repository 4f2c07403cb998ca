//! Pictures from pictures, against diffusers: the pipelines of `tests/fixtures/flux*_pipe` that take some. What goes in besides is
//! that of pipelines without.

use crate::{
    common::{fixture, gpu},
    generate::{Pipe, SEED, lone, psnr},
};
use impasto::{
    ErrorKind,
    gpu::Checks,
    graph::Control,
    image::{Mask, Picture},
    kernels::deviation,
    models::flux::{
        self, Version,
        pipeline::{Channels, Embeddings, Options, Plan, Prompts, References, Start, TextPlan, Watch, generate},
        sampling::{Profile, Size, fill_mask},
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
            let posterior = block_on(ae.encode(gpu(Checks::Trusted), picture, size, None, control)).unwrap();
            found.extend(posterior.tokens(None).unwrap());
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

/// The mask of the fixtures.
fn mask() -> Mask {
    let bytes = Expected::open("flux1_fill").u8("in.mask_image");
    Mask::from_fn_of(&bytes, 96, 64, |v| v > 127).unwrap()
}

/// A model with channels for a picture, and what its fixture is run with, but for them.
fn reading(transformer: &str) -> (Pipe, Options) {
    let pipe = Pipe::open("flux1_dev", transformer);
    let (steps, guidance, init_latents) = (Some(3), Some(30.0), Some(pipe.init()));
    let options = Options { steps, guidance, init_latents, seed: SEED, ..Options::new(Pipe::size()) };
    (pipe, options)
}

/// Tokens of pixels, with the fixtures' draw from the posterior.
fn sampled(pipe: &Pipe, pixels: &[f32]) -> Vec<f32> {
    let (size, control) = (Pipe::size(), Control::default());
    let drawn = Profile::Diffusers.noise(Version::Flux1, SEED, 1).posterior(24 * 64);
    let ae = &pipe.model.autoencoder;
    let posterior = block_on(ae.encode_pixels(gpu(Checks::Trusted), pixels, size, None, control)).unwrap();
    posterior.tokens(drawn.as_deref()).unwrap()
}

#[test]
fn a_filled_picture_equals_the_reference() {
    let (pipe, options) = reading("flux1_fill");
    let expected = Expected::open("flux1_fill");
    let (picture, mask) = (picture(), mask());
    // What the transformer reads: tokens of the picture, grey under the mask, and the mask.
    let pixel = |i: usize| match mask.get(i / 3 % 96, i / 3 / 96) {
        true => 0.0,
        false => f32::from(picture.rgb()[i]) / 127.5 - 1.0,
    };
    let tokens = sampled(&pipe, &(0..picture.rgb().len()).map(pixel).collect::<Vec<f32>>());
    let masks = fill_mask(&mask, Pipe::size()).unwrap();
    let channels = expected.f32("call0.channels");
    let of = |range: std::ops::Range<usize>| channels.chunks(320).flat_map(|c| c[range.clone()].to_vec()).collect();
    let (their_tokens, their_masks): (Vec<f32>, Vec<f32>) = (of(0..64), of(64..320));
    near("tokens", &tokens, &their_tokens);
    assert_eq!(masks, their_masks);

    let channels = Some(Channels::Fill { picture, mask });
    expected.check(&pipe, &Options { channels, ..options });
}

/// diffusers takes the fixture's picture as it is, from 0 to 1: no picture of 8 bits has its values from -1 to 1.
#[test]
fn a_controlled_picture_equals_the_reference() {
    let (pipe, options) = reading("flux1_control");
    let expected = Expected::open("flux1_control");
    let planes = Pipe::open("flux1_img2img", "flux1_dev").get("in.image");
    let pixels: Vec<f32> = (0..planes.len()).map(|i| planes[i % 3 * planes.len() / 3 + i / 3]).collect();
    let tokens = sampled(&pipe, &pixels);
    near("tokens", &tokens, &expected.f32("call0.channels"));
    let read = |channels| Options { channels: Some(channels), ..options.clone() };
    expected.check(&pipe, &read(Channels::Encoded(tokens)));

    // A picture is encoded to the same from -1 to 1.
    let run = |o: &Options| block_on(generate(gpu(Checks::Trusted), &pipe.model, &pipe.prompts(), o, Watch::default()));
    let pixels: Vec<f32> = picture().rgb().iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
    let found = run(&read(Channels::Control(picture()))).unwrap().images;
    assert_eq!(found, run(&read(Channels::Encoded(sampled(&pipe, &pixels)))).unwrap().images);
}

#[test]
fn an_inpainted_picture_equals_the_reference() {
    let pipe = Pipe::open("flux1_dev", "flux1_dev");
    let start = Some(Start { picture: picture(), strength: 0.8, mask: Some(mask()) });
    let options = Options { steps: Some(5), seed: SEED, start, ..Options::new(Pipe::size()) };
    Expected::open("flux1_inpaint").check(&pipe, &options);
}

/// Two pictures of one seed, nothing else given: every draw has its place, of which each pipeline of diffusers has its own.
#[test]
fn seeds_give_the_pictures_of_diffusers() {
    let expected = Weights::open(&fixture("flux1_edit_seeds").join("io.safetensors")).unwrap();
    let plain = Options { seed: 7, images: 2, guidance: Some(5.0), ..Options::new(Pipe::size()) };
    let channels = |c| Options { steps: Some(2), channels: Some(c), ..plain.clone() };
    let start = Some(Start { picture: picture(), strength: 0.5, mask: Some(mask()) });
    for (name, transformer, options) in [
        ("fill", "flux1_fill", channels(Channels::Fill { picture: picture(), mask: mask() })),
        ("control", "flux1_control", channels(Channels::Control(picture()))),
        ("inpaint", "flux1_dev", Options { steps: Some(4), start, ..plain.clone() }),
    ] {
        let pipe = Pipe::open("flux1_dev", transformer);
        let prompts = pipe.prompts();
        let run = generate(gpu(Checks::Trusted), &pipe.model, &prompts, &options, Watch::default());
        let last = block_on(run).unwrap().steps.iter().flat_map(|steps| steps[1].clone()).collect::<Vec<f32>>();
        near(name, &last, &expected.tensor(name).unwrap().to_f32().unwrap());
    }
}

/// Every picture that is encoded is planned.
#[test]
fn encoding_is_planned() {
    let (pipe, options) = reading("flux1_fill");
    let channels = Some(Channels::Fill { picture: picture(), mask: mask() });
    let start = Some(Start { picture: picture(), strength: 1.0, mask: None });
    let encoded =
        |o: &Options| Plan::new(gpu(Checks::Trusted), &pipe.model, o, vec![TextPlan::Given], 32).unwrap().encode.len();
    let fill = Options { channels, ..options };
    assert_eq!(encoded(&fill), 1);
    let begun = Options { start, ..fill };
    assert_eq!(encoded(&begun), 1, "initial latents stand in for the start");
    assert_eq!(encoded(&Options { init_latents: None, ..begun }), 2);
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
    refused(&pipe, Options { references: Some(narrow), ..o.clone() }, "16x96");
    let begun = |mask, picture| Some(Start { picture, strength: 0.5, mask });
    refused(&pipe, Options { start: begun(Some(mask()), picture()), ..o.clone() }, "FLUX.1 only");
    let flat = |width, height| Picture::new(width, height, vec![0; 3 * width * height]).unwrap();
    refused(&pipe, Options { start: begun(None, flat(64, 96)), ..o }, "another aspect");

    let fill = |picture, mask| Some(Channels::Fill { picture, mask });
    let (pipe, o) = reading("flux1_fill");
    refused(&pipe, o.clone(), "it takes one, and a mask");
    refused(&pipe, Options { channels: Some(Channels::Control(picture())), ..o.clone() }, "it takes one, and a mask");
    refused(&pipe, Options { channels: Some(Channels::Encoded(vec![0.0; 24 * 64])), ..o.clone() }, "1536 values");
    refused(&pipe, Options { channels: fill(flat(96, 96), mask()), ..o.clone() }, "another aspect");
    refused(&pipe, Options { channels: fill(picture(), Mask::new(64, 64).unwrap()), ..o.clone() }, "the mask");
    let channels = fill(picture(), mask());
    refused(&pipe, Options { channels: channels.clone(), references: Some(references("")), ..o }, "refers to none");
    let (pipe, o) = reading("flux1_control");
    refused(&pipe, o.clone(), "it takes a picture of them");
    refused(&pipe, Options { channels: Some(Channels::Control(flat(64, 96))), ..o }, "another aspect");
    let (pipe, o) = editing("flux1_kontext");
    refused(&pipe, Options { channels, ..o }, "reads no picture");
}
