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

fn save(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let views = tensors.iter().map(|(name, shape, values)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with a pipeline as diffusers saves one, `model`, and the inputs of a fixture, `embeds.safetensors` and
/// `init.safetensors`; and embeddings for the embedded miniature, `mini.safetensors`.
fn place(pipe: &str, transformer: &str) -> Place {
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

#[test]
fn a_dry_run_says_what_it_would_take() {
    let place = place("flux1_dev", "flux1_dev");
    let before = place.files();
    let json = place.json(&format!("{MINI} --dry-run"));
    let plan = &json["plan"];
    let figure = |part: &str, name: &str| plan[part][name].as_u64().unwrap();
    assert!(figure("transformer", "weights") > 4_000_000 && figure("decode", "flops") > 1_000_000, "{json}");
    assert_eq!((json["width"].as_u64(), json["text_tokens"].as_u64()), (Some(128), Some(20)));
    let text = place.ok(&format!("{MINI} --dry-run --quantize q8")).stdout;
    assert!(text.contains("transformer: ") && text.contains("FLOP in all"), "{text}");
    let small = place.json(&format!("{MINI} --dry-run --quantize q4"));
    assert!(small["plan"]["transformer"]["weights"].as_u64().unwrap() < figure("transformer", "weights") / 2);
    assert_eq!(place.files(), before);
}

#[test]
fn what_cannot_work_is_refused() {
    let place = place("flux1_dev", "flux1_dev");
    fs::write(place.at("text.png"), "no picture").unwrap();
    fs::copy(super::sample(), place.at("good.png")).unwrap();
    fs::write(place.at("text.safetensors"), "no tensors").unwrap();
    save(&place.at("empty.safetensors"), &[("other", vec![1], vec![0.0])]);
    let nan = ("prompt_embeds", vec![1, 20, 128], vec![f32::NAN; 20 * 128]);
    save(&place.at("nan.safetensors"), &[nan, ("pooled_prompt_embeds", vec![1, 64], vec![0.5; 64])]);
    save(&place.at("two.safetensors"), &[("latents", vec![2, 64, 64], vec![0.5; 2 * 64 * 64])]);
    save(&place.at("inf.safetensors"), &[("latents", vec![1, 64, 64], vec![f32::INFINITY; 64 * 64])]);
    // To the query of the first block: of FLUX.1's own size, and one that breaks it.
    let lora = |file: &str, width: usize, value: f32| {
        let name = |half| format!("transformer.transformer_blocks.0.attn.to_q.lora_{half}.weight");
        let half = |shape: [usize; 2]| (shape.to_vec(), vec![value; 4 * width]);
        let ((a, down), (b, up)) = (half([4, width]), half([width, 4]));
        save(&place.at(file), &[(&name("A"), a, down), (&name("B"), b, up)]);
    };
    lora("wide.safetensors", 3072, 0.01);
    lora("broken.safetensors", 128, f32::NAN);
    fs::create_dir_all(place.at("half/transformer")).unwrap();
    fs::write(place.at("half/model_index.json"), "{}").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("/dev/full", place.at("full.png")).unwrap();
    let defaults = [(" --model", "mini"), (" --embeds", "mini.safetensors"), (" --steps", "1"), (" --out", "out.png")];
    let cases = [
        ("--steps 0", 1, "0 steps"),
        ("--steps 1001", 1, "1001 steps"),
        ("--width 100", 1, "multiples of 16"),
        ("--height 9000", 1, "16 to 8192"),
        ("--width 0", 1, "16 to 8192"),
        ("--max-sequence-length 0", 1, "1 to 512 tokens"),
        ("--max-sequence-length 100000000", 1, "1 to 512 tokens"),
        ("--guidance -1", 1, "guidance of -1"),
        ("--guidance inf", 1, "guidance"),
        ("-n 0", 2, "at least one"),
        ("--strength 0.5", 2, "--image"),
        ("--image good.png --strength 1.5", 1, "strength of 1.5"),
        ("--image text.png", 1, "not a PNG"),
        ("--image none.png", 1, "none.png"),
        ("--true-cfg 3", 1, "negative prompt"),
        ("--noise a1111", 2, "diffusers-bf16"),
        ("--schedule karras", 2, "bfl or comfy"),
        ("--out out.gif", 1, "cannot write .gif"),
        ("--out nowhere/out.png", 1, "there is no folder nowhere"),
        ("--out out.png --format jpeg", 1, "--format jpg"),
        ("--out mini.safetensors", 1, "cannot write .safetensors"),
        ("--out out.png --preview out.png", 1, "two outputs"),
        ("--preview out.gif", 1, "cannot write .gif"),
        ("--preview terminal", 2, "not a terminal"),
        ("--save-tensors mini.safetensors", 1, "is an input"),
        ("--embeds none.safetensors", 1, "none.safetensors"),
        ("--embeds text.safetensors", 1, "text.safetensors"),
        ("--embeds empty.safetensors", 1, "prompt_embeds"),
        ("--embeds embeds.safetensors", 1, "this transformer takes 128"),
        ("--init-latents init.safetensors", 1, "takes (N, 64, 64)"),
        ("--init-latents empty.safetensors", 1, "latents"),
        ("--init-latents two.safetensors", 1, "8192 elements for a picture"),
        ("--init-latents inf.safetensors", 1, "4096 of 4096 values are NaN or infinite"),
        ("--embeds nan.safetensors", 1, "2560 values of its embedding are NaN or infinite"),
        ("--lora empty.safetensors", 1, "none of its 1 keys"),
        ("--lora none.safetensors:0.5", 1, "none.safetensors"),
        ("--lora wide.safetensors", 1, "a LoRA of another model"),
        ("--lora broken.safetensors", 1, "step 1: values are NaN or infinite from double_blocks.0 on"),
        ("--max-vram 1MiB", 1, "may be used"),
        ("--model model", 1, "embedded in 20 tokens of 128 features"),
        ("--model half", 1, "half/transformer"),
        ("--model model/transformer", 1, "--vae"),
        ("--model nobody", 1, "mini"),
        ("--model mini --vae model/vae", 2, "one piece"),
        #[cfg(unix)]
        ("--out full.png", 1, "cannot write full.png"),
        #[cfg(unix)]
        ("--save-tensors full.png", 1, "cannot write full.png"),
    ];
    refused(&place, &defaults, &cases);
}

/// Runs `generate fox ARGS` with the flags that ARGS has not got: exit code and a part of the message of each. No file may
/// come of it.
pub(super) fn refused(place: &Place, defaults: &[(&str, &str)], cases: &[(&str, i32, &str)]) {
    let before = place.files();
    for &(line, code, says) in cases {
        let mut whole = format!("generate fox {line}");
        for (flag, default) in defaults {
            if !whole.contains(flag) {
                whole += &format!("{flag} {default}");
            }
        }
        let run = place.run(&whole.split_whitespace().collect::<Vec<_>>());
        assert_eq!(run.code, code, "impasto {whole}: {}", run.stderr);
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(says), "impasto {whole}: {}", run.stderr);
        assert!(code == 2 || run.stderr.lines().count() == 1, "impasto {whole}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{}", run.stdout);
        assert_eq!(place.files(), before, "impasto {whole}");
    }
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
