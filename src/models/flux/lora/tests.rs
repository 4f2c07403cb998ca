use super::*;
use crate::error::ErrorKind;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

/// The tensors of a LoRA file, by key.
type File = Vec<(String, Vec<usize>, Vec<f32>)>;

fn open(file: &File) -> Weights {
    open_with(file, None)
}

fn open_with(file: &File, metadata: Option<(&str, &str)>) -> Weights {
    let bytes: Vec<Vec<u8>> = file.iter().map(|(_, _, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = file
        .iter()
        .zip(&bytes)
        .map(|((key, shape, _), bytes)| (key, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let metadata = metadata.map(|(key, text)| [(key.to_owned(), text.to_owned())].into());
    Weights::from_bytes(safetensors::serialize(views, metadata).unwrap()).unwrap()
}

fn resolve(file: &File, modules: &Modules) -> Result<Lora> {
    Lora::resolve(&open(file), modules)
}

/// A whole checkpoint as a LoRA: `B` is the weight and `A` the identity.
fn push(file: &mut File, a: String, b: String, shape: [usize; 2], weight: Vec<f32>) {
    let n = shape[1];
    file.push((a, vec![n, n], (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect()));
    file.push((b, shape.to_vec(), weight));
}

/// What all adapters add to the weight of each layer, `(outputs, inputs)`.
fn deltas(lora: &Lora, modules: &Modules) -> BTreeMap<String, Vec<f32>> {
    let mut deltas = BTreeMap::new();
    for adapter in &lora.adapters {
        let [outputs, inputs] = modules.0[adapter.module()];
        let delta = deltas.entry(adapter.module().to_owned()).or_insert_with(|| vec![0.0; outputs * inputs]);
        let (a, b) = (adapter.a().unwrap(), adapter.b().unwrap());
        for (i, row) in adapter.rows().enumerate() {
            for column in 0..inputs {
                let dot = |k| b[i * adapter.rank() + k] * a[k * inputs + column];
                delta[row * inputs + column] += adapter.scale() * (0..adapter.rank()).map(dot).sum::<f32>();
            }
        }
    }
    deltas
}

/// A miniature's matrices in one of its two layouts.
struct Matrices(BTreeMap<String, ([usize; 2], Vec<f32>)>);

impl Matrices {
    fn open(family: &str, layout: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/fixtures/sampling/lora_{family}.safetensors"));
        let weights = Weights::open(&path).unwrap().at(layout);
        let matrix = |name: String| {
            let tensor = weights.tensor(&name).unwrap();
            let shape = tensor.shape().try_into().unwrap();
            (name.strip_suffix(".weight").unwrap().to_owned(), (shape, tensor.to_f32().unwrap()))
        };
        Self(weights.names().into_iter().map(matrix).collect())
    }

    fn modules(&self) -> Modules {
        Modules::new(self.0.iter().map(|(name, (shape, _))| (name.clone(), *shape)))
    }

    fn values(&self) -> BTreeMap<String, Vec<f32>> {
        self.0.iter().map(|(name, (_, values))| (name.clone(), values.clone())).collect()
    }
}

/// The ways in which programs write the key of a layer's `A` and `B`.
fn keys(form: usize, name: &str) -> [String; 2] {
    let flat = name.replace('.', "_");
    match form {
        0 => ["A", "B"].map(|x| format!("transformer.{name}.lora_{x}.weight")),
        1 => ["A", "B"].map(|x| format!("diffusion_model.{name}.lora_{x}.weight")),
        2 => ["A", "B"].map(|x| format!("base_model.model.{name}.lora_{x}.default.weight")),
        3 => ["down", "up"].map(|x| format!("lora_unet_{flat}.lora_{x}.weight")),
        4 => ["down", "up"].map(|x| format!("lora_transformer_{flat}.lora_{x}.weight")),
        5 => ["down", "up"].map(|x| format!("{name}.lora.{x}.weight")),
        6 => ["down", "up"].map(|x| format!("model.diffusion_model.{name}.lora_{x}.weight")),
        _ => ["A", "B"].map(|x| format!("{name}.lora_{x}.weight")),
    }
}
const FORMS: usize = 8;

#[test]
fn every_layer_of_a_checkpoint_is_found_in_either_layout_and_every_form() {
    for family in ["flux1", "flux2"] {
        let bfl = Matrices::open(family, "bfl");
        let modules = bfl.modules();
        for layout in ["bfl", "diffusers"] {
            let theirs = Matrices::open(family, layout);
            for form in 0..FORMS {
                let mut file = File::new();
                for (name, (shape, weight)) in &theirs.0 {
                    let [a, b] = keys(form, name);
                    push(&mut file, a, b, *shape, weight.clone());
                }
                let lora = resolve(&file, &modules).unwrap();
                assert_eq!(lora.adapters.len(), theirs.0.len());
                assert_eq!(lora.modules(), modules.0.len());
                assert!(lora.unmatched.is_empty() && lora.text_encoder.is_empty());
                assert!(deltas(&lora, &modules) == bfl.values(), "{family} {layout} form {form}");
            }
        }
    }
}

#[test]
fn xlabs_form_is_what_diffusers_takes_it_for() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampling/lora_xlabs.safetensors");
    let file = Weights::open(path.as_ref()).unwrap();
    let modules = Matrices::open("flux1", "bfl").modules();
    let [xlabs, diffusers] = ["xlabs", "diffusers"].map(|form| Lora::resolve(&file.at(form), &modules).unwrap());
    assert_eq!((xlabs.adapters.len(), diffusers.adapters.len()), (12, 2 * (3 + 3 + 1 + 1) + 2 * (3 + 1)));
    assert!(xlabs.unmatched.is_empty() && diffusers.unmatched.is_empty());
    assert_eq!(deltas(&xlabs, &modules), deltas(&diffusers, &modules));
}

#[test]
fn no_two_layers_share_a_name() {
    for family in ["flux1", "flux2"] {
        let theirs = Matrices::open(family, "diffusers");
        let targets = names::targets(&Matrices::open(family, "bfl").modules().0);
        let mut seen = HashSet::new();
        for name in theirs.0.keys() {
            assert!(seen.insert(&targets[name]), "{name}");
            assert_eq!(targets[name], targets[&name.replace('.', "_")]);
        }
    }
}

/// A layer of 6 outputs in three parts and 2 inputs, one of two halves, and one that is no part of anything.
fn small() -> Modules {
    let module = |name: &str, shape| (name.to_owned(), shape);
    Modules::new([
        module("double_blocks.0.img_attn.qkv", [6, 2]),
        module("single_blocks.3.linear1", [14, 2]),
        module("single_blocks.3.linear2", [2, 10]),
        module("final_layer.adaLN_modulation.1", [4, 2]),
    ])
}

fn tensor(key: &str, shape: &[usize]) -> (String, Vec<usize>, Vec<f32>) {
    (key.to_owned(), shape.to_vec(), (0..shape.iter().product()).map(|i| i as f32).collect())
}

#[test]
fn parts_have_their_rows_and_scale() {
    let file = vec![
        tensor("transformer.sformer_blocks.0.attn.to_k.lora_A.weight", &[1, 2]),
        tensor("transformer.sformer_blocks.0.attn.to_k.lora_B.weight", &[2, 1]),
        tensor("transformer.single_transformer_blocks.3.proj_mlp.lora_A.weight", &[2, 2]),
        tensor("transformer.single_transformer_blocks.3.proj_mlp.lora_B.weight", &[8, 2]),
        (("transformer.single_transformer_blocks.3.proj_mlp.alpha").into(), vec![], vec![3.0]),
        tensor("norm_out.linear.lora_A.weight", &[1, 2]),
        tensor("norm_out.linear.lora_B.weight", &[4, 1]),
        tensor("norm_out.linear.lora_B.bias", &[4]),
        tensor("double_blocks.0.processor.qkv_lora1.down.weight", &[1, 2]),
        tensor("double_blocks.0.processor.qkv_lora1.up.weight", &[6, 1]),
        tensor("single_blocks.3.processor.qkv_lora.down.weight", &[1, 2]),
        tensor("single_blocks.3.processor.qkv_lora.up.weight", &[6, 1]),
    ];
    let lora = resolve(&file, &small()).unwrap();
    let found: Vec<_> = lora.adapters.iter().map(|a| (a.module(), a.rows(), a.rank(), a.scale())).collect();
    assert_eq!(
        found,
        [
            ("double_blocks.0.img_attn.qkv", 0..6, 1, 1.0),
            ("double_blocks.0.img_attn.qkv", 2..4, 1, 1.0),
            ("final_layer.adaLN_modulation.1", 0..4, 1, 1.0),
            ("single_blocks.3.linear1", 0..6, 1, 1.0),
            ("single_blocks.3.linear1", 6..14, 2, 1.5),
        ]
    );
    assert_eq!(lora.modules(), 3);
    assert_eq!(lora.adapters[2].b().unwrap(), [2.0, 3.0, 0.0, 1.0]);
    assert_eq!(lora.adapters[2].bias().unwrap().unwrap(), [2.0, 3.0, 0.0, 1.0]);
    assert_eq!(lora.adapters[0].bias().unwrap(), None);
}

#[test]
fn alphas_come_from_keys_then_from_metadata() {
    let pair = |name: &str, outputs: usize| {
        let name = format!("transformer.{name}");
        [tensor(&format!("{name}.lora_A.weight"), &[2, 2]), tensor(&format!("{name}.lora_B.weight"), &[outputs, 2])]
    };
    let mut file = [pair("transformer_blocks.0.attn.to_q", 2), pair("transformer_blocks.0.attn.to_k", 2)].concat();
    file.extend(pair("norm_out.linear", 4));
    file.push(("transformer.norm_out.linear.alpha".into(), vec![], vec![1.0]));
    let scales = |metadata: &str| {
        let lora = Lora::resolve(&open_with(&file, Some(("lora_adapter_metadata", metadata))), &small());
        lora.map(|l| l.adapters.iter().map(Adapter::scale).collect::<Vec<_>>())
    };
    let all = r#""transformer.r":2,"transformer.lora_alpha":8,"transformer.target_modules":["to_q"]"#;
    assert_eq!(scales(&format!("{{{all}}}")).unwrap(), [4.0, 4.0, 0.5]);
    let patterns = r#""transformer.alpha_pattern":{"attn.to_k":3,"o_q":5}"#;
    assert_eq!(scales(&format!("{{{all},{patterns}}}")).unwrap(), [4.0, 1.5, 0.5]);
    let root = scales(&format!("{{{all},\"transformer.use_rslora\":true}}")).unwrap();
    assert_eq!(root, [8.0 / 2f32.sqrt(), 8.0 / 2f32.sqrt(), 0.5]);
    assert_eq!(scales(r#"{"text_encoder.lora_alpha":8}"#).unwrap(), [1.0, 1.0, 0.5]);
    for bad in ["", "{", r#"{"transformer.lora_alpha":"8"}"#, r#"{"transformer.lora_alpha":1e99}"#] {
        assert_eq!(scales(bad).unwrap_err().kind(), ErrorKind::Weights, "{bad}");
    }
}

#[test]
fn what_has_no_effect_is_listed() {
    let file = vec![
        tensor("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", &[1, 2]),
        tensor("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", &[6, 1]),
        tensor("lora_unet_double_blocks_0_img_attn_qkv.dora_scale", &[6, 1]),
        tensor("lora_unet_double_blocks_7_img_attn_qkv.lora_down.weight", &[1, 2]),
        tensor("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", &[1]),
        tensor("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", &[1, 2]),
    ];
    let lora = resolve(&file, &small()).unwrap();
    assert_eq!(lora.adapters.len(), 1);
    assert_eq!(lora.unmatched, [file[2].0.clone(), file[3].0.clone()]);
    assert_eq!(lora.text_encoder, [file[4].0.clone(), file[5].0.clone()]);
}

#[test]
fn another_models_lora_is_refused() {
    let qkv = |part: &str| format!("double_blocks.0.img_attn.qkv.lora_{part}.weight");
    let says = |file: File, what: &str| {
        let e = resolve(&file, &small()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Weights);
        assert!(e.to_string().contains(what), "{e}");
    };
    says(vec![], "the file is empty");
    says(
        vec![tensor("up_blocks.1.attn.to_q.lora_A.weight", &[1, 2])],
        "none of its 1 keys names a layer of this model; the first is \"up_blocks.1.attn.to_q.lora_A.weight\"",
    );
    says(vec![tensor("lora_te1_x.alpha", &[1])], "all 1 keys are for text encoders");
    says(vec![tensor("lycoris_double_blocks_0_img_attn_qkv.lokr_w1", &[2, 2])], "LoKr and LoHa adapters cannot");
    says(vec![tensor(&qkv("A"), &[1, 2])], "there is only \"double_blocks.0.img_attn.qkv.lora_A.weight\"");
    for (a, b) in [([1, 3], [6, 1]), ([1, 2], [5, 1]), ([1, 2], [6, 2]), ([0, 2], [6, 0])] {
        says(vec![tensor(&qkv("A"), &a), tensor(&qkv("B"), &b)], "a LoRA of another model");
    }
    let pair = || vec![tensor(&qkv("A"), &[1, 2]), tensor(&qkv("B"), &[6, 1])];
    says([pair(), vec![tensor("double_blocks.0.img_attn.qkv.alpha", &[2])]].concat(), "has to be one finite number");
    says([pair(), vec![tensor(&format!("transformer.{}", qkv("A")), &[1, 2])]].concat(), "are for the same layer");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any part of a checkpoint, of any rank and alpha and in any form, among keys of other things: what is found together
    /// is the sum of what each is alone, and no key is lost.
    #[test]
    fn adapters_are_independent(
        picks in prop::collection::vec((0..FORMS, 1_usize..4, prop::option::of(0.5_f32..8.0), any::<u32>()), 1..6),
        diffusers: bool,
        flux2: bool,
        junk in prop::collection::vec("[a-z_.]{0,12}(\\.lora_A\\.weight|\\.alpha|\\.lora_up\\.weight)?", 0..4),
    ) {
        let family = if flux2 { "flux2" } else { "flux1" };
        let modules = Matrices::open(family, "bfl").modules();
        let theirs = Matrices::open(family, if diffusers { "diffusers" } else { "bfl" });
        let (mut all, mut each, mut used) = (File::new(), BTreeMap::<String, Vec<f32>>::new(), HashSet::new());
        for (form, rank, alpha, seed) in picks {
            let (name, ([outputs, inputs], _)) = theirs.0.iter().nth(seed as usize % theirs.0.len()).unwrap();
            if !used.insert(name) {
                continue;
            }
            let [a, b] = keys(form, name);
            // Small whole numbers: sums are exact in any order, but for the scale.
            let values = |n: usize, by: u32| (0..n as u32).map(|i| (((i * by) ^ seed) % 7) as f32 - 3.0).collect();
            let alpha_key = a.split(".lora").next().unwrap().to_owned() + ".alpha";
            let mut one = vec![(a, vec![rank, *inputs], values(rank * inputs, 5)), (b, vec![*outputs, rank], values(outputs * rank, 3))];
            one.extend(alpha.map(|alpha| (alpha_key, vec![1], vec![alpha])));
            let lora = resolve(&one, &modules).unwrap();
            prop_assert_eq!(lora.adapters.len(), 1);
            let scale = alpha.map_or(1.0, |alpha| alpha / rank as f32);
            prop_assert_eq!(lora.adapters[0].scale(), scale);
            for (module, delta) in deltas(&lora, &modules) {
                let sum = each.entry(module).or_insert_with(|| vec![0.0; delta.len()]);
                sum.iter_mut().zip(delta).for_each(|(sum, d)| *sum += d);
            }
            all.extend(one);
        }
        let junk: HashSet<String> = junk.into_iter().filter(|key| !all.iter().any(|(k, ..)| k == key)).collect();
        let tensors = all.len();
        all.extend(junk.iter().map(|key| tensor(key, &[1])));
        let lora = resolve(&all, &modules).unwrap();
        prop_assert_eq!(lora.unmatched.len() + lora.text_encoder.len(), all.len() - tensors);
        prop_assert_eq!(deltas(&lora, &modules), each);
    }
}
