//! Blocks of the released sizes, with random weights in Q4_0 blocks. Minutes on a software adapter, so ignored: run with
//! `cargo test --test it full_size -- --ignored --nocapture`. `IMPASTO_TOKENS` is the number of picture tokens.

use impasto::{
    gpu::{Gpu, Options},
    graph::Control,
    kernels::{Random, deviation},
    models::flux::{
        self, Condition, Config, Denoiser, DenoiserOptions, Layout, Size,
        autoencoder::{AutoEncoder, Direction, GROUPS},
        config::RELEASED,
        rope,
        sampling::{image_ids, text_ids},
        tensors::tensors,
    },
    weights::Weights,
};
use pollster::block_on;
use std::time::Instant;

/// A GGUF file with a transformer's tensors: matrices in Q4_0, all else in f32.
fn random_gguf(config: &Config) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let all = tensors(config, Layout::Bfl);
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((all.len() as u64).to_le_bytes());
    file.extend(0u64.to_le_bytes());
    let mut at = 0u64;
    let size = |shape: &[usize]| shape.iter().product::<usize>() as u64 / 32 * 18;
    for (name, shape) in &all {
        text(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| file.extend((*n as u64).to_le_bytes()));
        let matrix = shape.len() == 2;
        file.extend(if matrix { 2u32 } else { 0 }.to_le_bytes());
        file.extend(at.to_le_bytes());
        let bytes = if matrix { size(shape) } else { 4 * shape[0] as u64 };
        at += bytes.next_multiple_of(32);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    let mut random = 1u64;
    for (_, shape) in &all {
        match shape[..] {
            [_, k] => {
                // Uniform quants have a deviation of 4.6: products keep the size of their inputs.
                let scale = half::f16::from_f32(1.0 / (4.6 * (k as f32).sqrt())).to_le_bytes();
                for _ in 0..size(shape) / 18 {
                    file.extend(scale);
                    for _ in 0..2 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        file.extend((random ^ random >> 29).to_le_bytes());
                    }
                }
            }
            _ => file.extend((0..shape[0]).flat_map(|i| (0.5 + (i % 7) as f32 / 7.0).to_le_bytes())),
        }
        file.resize(file.len().next_multiple_of(32), 0);
    }
    file
}

/// Steps of some double and single blocks: with the adapter's limits, and as `others` say (WebGPU's default limits, bytes
/// on the GPU).
fn check(name: &str, [double_blocks, single_blocks]: [usize; 2], others: &[(bool, Option<u64>)]) {
    let (_, released) = RELEASED.iter().find(|(n, _)| *n == name).unwrap();
    let config = Config { double_blocks, single_blocks, ..released.clone() };
    let weights = flux::from_parts(&Weights::from_bytes(random_gguf(&config)).unwrap(), None).unwrap().1;
    let image = std::env::var("IMPASTO_TOKENS").ok().and_then(|n| n.parse().ok()).unwrap_or(64);
    let size = Size { batch: 1, text: 32, image };
    let condition = Condition {
        timestep: 0.5,
        guidance: config.guidance.then_some(3.5),
        pooled: config.pooled.map(|n| vec![0.25; n]),
    };
    let mut random = Random::new(7);
    let (img, txt) = (random.values(image * config.in_channels), random.values(32 * config.context));
    let ids = [text_ids(config.version, 32), image_ids(0, image / 8, 8)].concat();
    let table = rope::table(&config, &ids);
    let step = |default_limits: bool, budget: Option<u64>| {
        let gpu = block_on(Gpu::open(&Options { default_limits, untuned: true, ..Options::from_env() })).unwrap();
        let vectors = block_on(flux::vectors(&gpu, &weights, &config, std::slice::from_ref(&condition))).unwrap();
        let vectors = vectors.batch(&config, &[0]);
        let options = DenoiserOptions { budget, ..DenoiserOptions::default() };
        let plan = Denoiser::plan(&gpu, &weights, &config, size, &options).unwrap();
        let before = gpu.allocated_bytes();
        let start = Instant::now();
        let mut denoiser = Denoiser::new(&gpu, &weights, config.clone(), size, &options).unwrap();
        denoiser.begin(&txt, &table);
        let loaded = start.elapsed().as_secs_f64();
        let mut step = || {
            let start = Instant::now();
            (block_on(denoiser.step(&img, &vectors, Control::default())).unwrap(), start.elapsed().as_secs_f64())
        };
        // The first compiles; of what is streamed it packs what has to be packed.
        let ((velocity, first), (again, second)) = (step(), step());
        println!(
            "{name}, {} tokens, default limits {default_limits}, {} blocks streamed: {:.3} TFLOP, {} launches, {} MiB; loaded \
             in {loaded:.1} s, steps of {first:.1} and {second:.1} s",
            32 + image,
            plan.streamed_blocks(),
            plan.flops as f64 * 1e-12,
            plan.launches,
            plan.bytes() >> 20,
        );
        assert_eq!(gpu.allocated_bytes() - before, plan.bytes());
        assert!(velocity == again && velocity.iter().all(|v| v.is_finite()) && velocity.iter().any(|v| v.abs() > 1e-3));
        velocity
    };
    let expected = step(false, None);
    for &(default_limits, budget) in others {
        let found = step(default_limits, budget);
        let (nmse, max) = deviation(&found, &expected);
        assert!(nmse <= if default_limits { 1e-8 } else { 0.0 }, "{name}: nmse {nmse:.1e}, max {max:.1e}");
    }
}

