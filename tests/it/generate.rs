//! Pictures from embeddings: the miniatures of `tests/fixtures/flux*_transformer_mini` as pipelines run them.

use crate::common::{fixture, gpu};
use impasto::{
    gpu::Checks,
    graph::Control,
    models::flux::{
        self, Condition, Config, Denoiser, DenoiserOptions, Size, rope,
        sampling::{image_ids, text_ids},
    },
    nn::Storage,
    weights::Weights,
};
use pollster::block_on;

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
