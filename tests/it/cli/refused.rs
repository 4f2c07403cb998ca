//! What `generate` refuses: flags that cannot be meant, and files that are damaged, made to harm, or of another model. It says
//! so in one line, and nothing is written.

use super::{
    Place,
    generate::{place, save},
};
use std::fs;

/// Runs `generate fox ARGS` with the flags that ARGS has not got: exit code and a part of the message of each. No file may
/// come of it.
fn refused(place: &Place, defaults: &[(&str, &str)], cases: &[(&str, i32, &str)]) {
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
    // A text encoder that does not fit is named before anything runs.
    let defaults = [(" --model", "mini"), (" --out", "out.png")];
    refused(&place, &defaults, &[("--max-vram 100kB", 1, "CLIP takes")]);
}

/// Above 4 megapixels: warned of, planned, and refused before anything is computed where they do not fit.
#[test]
fn a_picture_that_is_too_large_is_known_at_once() {
    let place = Place::new();
    fs::create_dir(place.at("tuning")).unwrap();
    let line = "generate fox --model mini --width 2064 --height 2064 --out out.png --max-vram 20MiB";
    for (more, code, says) in [("--dry-run", 0, ""), ("--seed 1", 1, "make a smaller picture")] {
        let run = place.run(&format!("{line} {more}").split(' ').collect::<Vec<_>>());
        assert!(run.code == code && run.stderr.contains("above 4 megapixels"), "{more}: {}", run.stderr);
        assert!(run.stderr.contains(says) && run.stdout.is_empty() == (code == 1), "{more}: {}", run.stderr);
        assert_eq!(place.files(), ["tuning"]);
    }
}

/// The embedded miniature of FLUX.1, as a folder of diffusers.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/flux-mini");

/// A folder with bad parts of a model in it.
fn bad_parts() -> Place {
    let place = Place::new();
    let write = |name: &str, bytes: &[u8]| fs::write(place.at(name), bytes).unwrap();
    let whole = fs::read(format!("{MODEL}/transformer/diffusion_pytorch_model.safetensors")).unwrap();
    write("cut.safetensors", &whole[..whole.len() / 2]);
    write("empty.safetensors", b"");
    write("text.safetensors", b"Dear reader, this is no model.");
    let number = |n: u64| n.to_le_bytes();
    write("long.safetensors", &[&number(u64::MAX), &whole[8..4096]].concat());
    let header = br#"{"x_embedder.weight":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4611686018427387904]}}"#;
    write("huge.safetensors", &[&number(header.len() as u64), &header[..], &[0; 64]].concat());
    let gguf = |tensors: u64| [&b"GGUF\x03\0\0\0"[..], &number(tensors), &number(0)].concat();
    write("count.gguf", &gguf(1 << 60));
    write("name.gguf", &[gguf(1), number(1 << 63).to_vec(), b"abc".to_vec()].concat());

    let tokenizer = fs::read(format!("{MODEL}/tokenizer_2/tokenizer.json")).unwrap();
    write("cut.json", &tokenizer[..tokenizer.len() / 2]);
    write("object.json", b"{}");
    write("deep.json", &[br#"{"model":"#, "[".repeat(100_000).as_bytes()].concat());
    // CLIP's tokens under numbers that it has no embeddings for.
    fs::create_dir(place.at("clip")).unwrap();
    let file = |name: &str| format!("{MODEL}/tokenizer/{name}");
    let vocab: serde_json::Map<_, _> = serde_json::from_slice(&fs::read(file("vocab.json")).unwrap()).unwrap();
    let moved: serde_json::Map<_, _> =
        vocab.into_iter().map(|(token, id)| (token, (id.as_u64().unwrap() + 1_000_000).into())).collect();
    write("clip/vocab.json", serde_json::to_string(&moved).unwrap().as_bytes());
    fs::copy(file("merges.txt"), place.at("clip/merges.txt")).unwrap();
    place
}

#[test]
fn bad_parts_are_named() {
    let part = |name: &str| format!("{MODEL}/{name}");
    let autoencoder = part("vae/diffusion_pytorch_model.safetensors");
    let transformer = part("transformer/diffusion_pytorch_model.safetensors");
    let cases = [
        ("--transformer cut.safetensors", "cut.safetensors: tensor"),
        ("--transformer empty.safetensors", "the file is empty"),
        ("--transformer text.safetensors", "not a safetensors file"),
        ("--transformer long.safetensors", "the header would be 18446744073709551615 bytes"),
        ("--transformer huge.safetensors", "leave the 64 bytes of data"),
        ("--transformer count.gguf", "1152921504606846976 tensors"),
        ("--transformer name.gguf", "a name of 9223372036854775808 bytes"),
        (&format!("--transformer {autoencoder}"), "no FLUX transformer"),
        ("--vae cut.safetensors", "cut.safetensors: tensor"),
        (&format!("--vae {transformer}"), "autoencoder"),
        ("--text-encoder long.safetensors", "long.safetensors: the header"),
        ("--text-encoder-2 count.gguf", "count.gguf: "),
        (&format!("--text-encoder {autoencoder}"), "no CLIP text encoder"),
        ("--tokenizer clip", "the tokenizer is of another model"),
        ("--tokenizer-2 cut.json", "cut.json"),
        ("--tokenizer-2 object.json", "object.json"),
        ("--tokenizer-2 deep.json", "deep.json"),
        ("--tokenizer-2 nowhere", "'nowhere' has no tokenizer.json"),
        ("--lora cut.safetensors", "cut.safetensors: tensor"),
        (&format!("--lora {transformer}"), "names a layer of this model"),
        ("--model count.gguf", "count.gguf: "),
    ];
    let cases: Vec<(&str, i32, &str)> = cases.into_iter().map(|(line, says)| (line, 1, says)).collect();
    let defaults = [(" --model", MODEL), (" --steps", "1"), (" --out", "out.png")];
    let place = bad_parts();
    // Embedded texts would be kept there.
    fs::create_dir(place.at("tuning")).unwrap();
    refused(&place, &defaults, &cases);
}
