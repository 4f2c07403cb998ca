//! Text encoders against transformers, by the miniatures of `tests/fixtures/text`: random weights, and the hidden states that
//! transformers computed in f64.

use crate::common::{fixture, gpu};
use impasto::{
    ErrorKind,
    gpu::{Checks, Gpu, Options},
    graph::Control,
    kernels::{Random, deviation},
    nn::Storage,
    text::{Clip, Embeddings, Encoder, EncoderPlan, Family, Kind, LanguageModel, Run, T5, Tokenizer, flux1, flux2},
    weights::Weights,
};
use pollster::block_on;
use safetensors::{Dtype, tensor::TensorView};
use std::{path::PathBuf, sync::Mutex, sync::atomic::AtomicBool};

fn run(storage: Storage) -> Run<'static> {
    Run { gpu: gpu(Checks::Trusted), storage, control: Control::default() }
}

fn folder(name: &str) -> PathBuf {
    fixture("text").join(name)
}

fn config(name: &str) -> String {
    std::fs::read_to_string(folder(name).join("config.json")).unwrap()
}

/// What transformers was given and gave.
struct Io(Weights);

impl Io {
    fn open(path: &str) -> Self {
        Self(Weights::open(&folder(path)).unwrap())
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.0.tensor(name).unwrap();
        ids.bytes().chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
    }

    fn near(&self, what: &str, name: &str, found: &[f32], allowed: f64) {
        let expected = self.0.tensor(name).unwrap().to_f32().unwrap();
        let (nmse, max) = deviation(found, &expected);
        println!("{what} {name}: nmse {nmse:.1e}, max {max:.1e}");
        assert!(nmse <= allowed, "{what} {name}: nmse {nmse:.1e}, max {max:.1e}");
    }

    /// Every state there is.
    fn near_all(&self, what: &str, states: &[Vec<f32>], allowed: f64) {
        let named = states.iter().enumerate().map(|(i, s)| (format!("hidden.{i}"), s));
        let named: Vec<_> = named.filter(|(name, _)| self.0.has(name)).collect();
        assert!(named.len() >= 2, "{what}: only {} states", named.len());
        named.iter().for_each(|(name, state)| self.near(what, name, state, allowed));
    }
}

/// The bounds: f32, and weights rounded to f16.
const STORAGES: [(Storage, f64); 2] = [(Storage::F32, 1e-8), (Storage::F16, 1e-4)];

#[test]
fn clip_is_that_of_transformers() {
    let io = Io::open("clip/io.safetensors");
    let clip = Clip::new(&Weights::open(&folder("clip")).unwrap(), Some(&config("clip"))).unwrap();
    let tokens = clip.config.positions;
    for (storage, allowed) in STORAGES {
        let runs = io.ids("in.input_ids");
        let runs: Vec<_> = runs.chunks(tokens).map(|ids| block_on(clip.encode(run(storage), ids)).unwrap()).collect();
        assert_eq!(runs.len(), 2);
        let states = |i: usize| runs.iter().flat_map(|r| r.hidden_states[i].clone()).collect();
        io.near_all(&format!("clip {storage:?}"), &(0..=2).map(states).collect::<Vec<Vec<f32>>>(), allowed);
        let last = runs.iter().flat_map(|r| r.last.clone()).collect::<Vec<_>>();
        io.near(&format!("clip {storage:?}"), "last_hidden_state", &last, allowed);
        let pooled = runs.iter().flat_map(|r| r.pooled.clone()).collect::<Vec<_>>();
        io.near(&format!("clip {storage:?}"), "pooler_output", &pooled, allowed);
    }
    let long = vec![0; tokens + 1];
    assert_eq!(block_on(clip.encode(run(Storage::F32), &long)).unwrap_err().kind(), ErrorKind::Argument);
}

/// The pooled row is that of the first end token, where the config names it: here token 3.
#[test]
fn clip_pools_at_the_first_end() {
    let json = config("clip").replace("\"eos_token_id\": 2", "\"eos_token_id\": 3");
    let clip = Clip::new(&Weights::open(&folder("clip")).unwrap(), Some(&json)).unwrap();
    assert_eq!(clip.config.eos, Some(3));
    let out = block_on(clip.encode(run(Storage::F32), &[7, 9, 3, 20, 3])).unwrap();
    assert_eq!(out.pooled, out.last[2 * clip.config.width..][..clip.config.width]);
}

