//! Redux against transformers and diffusers: a miniature whose weights follow from their names, as those of the fixture do.

use crate::{
    common::{fixture, gpu},
    generate::{Pipe, lone},
};
use impasto::{
    ErrorKind,
    gpu::Checks,
    graph::Control,
    kernels::deviation,
    models::flux::{
        pipeline::{Options, Prompts, Watch, generate},
        sampling::{Device, Generator, Precision},
    },
    nn::Storage,
    text::{Embeddings, EncoderPlan, Redux, Run, Seen, Siglip},
    weights::Weights,
};
use pollster::block_on;
use safetensors::tensor::{Dtype, TensorView};

const CONFIG: &str = r#"{"num_attention_heads": 2, "image_size": 56, "hidden_act": "gelu_pytorch_tanh"}"#;

/// Normal numbers of a generator that the name seeds, scaled by what a tensor is for.
fn seeded(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = u64::from(crc32fast::hash(name.as_bytes()) & 0x7fff_ffff);
    let normal = Generator::new(Device::Cpu, seed).normal(shape.iter().product(), Precision::F32);
    let fan: usize = shape[1..].iter().product();
    let value = |n: f32| match shape.len() {
        1 if name.ends_with("weight") => 1.0 + 0.1 * n,
        1 => 0.05 * n,
        _ => n / (fan as f64).sqrt() as f32,
    };
    normal.into_iter().map(value).collect()
}

fn weights(tensors: &[(String, Vec<usize>)]) -> Weights {
    let bytes = |(name, shape): &(String, Vec<usize>)| bytemuck::cast_slice(&seeded(name, shape)).to_vec();
    let all: Vec<Vec<u8>> = tensors.iter().map(bytes).collect();
    let views = tensors.iter().zip(&all);
    let views = views.map(|((name, shape), bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    Weights::from_bytes(safetensors::serialize(views, None).unwrap()).unwrap()
}

/// Layers of 32 features, two of them.
fn siglip() -> Weights {
    let mut tensors = vec![
        ("embeddings.patch_embedding.weight".to_owned(), vec![32, 3, 14, 14]),
        ("embeddings.patch_embedding.bias".into(), vec![32]),
        ("embeddings.position_embedding.weight".into(), vec![16, 32]),
        ("post_layernorm.weight".into(), vec![32]),
        ("post_layernorm.bias".into(), vec![32]),
    ];
    for i in 0..2 {
        let mut layer = |name: &str, shape: &[usize]| {
            tensors.push((format!("encoder.layers.{i}.{name}.weight"), shape.to_vec()));
            tensors.push((format!("encoder.layers.{i}.{name}.bias"), vec![shape[0]]));
        };
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            layer(&format!("self_attn.{name}"), &[32, 32]);
        }
        layer("layer_norm1", &[32]);
        layer("layer_norm2", &[32]);
        layer("mlp.fc1", &[64, 32]);
        layer("mlp.fc2", &[32, 64]);
    }
    weights(&tensors)
}

fn embedder(width: usize) -> Weights {
    let shapes = [
        ("redux_up.weight", vec![96, width]),
        ("redux_up.bias", vec![96]),
        ("redux_down.weight", vec![32, 96]),
        ("redux_down.bias", vec![32]),
    ];
    weights(&shapes.map(|(name, shape)| (name.to_owned(), shape)))
}

fn redux() -> Redux {
    Redux::new(Siglip::new(&siglip(), Some(CONFIG)).unwrap(), &embedder(32)).unwrap()
}

fn expected() -> Weights {
    Weights::open(&fixture("flux1_redux_mini").join("io.safetensors")).unwrap()
}

/// The fixture's pixels, with the colours last.
fn pixels() -> Vec<f32> {
    let planes = Generator::new(Device::Cpu, 5).normal(3 * 56 * 56, Precision::F32);
    (0..planes.len()).map(|i| planes[i % 3 * 56 * 56 + i / 3]).collect()
}

fn run(storage: Storage) -> Run<'static> {
    Run { gpu: gpu(Checks::Trusted), storage, control: Control::default() }
}

