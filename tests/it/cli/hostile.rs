//! Parts of a model for `generate` that are damaged, made to harm, or another model's: said at once, and nothing is written.

use super::Place;
use std::fs;

/// The embedded miniature of FLUX.1, as a folder of diffusers.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/flux-mini");

/// A folder with bad files in it.
fn place() -> Place {
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
    let place = place();
    // Embedded texts would be kept there.
    fs::create_dir(place.at("tuning")).unwrap();
    super::generate::refused(&place, &defaults, &cases);
}