#[test]
fn t5_is_that_of_transformers() {
    for (name, cases) in [("t5", &STORAGES[..]), ("t5_outliers", &[(Storage::AsStored, 1e-8)])] {
        let io = Io::open(&format!("{name}/io.safetensors"));
        let t5 = T5::new(&Weights::open(&folder(name)).unwrap(), Some(&config(name))).unwrap();
        for &(storage, allowed) in cases {
            let (ids, what) = (io.ids("in.input_ids"), format!("{name} {storage:?}"));
            let states = block_on(t5.hidden_states(run(storage), &ids, &[0, 1, 2])).unwrap();
            io.near_all(&what, &states, allowed);
            let last = block_on(t5.encode(run(storage), &ids)).unwrap();
            io.near(&what, "last_hidden_state", &last, allowed);
        }
    }
}

#[test]
fn language_models_are_those_of_transformers() {
    let [f32, f16] = STORAGES;
    for (name, family, outputs, storage, allowed) in [
        ("qwen3", Family::Qwen3, [1, 2, 3], f32.0, f32.1),
        ("qwen3", Family::Qwen3, [1, 2, 3], f16.0, f16.1),
        ("qwen3_outliers", Family::Qwen3, [1, 2, 3], Storage::AsStored, 1e-8),
        ("mistral", Family::Mistral, [0, 1, 2], f32.0, f32.1),
        ("mistral", Family::Mistral, [0, 1, 2], f16.0, f16.1),
    ] {
        let io = Io::open(&format!("{name}/io.safetensors"));
        let weights = Weights::open(&folder(name)).unwrap();
        let model = LanguageModel::new(&weights, Some(&config(name)), Some(outputs)).unwrap();
        assert_eq!(model.config.family, family);
        let (ids, mask) = (io.ids("in.input_ids"), io.ids("in.attention_mask"));
        let real = mask.iter().filter(|m| **m == 1).count();
        let wanted: Vec<usize> = (0..=outputs[2]).collect();
        let states = block_on(model.hidden_states(run(storage), &ids, real, &wanted)).unwrap();
        io.near_all(&format!("{name} {storage:?}"), &states, allowed);
        // Padding changes nothing for the others.
        let alone = block_on(model.hidden_states(run(storage), &ids[..real], real, &wanted)).unwrap();
        for (alone, state) in alone.iter().zip(&states) {
            assert!(deviation(alone, &state[..alone.len()]).0 <= 1e-10, "{name}: padding is attended to");
        }
        // Too few layers for FLUX.2.
        assert_eq!(LanguageModel::new(&weights, None, None).unwrap_err().kind(), ErrorKind::Weights);
    }
}

#[test]
fn other_formats_and_names() {
    let expected = Io::open("formats.safetensors");
    let ids = Io::open("t5_outliers/io.safetensors").ids("in.input_ids");
    for name in ["t5", "t5_fp8"] {
        let file = if name == "t5" { "t5.gguf" } else { "t5_fp8.safetensors" };
        // Neither has a config.
        let t5 = T5::new(&Weights::open(&folder(file)).unwrap(), None).unwrap();
        expected.near("file", name, &block_on(t5.encode(run(Storage::AsStored), &ids)).unwrap(), 1e-8);
    }
    let io = Io::open("qwen3/io.safetensors");
    let (ids, mask) = (io.ids("in.input_ids"), io.ids("in.attention_mask"));
    let real = mask.iter().filter(|m| **m == 1).count();
    for (name, outputs, neighbours) in [("qwen3", [1, 2, 3], false), ("llama", [0, 1, 2], true)] {
        let weights = Weights::open(&folder(&format!("{name}.gguf"))).unwrap();
        let model = LanguageModel::new(&weights, None, Some(outputs)).unwrap();
        assert_eq!(model.config.neighbours, neighbours);
        let states = block_on(model.hidden_states(run(Storage::AsStored), &ids, real, &outputs[2..])).unwrap();
        expected.near("file", name, &states[0], 1e-8);
    }
}