#[test]
fn redux_is_that_of_diffusers() {
    let (redux, vision) = (redux(), Siglip::new(&siglip(), Some(CONFIG)).unwrap());
    assert_eq!(redux.size(), [16, 32]);
    for (storage, allowed) in [(Storage::F32, 1e-8), (Storage::F16, 1e-4)] {
        let near = |name: &str, found: &[f32]| {
            let (nmse, max) = deviation(found, &expected().tensor(name).unwrap().to_f32().unwrap());
            println!("{name} {storage:?}: nmse {nmse:.1e}, max {max:.1e}");
            assert!(nmse <= allowed, "{name} {storage:?}: nmse {nmse:.1e}, max {max:.1e}");
        };
        near("siglip", &block_on(vision.encode(run(storage), &pixels())).unwrap());
        near("image_embeds", &block_on(redux.embed_pixels(run(storage), &pixels())).unwrap());
    }
}

/// To the rounding of 8 bits, which transformers and Pillow do not share either.
#[test]
fn pictures_are_prepared_as_by_transformers() {
    let picture = Pipe::open("flux1_img2img", "flux1_dev").picture();
    let found = Siglip::new(&siglip(), Some(CONFIG)).unwrap().pixels(&picture).unwrap();
    let expected = expected().tensor("resized").unwrap().bytes().to_vec();
    let far = |(found, level): (&f32, &u8)| ((found + 1.0) * 127.5 - f32::from(*level)).abs();
    let far: Vec<f32> = found.iter().zip(&expected).map(far).collect();
    let other = far.iter().filter(|d| **d > 0.01).count();
    println!("{other} of {} are another level", far.len());
    assert!(far.len() == 3 * 56 * 56 && far.iter().all(|d| *d < 1.01) && other * 20 < far.len());
}

#[test]
fn redux_takes_what_was_planned() {
    let (redux, lone) = (redux(), lone(None));
    let plan = redux.plan(&lone, Storage::F32).unwrap();
    assert_eq!((lone.peak_bytes(), plan.len()), (0, 3));
    let run = Run { gpu: &lone, storage: Storage::F32, control: Control::default() };
    block_on(redux.embed_pixels(run, &pixels())).unwrap();
    assert_eq!(Some(lone.peak_bytes()), plan.iter().map(EncoderPlan::bytes).max(), "{plan:?}");
    assert_eq!(lone.allocated_bytes(), 0);
}

#[test]
fn a_picture_in_the_prompt_is_seen() {
    let pipe = Pipe::open("flux1_dev", "flux1_dev");
    let picture = |prompt: Embeddings| {
        let prompts = Prompts { prompt, negative: None };
        let o = Options { steps: Some(1), init_latents: Some(pipe.init()), ..Options::new(Pipe::size()) };
        block_on(generate(gpu(Checks::Trusted), &pipe.model, &prompts, &o, Watch::default())).unwrap().images
    };
    let tokens = block_on(redux().embed_pixels(run(Storage::F32), &pixels())).unwrap();
    let text = pipe.prompts().prompt;
    let seen = |scale| text.with_pictures(&[Seen { tokens: tokens.clone(), scale, pooled_scale: 1.0 }]).unwrap();
    let made = picture(seen(1.0));
    assert!(made != picture(text.clone()) && made != picture(seen(0.5)));
    // Without words, too.
    let blank = Embeddings::blank(text.tokens, text.width, text.pooled.as_ref().map(Vec::len));
    assert!(picture(blank.with_pictures(&[Seen { tokens, scale: 1.0, pooled_scale: 1.0 }]).unwrap()) != made);
}

#[test]
fn what_is_not_redux_is_refused() {
    let refused = |e: impasto::Error, kind: ErrorKind, says: &str| {
        assert!(e.kind() == kind && e.to_string().contains(says), "{says}: {:?} {e}", e.kind());
    };
    let vision = || Siglip::new(&siglip(), Some(CONFIG)).unwrap();
    refused(Redux::new(vision(), &embedder(48)).unwrap_err(), ErrorKind::Weights, "48 features");
    refused(Redux::new(vision(), &siglip()).unwrap_err(), ErrorKind::Weights, "no image embedder");
    refused(Siglip::new(&embedder(32), None).unwrap_err(), ErrorKind::Weights, "no SigLIP");
    let config = |from: &str, to: &str| Siglip::new(&siglip(), Some(&CONFIG.replace(from, to))).unwrap_err();
    refused(config("56", "70"), ErrorKind::Weights, "16 patches of 14 pixels in a picture of 70");
    refused(config("_pytorch_tanh", ""), ErrorKind::Weights, "activation");
    refused(block_on(redux().embed_pixels(run(Storage::F32), &[0.0; 3])).unwrap_err(), ErrorKind::Shape, "56x56");
}
