//! diffusers' pipelines replayed: with the velocities of their transformers, the same latents after every step.

use super::super::Version;
use super::*;
use crate::image::testing::Fixture;

/// Pictures of 96 x 64 pixels.
const TOKENS: usize = 24;

struct Run {
    name: &'static str,
    curve: Curve,
    steps: usize,
    /// The scale of true CFG, whose second call has the negative prompt.
    cfg: Option<f32>,
    strength: f64,
}

const fn run(name: &'static str, curve: Curve, steps: usize) -> Run {
    Run { name, curve, steps, cfg: None, strength: 1.0 }
}

/// `tests/it/generate.rs` plays whole runs, of more models.
const RUNS: &[Run] = &[
    run("flux1_dev", Curve::Flux1, 4),
    Run { cfg: Some(2.5), ..run("flux1_dev_truecfg", Curve::Flux1, 3) },
    Run { strength: 0.6, ..run("flux1_img2img", Curve::Flux1, 5) },
    run("flux1_kontext", Curve::Flux1, 3),
    run("flux2_klein", Curve::Flux2, 4),
    run("flux2_klein_edit", Curve::Flux2, 2),
];

fn assert_near(ours: &[f32], reference: &[f32], what: &str) {
    let absmax = reference.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    let worst = ours.iter().zip(reference).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs()));
    // The reference is of a run in double precision.
    assert!(ours.len() == reference.len() && worst <= 1e-6 * absmax, "{what}: {worst:e} of {absmax}");
}

#[test]
fn pipelines_are_replayed() {
    let all = Fixture::open("sampling/pipelines.safetensors");
    for Run { name, curve, steps, cfg, strength } in RUNS {
        let get = |key: &str| all.f32(&format!("{name}.{key}")).1;
        let version = if name.starts_with("flux1") { Version::Flux1 } else { Version::Flux2 };
        let latents = Latents::new(version, Size::exact(96, 64).unwrap());
        let whole = Schedule::new(*curve, Shift::Bfl, TOKENS, *steps).unwrap();
        assert_eq!(whole.sigmas(), get("sigmas"), "{name}");
        let schedule = whole.at_strength(*strength).unwrap();

        let mut x = match (*name, version) {
            ("flux1_img2img", _) => get("call0.hidden_states"),
            (_, Version::Flux1) => get("in.latents"),
            (_, Version::Flux2) => latents.tokens_of_noise(&get("in.latents")).unwrap(),
        };
        assert_near(&x, &get("call0.hidden_states"), name);
        let mut call = 0;
        let mut velocity = |step| {
            let timestep = get(&format!("call{call}.timestep"))[0];
            assert!((schedule.sigma(step) - timestep).abs() < 1e-7, "{name}: {timestep}");
            call += 1;
            get(&format!("call{}.noise_pred", call - 1))
        };
        for step in 0..schedule.steps() {
            let mut v = velocity(step);
            if let Some(scale) = cfg {
                true_cfg(&mut v, &velocity(step), *scale).unwrap();
            }
            euler(&mut x, &v, schedule.delta(step)).unwrap();
            assert_near(&x, &get(&format!("step{step}.latents")), &format!("{name}, step {step}"));
        }
        assert!(!all.names().contains(&format!("{name}.call{call}.timestep")));
    }
}

#[test]
fn ids_are_those_of_the_pipelines() {
    let all = Fixture::open("sampling/pipelines.safetensors");
    for Run { name, .. } in RUNS {
        let (version, axes) = if name.starts_with("flux1") { (Version::Flux1, 3) } else { (Version::Flux2, 4) };
        let references = match *name {
            "flux1_kontext" => image_ids(1, 4, 6),
            "flux2_klein_edit" => [image_ids(10, 4, 6), image_ids(20, 4, 4)].concat(),
            _ => vec![],
        };
        let flat =
            |ids: Vec<[u32; 4]>| ids.iter().flat_map(|id| id[..axes].to_vec()).map(|v| v as f32).collect::<Vec<_>>();
        let image = flat([image_ids(0, 4, 6), references].concat());
        assert_eq!(all.f32(&format!("{name}.call0.img_ids")).1, image, "{name}");
        let text = all.f32(&format!("{name}.call0.txt_ids")).1;
        assert_eq!(text, flat(text_ids(version, text.len() / axes)), "{name}");
    }
}

#[test]
fn the_noise_of_image_to_image_comes_in_the_pipelines_order() {
    let all = Fixture::open("sampling/pipelines.safetensors");
    let mut noise = Profile::Diffusers.noise(Version::Flux1, 1234, 1);
    let count = TOKENS * 64;
    assert_eq!(noise.posterior(count).unwrap(), all.f32("flux1_img2img.rng.0").1);
    let drawn = noise.latents(count);
    assert_eq!(drawn, all.f32("flux1_img2img.rng.1").1);

    // What was mixed with it, and what is left when it is taken out, has no trace of it.
    let latents = Latents::new(Version::Flux1, Size::exact(96, 64).unwrap());
    let sigma = Schedule::new(Curve::Flux1, Shift::Bfl, TOKENS, 5).unwrap().at_strength(0.6).unwrap().sigma(0);
    let packed = latents.tokens_of_noise(&drawn).unwrap();
    let mut start = all.f32("flux1_img2img.call0.hidden_states").1;
    start.iter_mut().zip(&packed).for_each(|(x, n)| *x -= sigma * n);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let correlation = dot(&start, &packed) / (dot(&start, &start) * dot(&packed, &packed)).sqrt();
    assert!(correlation.abs() < 0.1, "{correlation}");
}