#[test]
fn what_is_no_encoder() {
    let open = |name: &str| Weights::open(&folder(name)).unwrap();
    let kind = |e: impasto::Error| e.kind();
    assert_eq!(Clip::new(&open("t5"), None).map_err(kind).unwrap_err(), ErrorKind::Weights);
    assert_eq!(T5::new(&open("clip"), None).map_err(kind).unwrap_err(), ErrorKind::Weights);
    assert_eq!(LanguageModel::new(&open("t5"), None, None).map_err(kind).unwrap_err(), ErrorKind::Weights);
    let bad = [
        ("\"num_layers\": 2", "\"num_layers\": 24"),
        ("gated-gelu", "relu"),
        ("{", "["),
        ("\"num_layers\": 2", "\"num_layers\": -1"),
    ];
    for (from, to) in bad {
        let json = config("t5").replacen(from, to, 1);
        assert_eq!(T5::new(&open("t5"), Some(&json)).map_err(kind).unwrap_err(), ErrorKind::Weights, "{to}");
    }
    let yarn = config("qwen3").replace("\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"");
    let model = LanguageModel::new(&open("qwen3"), Some(&yarn), Some([1, 2, 3]));
    assert!(model.unwrap_err().to_string().contains("yarn"));
    // A tokenizer of another model.
    let t5 = T5::new(&open("t5"), None).unwrap();
    let error = block_on(t5.encode(run(Storage::F32), &[5, 32_000, 1])).unwrap_err();
    assert!(error.kind() == ErrorKind::Weights && error.to_string().contains("32000"), "{error}");
    assert_eq!(block_on(t5.encode(run(Storage::F32), &[])).unwrap_err().kind(), ErrorKind::Argument);
    // Weights without a tokenizer: the message tells what is missing.
    let error = Encoder::<T5>::open(&folder("t5"), None).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn a_nan_is_named_by_its_layer() {
    let mut bytes = std::fs::read(folder("qwen3/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = json["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + start..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let model =
        LanguageModel::new(&Weights::from_bytes(bytes).unwrap(), Some(&config("qwen3")), Some([1, 2, 3])).unwrap();
    let error = block_on(model.hidden_states(run(Storage::F32), &[1, 2, 3], 3, &[3])).unwrap_err();
    assert!(error.kind() == ErrorKind::Numeric && error.to_string().contains("layers.1:"), "{error}");
}

#[test]
fn an_encoder_reports_and_listens() {
    let t5 = T5::new(&Weights::open(&folder("t5")).unwrap(), None).unwrap();
    let told = Mutex::new(Vec::new());
    let progress = |done: f32| told.lock().unwrap().push(done);
    let control = Control { progress: Some(&progress), ..Control::default() };
    block_on(t5.encode(Run { control, ..run(Storage::F32) }, &[5, 6, 1])).unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted() && told.contains(&0.5) && told.last() == Some(&1.0), "{told:?}");
    let cancel = AtomicBool::new(true);
    let control = Control { cancel: Some(&cancel), ..Control::default() };
    let error = block_on(t5.encode(Run { control, ..run(Storage::F32) }, &[5, 6, 1])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

/// A language model of three layers for a real vocabulary.
fn small(family: Family, kind: Kind, tokenizer: &str) -> Encoder<LanguageModel> {
    const VOCABULARY: usize = 151_700;
    let mut random = Random::new(11);
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let values = random.values(shape.iter().product());
        let scale = if shape.len() == 1 { 1.0 } else { (3.0 / shape[1] as f32).sqrt() };
        tensors.push((name, shape.to_vec(), values.iter().map(|v| v * scale).collect()));
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, 16]);
    for i in 0..3 {
        let shapes: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[16]),
            ("post_attention_layernorm", &[16]),
            ("self_attn.q_proj", &[16, 16]),
            ("self_attn.k_proj", &[8, 16]),
            ("self_attn.v_proj", &[8, 16]),
            ("self_attn.o_proj", &[16, 16]),
            ("mlp.gate_proj", &[16, 16]),
            ("mlp.up_proj", &[16, 16]),
            ("mlp.down_proj", &[16, 16]),
        ];
        let norms: [(&str, &[usize]); 2] = [("self_attn.q_norm", &[8]), ("self_attn.k_norm", &[8])];
        let norms = norms.iter().filter(|_| family == Family::Qwen3);
        shapes.iter().chain(norms).for_each(|(name, shape)| add(format!("model.layers.{i}.{name}.weight"), shape));
    }
    let view = |shape: &Vec<usize>, v| TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(v)).unwrap();
    let bytes = safetensors::serialize(tensors.iter().map(|(name, shape, v)| (name, view(shape, v))), None).unwrap();
    let json = "{\"head_dim\": 8}";
    let model = LanguageModel::new(&Weights::from_bytes(bytes).unwrap(), Some(json), Some([1, 2, 3])).unwrap();
    Encoder { model, tokenizer: Tokenizer::open(kind, &fixture("tokenizers").join(tokenizer)).unwrap() }
}