#[test]
#[ignore = "minutes of CPU on a software adapter"]
fn a_double_and_a_single_block_of_flux1() {
    check("flux1-dev", [1, 1], &[(true, None)]);
}

#[test]
#[ignore = "minutes of CPU on a software adapter"]
fn a_double_and_a_single_block_of_klein() {
    check("flux2-klein-4b", [1, 1], &[(true, None)]);
}

#[test]
#[ignore = "minutes of CPU on a software adapter, and 8 GiB of memory"]
fn all_of_klein_within_a_gibibyte() {
    check("flux2-klein-4b", [5, 20], &[(false, Some(1 << 30))]);
}

/// The decoder of FLUX.1, 49.5 M parameters, at 256 x 256.
#[test]
#[ignore = "minutes of CPU on a software adapter"]
fn a_picture_of_256_from_its_latent() {
    let gpu = block_on(Gpu::open(&Options { untuned: true, ..Options::from_env() })).unwrap();
    let weights = Weights::from_bytes(random_autoencoder()).unwrap();
    let ae = AutoEncoder::load(&gpu, &weights, GROUPS).unwrap();
    let (z, size) = (Random::new(3).values(32 * 32 * 16), [1, 32, 32]);
    let plan = |budget| ae.plan(&gpu, Direction::Decode, size, budget).unwrap();
    let whole = plan(None);
    let mut pictures = Vec::new();
    for budget in [None, Some(whole.weights + (32 << 20))] {
        let start = Instant::now();
        let picture = block_on(ae.run(&gpu, Direction::Decode, &z, size, budget, Control::default())).unwrap();
        let (plan, seconds) = (plan(budget), start.elapsed().as_secs_f64());
        println!("{plan:?}: {seconds:.1} s");
        pictures.push(picture);
    }
    let (nmse, max) = deviation(&pictures[1], &pictures[0]);
    println!("bands: nmse {nmse:.1e}, max {max:.1e}");
    assert!(nmse <= 1e-9 && pictures[0].len() == 256 * 256 * 3, "nmse {nmse:.1e}, max {max:.1e}");
}

/// FLUX.1's autoencoder under the authors' names.
fn random_autoencoder() -> Vec<u8> {
    let mut list: Vec<(String, Vec<usize>)> = Vec::new();
    let mut conv = |name: &str, out: usize, cin: usize, side: usize| {
        list.push((format!("{name}.weight"), vec![out, cin, side, side]));
        list.push((format!("{name}.bias"), vec![out]));
    };
    let mut norms: Vec<(String, usize)> = Vec::new();
    let mut resnet = |conv: &mut dyn FnMut(&str, usize, usize, usize), at: &str, cin: usize, out: usize| {
        norms.extend([(format!("{at}.norm1"), cin), (format!("{at}.norm2"), out)]);
        conv(&format!("{at}.conv1"), out, cin, 3);
        conv(&format!("{at}.conv2"), out, out, 3);
        if cin != out {
            conv(&format!("{at}.nin_shortcut"), out, cin, 1);
        }
    };
    let channels = [128, 256, 512, 512];
    for part in ["encoder", "decoder"] {
        for block in ["block_1", "block_2"] {
            resnet(&mut conv, &format!("{part}.mid.{block}"), 512, 512);
        }
        for name in ["q", "k", "v", "proj_out"] {
            conv(&format!("{part}.mid.attn_1.{name}"), 512, 512, 1);
        }
    }
    let mut cin = 128;
    for (i, &out) in channels.iter().enumerate() {
        for block in 0..2 {
            resnet(&mut conv, &format!("encoder.down.{i}.block.{block}"), if block == 0 { cin } else { out }, out);
        }
        cin = out;
        if i < 3 {
            conv(&format!("encoder.down.{i}.downsample.conv"), out, out, 3);
        }
    }
    for (i, &out) in channels.iter().enumerate().rev() {
        for block in 0..3 {
            resnet(&mut conv, &format!("decoder.up.{i}.block.{block}"), if block == 0 { cin } else { out }, out);
        }
        cin = out;
        if i > 0 {
            conv(&format!("decoder.up.{i}.upsample.conv"), out, out, 3);
        }
    }
    conv("encoder.conv_in", 128, 3, 3);
    conv("encoder.conv_out", 32, 512, 3);
    conv("decoder.conv_in", 512, 16, 3);
    conv("decoder.conv_out", 3, 128, 3);
    norms.extend([("encoder.norm_out".into(), 512), ("decoder.norm_out".into(), 128)]);
    norms.extend(["encoder", "decoder"].map(|part| (format!("{part}.mid.attn_1.norm"), 512)));
    list.extend(norms.iter().flat_map(|(n, c)| ["weight", "bias"].map(|kind| (format!("{n}.{kind}"), vec![*c]))));

    let mut random = Random::new(11);
    let bytes: Vec<Vec<u8>> = list
        .iter()
        .map(|(name, shape)| {
            let fan: usize = shape[1..].iter().product();
            let norm = name.contains("norm") && name.ends_with("weight");
            let values = random.values(shape.iter().product()).into_iter();
            let value = |v: f32| if norm { 1.0 + 0.1 * v } else { v * (3.0 / fan as f32).sqrt() };
            values.flat_map(|v| value(v).to_le_bytes()).collect()
        })
        .collect();
    let views = list.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let tensor = safetensors::tensor::TensorView::new(safetensors::tensor::Dtype::F32, shape.clone(), bytes);
        (name, tensor.unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}
