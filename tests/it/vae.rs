//! Autoencoders within a budget: bands of rows against the whole picture.

use crate::common::{fixture, gpu};
use impasto::{
    ErrorKind,
    gpu::{Checks, Gpu, Options},
    graph::Control,
    kernels::Random,
    models::flux::autoencoder::{AutoEncoder, Direction, GROUPS},
    weights::Weights,
};
use pollster::block_on;

/// Peak signal to noise of values from -1 to 1, in dB.
fn psnr(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    let error = found.iter().zip(expected).map(square).sum::<f64>() / found.len() as f64;
    10.0 * (4.0 / error.max(1e-30)).log10()
}

fn check(name: &str) {
    let weights = Weights::open(&fixture(name).join("model.safetensors")).unwrap();
    let (gpu, mut random) = (gpu(Checks::Trusted), Random::new(5));
    let ae = AutoEncoder::load(gpu, &weights, GROUPS).unwrap();
    // Sides that no band divides, and two pictures.
    for (way, size, channels) in
        [(Direction::Decode, [2, 22, 9], ae.latent_channels()), (Direction::Encode, [2, 88, 72], 3)]
    {
        let x = random.values(size.iter().product::<usize>() * channels);
        let run =
            |gpu: &Gpu, ae: &AutoEncoder, budget| block_on(ae.run(gpu, way, &x, size, budget, Control::default()));
        let plan = |budget| ae.plan(gpu, way, size, budget).unwrap();
        let whole = plan(None);
        assert!(!whole.by_bands && plan(Some(whole.bytes())) == whole);
        // A declared one plans the same and takes nothing; a run takes what was planned.
        let lone = alone(None);
        let declared = AutoEncoder::declare(&lone, &weights, GROUPS).unwrap();
        assert_eq!(declared.plan(&lone, way, size, None).unwrap(), whole);
        assert_eq!(lone.peak_bytes(), 0, "{name} {way:?}");
        let expected = run(&lone, &AutoEncoder::load(&lone, &weights, GROUPS).unwrap(), None).unwrap();
        assert_eq!(lone.peak_bytes(), whole.bytes(), "{name} {way:?}");
        for part in [2, 12] {
            let budget = whole.weights + whole.working / part;
            assert!(plan(Some(budget)).by_bands);
            let lone = alone(None);
            let ae = AutoEncoder::load(&lone, &weights, GROUPS).unwrap();
            assert_eq!(lone.allocated_bytes(), whole.weights, "{name} {way:?}");
            let found = run(&lone, &ae, Some(budget)).unwrap();
            let db = psnr(&found, &expected);
            println!("{name} {way:?} in 1/{part} of {}: {db:.0} dB, peak {}", whole.working, lone.peak_bytes());
            assert!(db >= 90.0, "{name} {way:?} in 1/{part}: {db:.0} dB");
            assert!(lone.peak_bytes() <= budget, "{name} {way:?}: {} of {budget}", lone.peak_bytes());
        }
        // The smallest bands, and no more.
        let least = plan(Some(0)).bytes();
        let lone = alone(Some(least));
        let ae = AutoEncoder::load(&lone, &weights, GROUPS).unwrap();
        assert!(psnr(&run(&lone, &ae, Some(least)).unwrap(), &expected) >= 90.0);
        assert_eq!(lone.peak_bytes(), least, "{name} {way:?}");
        let e = run(&lone, &ae, Some(least - 1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory);

        // By itself, where the device has not enough.
        let small = alone(Some(whole.weights + whole.working / 2));
        let ae = AutoEncoder::load(&small, &weights, GROUPS).unwrap();
        assert!(psnr(&run(&small, &ae, None).unwrap(), &expected) >= 90.0);
    }
}

fn alone(max_memory: Option<u64>) -> Gpu {
    block_on(Gpu::open(&Options { untuned: true, max_memory, ..Options::from_env() })).unwrap()
}

#[test]
fn flux1_bands_have_no_seams() {
    check("flux1_vae_mini");
}

#[test]
fn flux2_bands_have_no_seams() {
    check("flux2_vae_mini");
}
