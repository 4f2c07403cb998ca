//! Transformers within a budget: blocks streamed through two slots, to the bit as if they had stayed.

use crate::{common::gpu, flux::Mini};
use impasto::{
    ErrorKind,
    gpu::{Checks, Gpu, Options},
    graph::Control,
    models::flux::{self, Denoiser, DenoiserOptions, DenoiserPlan, rope},
    nn::Storage,
};
use pollster::block_on;

/// A device of its own, whose bytes nobody else moves.
fn alone(max_memory: Option<u64>) -> Gpu {
    block_on(Gpu::open(&Options { untuned: true, max_memory, ..Options::from_env() })).unwrap()
}

impl Mini {
    fn plan(&self, options: &DenoiserOptions) -> DenoiserPlan {
        Denoiser::plan(gpu(Checks::Trusted), &self.weights, &self.config, self.size(), options).unwrap()
    }

    fn denoiser(&self, gpu: &Gpu, options: &DenoiserOptions) -> impasto::Result<Denoiser> {
        Denoiser::new(gpu, &self.weights, self.config.clone(), self.size(), options)
    }

    /// The velocities of two steps, and the bytes of the denoiser.
    fn steps(&self, gpu: &Gpu, options: &DenoiserOptions) -> ([Vec<f32>; 2], u64) {
        let shared = crate::common::gpu(Checks::Trusted);
        let vectors = block_on(flux::vectors(shared, &self.weights, &self.config, &self.conditions())).unwrap();
        let vectors = vectors.batch(&self.config, &[0, 1]);
        let mut denoiser = self.denoiser(gpu, options).unwrap();
        denoiser.begin(&self.get("in.encoder_hidden_states"), &rope::table(&self.config, &self.positions()));
        let mut img = self.get("in.hidden_states");
        // The second begins with the slots as the first left them.
        let velocities = [0; 2].map(|_| {
            img.iter_mut().for_each(|v| *v *= 0.5);
            block_on(denoiser.step(&img, &vectors, Control::default())).unwrap()
        });
        (velocities, denoiser.bytes())
    }
}

/// A step at its whole size, at its least, and at sizes between them.
fn check(name: &'static str, storages: &[Storage]) {
    let mini = Mini::open(name);
    // One device, and plans from the smallest to the largest: each has its own peak.
    let (lone, mut peak) = (alone(None), 0);
    for &storage in storages {
        let whole = DenoiserOptions { storage, ..DenoiserOptions::default() };
        let within = |budget| DenoiserOptions { budget: Some(budget), ..whole.clone() };
        let (expected, all) = mini.steps(gpu(Checks::Trusted), &whole);
        let least = mini.plan(&within(0)).bytes();
        assert!(least < all, "{name} {storage:?}: {least} of {all}");
        let mut streamed = Vec::new();
        for budget in [least, (least + all) / 2, all - 1, all] {
            let plan = mini.plan(&within(budget));
            let (found, bytes) = mini.steps(&lone, &within(budget));
            peak = bytes.max(peak);
            assert!(found == expected, "{name} {storage:?}: other bits within {budget} bytes");
            assert!(bytes == plan.bytes() && bytes <= budget, "{name} {storage:?}: {bytes} of {budget}, {plan:?}");
            assert_eq!(lone.peak_bytes(), peak, "{name} {storage:?} within {budget} bytes");
            assert_eq!(lone.allocated_bytes(), 0, "{name} {storage:?}");
            streamed.push(plan.streamed_blocks());
        }
        assert_eq!(streamed[0], mini.config.double_blocks + mini.config.single_blocks, "{name} {storage:?}");
        assert!(streamed[2] > 0 && streamed[3] == 0, "{name} {storage:?}: {streamed:?}");
        let e = mini.denoiser(gpu(Checks::Trusted), &within(least - 1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory);
    }
}

#[test]
fn flux1_streamed_is_flux1() {
    check("flux1_dev", &[Storage::Q4, Storage::Q8, Storage::F16, Storage::F32]);
}

/// The checkpoint in diffusers' layout: matrices are gathered from several tensors.
#[test]
fn flux2_streamed_is_flux2() {
    check("flux2_klein", &[Storage::Q4, Storage::Q8, Storage::F16, Storage::AsStored]);
}

#[test]
fn out_of_memory_streams() {
    let mini = Mini::open("flux1_dev");
    let options = DenoiserOptions::default();
    let (expected, whole) = mini.steps(gpu(Checks::Trusted), &options);
    let least = mini.plan(&DenoiserOptions { budget: Some(0), ..options.clone() }).bytes();
    let (found, bytes) = mini.steps(&alone(Some(whole - 100)), &options);
    assert!(found == expected && bytes < whole);
    // Not even the slots fit.
    let e = mini.denoiser(&alone(Some(least - 100)), &options).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutOfMemory);
}
