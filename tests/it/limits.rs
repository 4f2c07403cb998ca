//! What happens at the edges of a device: WebGPU's default limits, tensors cut in bands, budgets, cancellation, loss.

use crate::common::{fixture, gpu};
use impasto::{
    ErrorKind,
    gpu::{Checks, Gpu, Options},
    graph::Control,
    image::Picture,
    kernels::deviation,
    models::sam2::{self, Ask, Predictor, Prompt},
};
use pollster::block_on;
use std::sync::atomic::AtomicBool;

fn open(options: Options) -> Gpu {
    block_on(Gpu::open(&options)).unwrap()
}

fn predictor(gpu: &Gpu, options: sam2::Options) -> impasto::Result<Predictor> {
    let (config, weights) = sam2::mini()?;
    block_on(Predictor::new(gpu, config, &weights, options))
}

fn picture() -> Picture {
    Picture::load(fixture("sam2_heldout/2.png")).unwrap()
}

/// Logits of one click.
fn click(p: &mut Predictor) -> impasto::Result<Vec<f32>> {
    block_on(p.set_image(&picture(), Control::default()))?;
    let prediction = block_on(p.predict_one(&Prompt::point(149.0, 102.0), &Ask::default(), Control::default()))?;
    Ok(prediction.candidates.into_iter().flat_map(|c| c.low_res).collect())
}

#[test]
fn default_limits_and_small_bindings_give_the_same_masks() {
    let best = click(&mut predictor(gpu(Checks::Trusted), sam2::Options::default()).unwrap()).unwrap();
    let browser = open(Options { default_limits: true, ..Options::from_env() });
    assert_eq!(browser.target().limits, impasto::kernel::Limits::default());
    let found = click(&mut predictor(&browser, sam2::Options::default()).unwrap()).unwrap();
    assert!(deviation(&found, &best).0 <= 1e-9);

    // Blocks in bands of windows, MLPs in runs of tokens.
    let small = open(Options { max_binding: Some(800 << 10), ..Options::from_env() });
    let mut p = predictor(&small, sam2::Options::default()).unwrap();
    let found = click(&mut p).unwrap();
    assert!(deviation(&found, &best).0 <= 1e-9);
    let whole = predictor(gpu(Checks::Trusted), sam2::Options::default())
        .unwrap()
        .encoder()
        .unwrap()
        .0
        .graph()
        .dispatches()
        .len();
    assert!(p.encoder().unwrap().0.graph().dispatches().len() > whole, "nothing was cut");
}

#[test]
fn other_image_sizes() {
    for size in [128, 320, 512] {
        let options = sam2::Options { image_size: Some(size), ..sam2::Options::default() };
        let logits = click(&mut predictor(gpu(Checks::Trusted), options).unwrap()).unwrap();
        assert_eq!(logits.len(), 3 * (size / 4) * (size / 4));
        // The clicked object covers a few percent of the picture at any size.
        let share = logits.iter().filter(|l| **l > 0.0).count() as f64 / logits.len() as f64;
        assert!((0.005..0.9).contains(&share), "side {size}: {share}");
    }
    for size in [0, 32, 100, 1000] {
        let options = sam2::Options { image_size: Some(size), ..sam2::Options::default() };
        let error = predictor(gpu(Checks::Trusted), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument, "side {size}: {error}");
    }
}

#[test]
fn a_plan_over_budget_is_refused_before_it_allocates() {
    let gpu = open(Options::from_env());
    let mut p = predictor(&gpu, sam2::Options { max_bytes: Some(1 << 20), ..sam2::Options::default() }).unwrap();
    let before = gpu.allocated_bytes();
    let error = click(&mut p).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert_eq!(gpu.allocated_bytes(), before);
}

#[test]
fn cancellation_is_an_error_of_its_kind_and_leaves_the_predictor_usable() {
    let mut p = predictor(gpu(Checks::Trusted), sam2::Options::default()).unwrap();
    let cancel = AtomicBool::new(true);
    let control = Control { cancel: Some(&cancel), ..Control::default() };
    let error = block_on(p.set_image(&picture(), control)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    // No picture is encoded now, and a prompt says so.
    let error = block_on(p.predict_one(&Prompt::point(1.0, 1.0), &Ask::default(), Control::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    assert!(click(&mut p).is_ok());
}

#[test]
fn a_lost_device_is_an_error_of_its_kind() {
    let gpu = open(Options::from_env());
    let mut p = predictor(&gpu, sam2::Options::default()).unwrap();
    let before = click(&mut p).unwrap();
    gpu.destroy();
    for _ in 0..2 {
        assert_eq!(click(&mut p).unwrap_err().kind(), ErrorKind::DeviceLost);
    }
    let again = open(Options::from_env());
    assert_eq!(click(&mut predictor(&again, sam2::Options::default()).unwrap()).unwrap(), before);
}

#[test]
fn memory_is_close_to_what_must_be_alive() {
    let mut p = predictor(gpu(Checks::Trusted), sam2::Options::default()).unwrap();
    let plan = p.encoder().unwrap().0.plan();
    let (slots, live) = (plan.bytes() as f64, plan.live_bytes() as f64);
    assert!(slots <= 1.3 * live, "slots of {slots} bytes for {live} alive at once");
}
