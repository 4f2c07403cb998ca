//! `impasto generate`.

use super::Place;
use impasto::{
    image::{Picture, metadata::Metadata},
    kernels::deviation,
    models::flux::sampling::Recipe,
    weights::Weights,
};
use safetensors::{Dtype, tensor::TensorView};
use std::{fs, path::Path, time::Duration};

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn save(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let views = tensors.iter().map(|(name, shape, values)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with a pipeline as diffusers saves one, `model`, and the inputs of a fixture, `embeds.safetensors` and
/// `init.safetensors`; and embeddings for the embedded miniature, `mini.safetensors`.
pub(super) fn place(pipe: &str, transformer: &str) -> Place {
    let place = Place::new();
    let copy = |from: String, to: &str| {
        fs::create_dir_all(place.at(to)).unwrap();
        for file in ["model.safetensors", "config.json"] {
            let from = Path::new(&from).join(file);
            if from.exists() {
                fs::copy(from, place.at(to).join(file)).unwrap();
            }
        }
    };
    copy(fixture(&format!("{transformer}_transformer_mini")), "model/transformer");
    copy(fixture(&format!("{}_vae_mini", &transformer[..5])), "model/vae");
    fs::write(place.at("model/model_index.json"), "{}").unwrap();

    let io = Weights::open(format!("{}/io.safetensors", fixture(&format!("{pipe}_pipe"))).as_ref()).unwrap();
    let tensor = |name: &'static str| {
        let from = format!("in.{name}");
        Some((name, io.shape(&from)?, io.tensor(&from).unwrap().to_f32().unwrap()))
    };
    let embeds = ["prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds"];
    save(&place.at("embeds.safetensors"), &embeds.into_iter().filter_map(tensor).collect::<Vec<_>>());
    save(&place.at("init.safetensors"), &[tensor("latents").unwrap()]);
    let waves = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let mini = [("prompt_embeds", vec![1, 20, 128], waves(20 * 128)), ("pooled_prompt_embeds", vec![1, 64], waves(64))];
    save(&place.at("mini.safetensors"), &mini);
    place
}

#[test]
fn a_folder_of_diffusers_gives_the_picture_of_diffusers() {
    for (pipe, transformer, flags) in [
        ("flux1_dev_truecfg", "flux1_dev", "--steps 3 --true-cfg 2.5 --guidance 3.5"),
        ("flux2_klein", "flux2_klein", ""),
    ] {
        let place = place(pipe, transformer);
        let line = format!(
            "generate --model model --embeds embeds.safetensors --init-latents init.safetensors --width 96 --height 64 \
             {flags} -o fox.png --save-tensors all.safetensors"
        );
        let json = place.json(&line);
        let io = Weights::open(format!("{}/io.safetensors", fixture(&format!("{pipe}_pipe"))).as_ref()).unwrap();
        let all = Weights::open(&place.at("all.safetensors")).unwrap();
        let near = |ours: &str, theirs: &str| {
            let (found, expected) = (all.tensor(ours).unwrap(), io.tensor(theirs).unwrap());
            let (nmse, max) = deviation(&found.to_f32().unwrap(), &expected.to_f32().unwrap());
            println!("{pipe} {ours}: nmse {nmse:.1e}, max {max:.1e}");
            assert!(nmse <= 1e-8, "{pipe} {ours}: nmse {nmse:.1e}, max {max:.1e}");
            found.shape() == expected.shape()
        };
        let steps = json["steps"].as_u64().unwrap() as usize;
        for step in 0..steps {
            assert!(near(&format!("latents_step_{step}"), &format!("step{step}.latents")));
        }
        assert!(near("latents", &format!("step{}.latents", steps - 1)) && near("image", "image"));
        assert!(near("prompt_embeds", "in.prompt_embeds"));
        assert!(transformer == "flux2_klein" || near("pooled_prompt_embeds", "in.pooled_prompt_embeds"));
        assert!(all.has("latents_init") && !all.has(&format!("latents_step_{steps}")));

        assert_eq!(json["files"], serde_json::json!(["fox.png"]));
        assert_eq!(
            (json["width"].as_u64(), json["height"].as_u64(), json["seed"].as_u64()),
            (Some(96), Some(64), Some(0))
        );
        for stage in ["text", "load", "step", "vae"] {
            assert!(json["timings_ms"][stage].as_f64().unwrap() >= 0.0, "{stage}");
        }
        for bytes in ["planned", "peak"] {
            assert!(json["gpu_bytes"][bytes].as_u64().unwrap() > 1_000_000, "{json}");
        }
        let picture = Picture::load(place.at("fox.png")).unwrap();
        let image = all.tensor("image").unwrap().to_f32().unwrap();
        let pixels = image.len() / 3;
        let expected = (0..image.len()).map(|i| (image[i % 3 * pixels + i / 3] * 255.0).round() as u8);
        assert!(picture.rgb().iter().copied().eq(expected));
    }
}

/// The embedded miniature, with the embeddings of [`place`].
const MINI: &str = "generate fox --model mini --embeds mini.safetensors --steps 3 --seed 7";

#[test]
fn the_same_command_makes_the_same_file() {
    let place = place("flux1_dev", "flux1_dev");
    let line = format!("{MINI} -n 2 -o {{seed}}.png --preview small.png");
    place.ok(&line);
    let files = ["7.0.png", "7.1.png"];
    let first = files.map(|name| fs::read(place.at(name)).unwrap());
    assert_ne!(first[0], first[1]);
    for name in files {
        fs::remove_file(place.at(name)).unwrap();
    }
    place.ok(&line);
    assert_eq!(files.map(|name| fs::read(place.at(name)).unwrap()), first);

    let small = Picture::load(place.at("small.png")).unwrap();
    assert_eq!((small.width(), small.height()), (16, 16));
    let metadata = Metadata::read(&first[1]).unwrap().unwrap();
    let recipe = Recipe::from_json(&metadata.json).unwrap();
    assert_eq!((recipe.model.as_str(), recipe.prompt.as_str()), ("mini", "fox"));
    assert_eq!((recipe.seed, recipe.images, recipe.index, recipe.steps), (7, 2, 1, 3));
    assert_eq!((recipe.width, recipe.height, recipe.guidance), (128, 128, Some(3.5)));
    let digest = impasto::models::flux::mini().unwrap().transformer.digest().unwrap();
    assert_eq!((recipe.weights, recipe.model_hash), (Some(digest), None));
    assert!(metadata.parameters.starts_with("fox\nSteps: 3, "), "{}", metadata.parameters);

    // Other seeds, other pictures; a picture to begin with, another one.
    let again = |flags: &str| {
        place.ok(&format!("{MINI} {flags} -o again.webp"));
        Picture::load(place.at("again.webp")).unwrap()
    };
    let zero = Picture::load(place.at("7.0.png")).unwrap();
    assert_eq!(again("-n 1"), zero);
    let other = again("--image 7.1.png --strength 0.9");
    assert!(other != zero && (other.width(), other.height()) == (128, 128));
    assert_ne!(again("--schedule comfy"), zero);
    assert_ne!(again("--noise bfl"), zero);
}

/// A prompt gives the picture of its embedding, whether that is encoded, kept from before, or given.
#[test]
fn a_prompt_is_encoded_once() {
    let place = Place::new();
    let run = |prompt: &str, more: &str| {
        let all = ["generate", prompt, "--model", "mini", "--steps", "1", "--out", "out.png"];
        let run = place.run(&all.into_iter().chain(more.split_whitespace()).collect::<Vec<_>>());
        assert_eq!(run.code, 0, "{prompt:.80}: {}", run.stderr);
        Picture::load(place.at("out.png")).unwrap()
    };
    let entries = || fs::read_dir(place.at("tuning/embeddings")).unwrap().count();
    let picture = run("a large green cross at the top", "--save-tensors tensors.safetensors");
    assert_eq!(entries(), 1);
    assert_eq!(run("a large green cross at the top", ""), picture);
    assert_eq!(run("a large green cross at the top", "--embeds tensors.safetensors"), picture);
    assert_eq!(entries(), 1);
    assert_ne!(run("", ""), picture);
    let long = run(&"a green cross. ".repeat(7000), "--true-cfg 2 --negative red");
    assert!(entries() == 4 && long != picture);

    let args = ["generate", "a cross", "--model", "mini", "--negative", "red", "--out", "none.png"];
    let refused = place.run(&args);
    assert!(refused.code == 2 && refused.stderr.contains("--true-cfg"), "{}", refused.stderr);
    assert!(!place.at("none.png").exists());
}

/// Prompts and seeds give the pictures that diffusers makes of them: tokenizers, text encoders, noise, steps and autoencoder in
/// one. `tests/fixtures/flux_mini` has those of its `FluxPipeline` in f32.
#[test]
fn a_prompt_gives_the_picture_of_diffusers() {
    let place = Place::new();
    for (seed, prompt) in [
        ("1000", "a small yellow triangle in the center on a white background"),
        ("1001", "a small green square on the right on a yellow background"),
        ("1002", "a large green cross at the top on a yellow background"),
    ] {
        let run = place.run(&["generate", prompt, "--model", "mini", "--steps", "4", "--seed", seed, "-o", "out.png"]);
        assert_eq!(run.code, 0, "{prompt}: {}", run.stderr);
        let found = Picture::load(place.at("out.png")).unwrap();
        let expected = Picture::load(fixture(&format!("flux_mini/{seed}.png"))).unwrap();
        let off: Vec<f64> =
            found.rgb().iter().zip(expected.rgb()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).collect();
        let psnr = 10.0 * (255f64.powi(2) * off.len() as f64 / off.iter().sum::<f64>()).log10();
        println!("{prompt}: {} of {} values differ, {psnr:.1} dB", off.iter().filter(|o| **o > 0.0).count(), off.len());
        assert!(psnr >= 50.0 && found.rgb().len() == expected.rgb().len(), "{prompt}: {psnr:.1} dB");
    }
}

#[test]
fn a_dry_run_says_what_it_would_take() {
    let place = place("flux1_dev", "flux1_dev");
    let before = place.files();
    let json = place.json(&format!("{MINI} --dry-run"));
    let plan = &json["plan"];
    let figure = |part: &str, name: &str| plan[part][name].as_u64().unwrap();
    assert!(figure("transformer", "weights") > 4_000_000 && figure("decode", "flops") > 1_000_000, "{json}");
    assert_eq!((json["width"].as_u64(), json["text_tokens"].as_u64()), (Some(128), Some(20)));
    assert_eq!(plan["texts"], serde_json::json!(["given"]));
    let json = place.json("generate fox --model mini --dry-run --true-cfg 2");
    assert_eq!(json["plan"]["texts"].as_array().unwrap().len(), 2);
    let encoders = json["plan"]["texts"][0]["encoded"].as_array().unwrap();
    assert_eq!(encoders.iter().map(|e| e["name"].as_str().unwrap()).collect::<Vec<_>>(), ["CLIP", "T5"]);
    let text = place.ok(&format!("{MINI} --dry-run --quantize q8")).stdout;
    assert!(text.contains("transformer: ") && text.contains("FLOP in all"), "{text}");
    let small = place.json(&format!("{MINI} --dry-run --quantize q4"));
    assert!(small["plan"]["transformer"]["weights"].as_u64().unwrap() < figure("transformer", "weights") / 2);
    // Parts are called by their files.
    let parts = "--transformer model/transformer/model.safetensors --vae model/vae --embeds embeds.safetensors";
    assert_eq!(place.json(&format!("generate {parts} --dry-run"))["model"], "model.safetensors");
    // Beyond what one binding holds.
    let run = place.run(&format!("{MINI} --dry-run --width 8192 --height 8192").split(' ').collect::<Vec<_>>());
    assert!(run.code == 1 && run.stderr.contains("a picture of 8192x8192 is too large"), "{}", run.stderr);
    assert_eq!(place.files(), before);
}

/// Asked to stop in the middle of its steps, it does, and leaves the preview of the last one, whole, and nothing else.
#[cfg(unix)]
#[test]
fn ctrl_c_in_a_step_leaves_no_picture() {
    use std::{process::Command, process::Stdio, time::Instant};
    let stopped = || {
        let place = Place::new();
        let line =
            "generate fox --model mini --steps 1000 --out out.png --save-tensors all.safetensors --preview small.png";
        let mut command = place.command(&line.split(' ').collect::<Vec<_>>());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !place.at("small.png").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before its first step");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let start = Instant::now();
        let run = super::Run::of(child.wait_with_output().unwrap());
        let taken = start.elapsed();
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.trim()), (130, "", "error: interrupted"));
        assert_eq!(place.files(), ["small.png", "tuning"]);
        assert_eq!(Picture::load(place.at("small.png")).unwrap().width(), 16);
        taken
    };
    // Other tests use the same cores: one of three tries has to show what it takes.
    let times = [(); 3].map(|()| stopped());
    assert!(times.iter().any(|t| *t < Duration::from_secs(1)), "{times:?}");
}