#[test]
fn flux2_passes_padding_on_as_its_families_do() {
    let encode = |e: &Encoder<LanguageModel>, prompt: &str, n| block_on(flux2(run(Storage::F32), e, prompt, n));
    let rows = |e: &Embeddings| e.prompt.chunks(48).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let qwen = small(Family::Qwen3, Kind::Qwen3, "qwen3");
    let mistral = small(Family::Mistral, Kind::Mistral, "mistral");
    for encoder in [&qwen, &mistral] {
        for prompt in ["", "A photo of a cat"] {
            let [short, long] = [100, 110].map(|n| encode(encoder, prompt, n).unwrap());
            assert_eq!((long.tokens, long.width, long.prompt.len(), long.pooled.as_ref()), (110, 48, 110 * 48, None));
            let tokens = encoder.tokenizer.encode(prompt, 110).unwrap();
            let ids = &tokens.ids[tokens.real.clone()];
            let states = block_on(encoder.model.hidden_states(run(Storage::F32), ids, ids.len(), &[1, 2, 3])).unwrap();
            for (t, row) in rows(&long)[tokens.real.clone()].iter().enumerate() {
                let expected: Vec<f32> = states.iter().flat_map(|s| &s[t * 16..(t + 1) * 16]).copied().collect();
                assert!(deviation(row, &expected).0 < 1e-10, "{prompt:?}, token {t}");
            }
            // Ten rows more: in front, of zeros; or behind, of tokens that see the prompt.
            let (padding, rest) = match encoder.model.config.family {
                Family::Mistral => (&rows(&long)[..10], &rows(&long)[10..]),
                Family::Qwen3 => (&rows(&long)[100..], &rows(&long)[..100]),
            };
            let zero = padding.iter().flatten().all(|v| *v == 0.0);
            assert_eq!(zero, encoder.model.config.family == Family::Mistral);
            assert!(deviation(&rest.concat(), &short.prompt).0 < 1e-10);
        }
        assert_eq!(encode(encoder, "a", 513).unwrap_err().kind(), ErrorKind::Argument);
    }
}

#[test]
fn prompts_of_the_miniature_are_those_of_diffusers() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/flux-mini");
    let clip = Encoder::<Clip>::open(&folder.join("text_encoder"), None).unwrap();
    let t5 = Encoder::<T5>::open(&folder.join("text_encoder_2"), None).unwrap();
    let io = Io::open("flux_mini.safetensors");
    let prompts = [
        "a small yellow triangle in the center on a white background",
        "",
        "A large GREEN cross at the top, on a yellow background, and more words than fit into twenty tokens",
    ];
    for (i, prompt) in prompts.into_iter().enumerate() {
        let e = block_on(flux1(run(Storage::AsStored), &clip, &t5, prompt, 20)).unwrap();
        assert_eq!((e.tokens, e.width, e.pooled.as_ref().map(Vec::len)), (20, 128, Some(64)));
        io.near("flux-mini", &format!("prompt.{i}"), &e.prompt, 1e-8);
        io.near("flux-mini", &format!("pooled.{i}"), e.pooled.as_deref().unwrap(), 1e-8);
    }
}

/// The peak of a device of its own is the plan, to the byte.
#[test]
fn an_encoder_takes_what_was_planned() {
    let open = |name: &str| (Weights::open(&folder(name)).unwrap(), config(name));
    let (clip, t5, qwen3, mistral) = (open("clip"), open("t5"), open("qwen3"), open("mistral"));
    let clip = Clip::new(&clip.0, Some(&clip.1)).unwrap();
    let t5 = T5::new(&t5.0, Some(&t5.1)).unwrap();
    let lm =
        |(weights, json): &(Weights, String), states| LanguageModel::new(weights, Some(json), Some(states)).unwrap();
    let (qwen3, mistral) = (lm(&qwen3, [1, 2, 3]), lm(&mistral, [0, 1, 2]));
    let ids = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    for storage in [Storage::F32, Storage::F16, Storage::Q4] {
        let alone = || block_on(Gpu::open(&Options { untuned: true, ..Options::from_env() })).unwrap();
        let check = |plan: &dyn Fn(&Gpu) -> EncoderPlan, run: &dyn Fn(Run<'_>)| {
            let gpu = alone();
            let plan = plan(&gpu);
            assert_eq!(gpu.peak_bytes(), 0);
            run(Run { gpu: &gpu, storage, control: Control::default() });
            assert_eq!(gpu.peak_bytes(), plan.bytes(), "{storage:?}: {plan:?}");
            assert!(plan.resident < plan.weights || plan.layers <= 2, "{plan:?}");
            assert!(plan.flops > 0 && gpu.allocated_bytes() == 0);
        };
        check(&|gpu| clip.plan(gpu, storage, 9).unwrap(), &|run| drop(block_on(clip.encode(run, &ids)).unwrap()));
        check(&|gpu| t5.plan(gpu, storage, 9).unwrap(), &|run| drop(block_on(t5.encode(run, &ids)).unwrap()));
        for model in [&qwen3, &mistral] {
            let states = |run: Run<'_>| drop(block_on(model.hidden_states(run, &ids, 7, &model.outputs)).unwrap());
            check(&|gpu| model.plan(gpu, storage, 9, 7).unwrap(), &states);
        }
    }
}
