//! Configs, names and layouts, against what the official package and transformers say.

use super::{
    config::{BASE_PLUS, Config, LARGE, SMALL, TINY, Version},
    from_parts,
    names::Layout,
    open,
    tensors::{Tensor, image_tensors, memory_tensors},
};
use crate::{ErrorKind, weights::Weights};
use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn mini_json() -> String {
    std::fs::read_to_string(fixture("sam2_mini_image/config.json")).unwrap()
}

fn all_tensors(config: &Config) -> Vec<Tensor> {
    image_tensors(config).into_iter().chain(memory_tensors(config)).collect()
}

/// A checkpoint of zeros with these tensors: a safetensors file in which F8 elements keep a large model small.
fn zeros(tensors: &[Tensor]) -> Weights {
    let (mut header, mut at) = (String::from("{"), 0usize);
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<usize>();
        let comma = if at == 0 { "" } else { "," };
        write!(header, r#"{comma}"{name}":{{"dtype":"F8_E4M3","shape":{shape:?},"data_offsets":[{at},{end}]}}"#)
            .unwrap();
        at = end;
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + at, 0);
    Weights::from_bytes(bytes).unwrap()
}

/// The mini model's config and tensors, to be changed by a test.
fn mini() -> (Config, Vec<Tensor>) {
    let (config, _) = open(&fixture("sam2_mini_image")).unwrap();
    let tensors = all_tensors(&config);
    (config, tensors)
}

#[track_caller]
fn says(result: crate::Result<(Config, Weights)>, expected: &[&str]) {
    let error = result.map(|(config, _)| config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Weights);
    for expected in expected {
        assert!(error.to_string().contains(expected), "expected {expected:?} in {error}");
    }
}

/// The lists in `tests/fixtures/sam2_tensors` are `state_dict()` of the official package's models.
#[test]
fn tensors_are_those_of_the_official_package() {
    let mut tiny_2_0 = TINY;
    tiny_2_0.version = Some(Version::V2_0);
    for (name, config) in
        [("tiny", TINY), ("small", SMALL), ("base-plus", BASE_PLUS), ("large", LARGE), ("2.0-tiny", tiny_2_0)]
    {
        let text = std::fs::read_to_string(fixture(&format!("sam2_tensors/{name}.txt"))).unwrap();
        let official: BTreeMap<&str, Vec<usize>> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, shape)| (name, shape.split(',').map(|n| n.parse().unwrap()).collect()))
            .collect();
        let tensors = all_tensors(&config);
        let ours: BTreeMap<&str, Vec<usize>> = tensors.iter().map(|(n, s)| (n.as_str(), s.clone())).collect();
        assert_eq!(ours.len(), tensors.len(), "{name}: a name twice");
        assert_eq!(ours, official, "{name}");
    }
}

#[test]
fn released_sizes_are_told_by_their_tensors() {
    for (name, config) in [("hiera-tiny", TINY), ("hiera-small", SMALL), ("hiera-base-plus", BASE_PLUS)] {
        for version in [Version::V2_0, Version::V2_1] {
            let config = Config { version: Some(version), ..config.clone() };
            let (found, weights) = from_parts(&zeros(&all_tensors(&config)), None).unwrap();
            assert_eq!(found, config);
            assert_eq!(found.size_name(), Some(name));
            assert!(weights.has("sam_prompt_encoder.point_embeddings.3.weight"));
        }
    }
    // The image path alone: no memory, and no way to know the version.
    let (found, _) = from_parts(&zeros(&image_tensors(&SMALL)), None).unwrap();
    assert_eq!(found, Config { version: None, memory: None, ..SMALL });
}

#[test]
fn every_image_tensor_is_found_in_the_fixture_and_in_mini() {
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/sam2-mini");
    for (path, channels) in [(fixture("sam2_mini_image"), 64), (assets, 128)] {
        let (config, weights) = open(&path).unwrap();
        assert_eq!((config.hidden, config.version, config.image_size), (channels, Some(Version::V2_1), 256));
        let (image, memory) = (image_tensors(&config), memory_tensors(&config));
        for (name, shape) in image.iter().chain(&memory) {
            weights.get(name, shape).unwrap();
        }
        // The other way round: nothing in the file but those.
        let mut expected: Vec<&String> = image.iter().chain(&memory).map(|(name, _)| name).collect();
        expected.sort();
        assert_eq!(weights.names().iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn official_and_transformers_layouts_hold_the_same_model() {
    let (config, hf) = open(&fixture("sam2_mini_image")).unwrap();
    let pt = fixture("sam2_mini_image/official.pt");
    let (again, official) = open(&pt).unwrap();
    assert_eq!(config, again);
    let keys = std::fs::read_to_string(fixture("sam2_mini_image/official_keys.txt")).unwrap();
    let mut keys: Vec<&str> = keys.lines().collect();
    keys.sort();
    assert_eq!(official.names(), keys);
    assert_eq!(hf.names(), keys);
    for key in &keys {
        // The official file of this model is kept in bf16.
        let (a, b) = (official.tensor(key).unwrap(), hf.tensor(key).unwrap());
        let rounded = |v: f32| half::bf16::from_f32(v).to_f32();
        let expected: Vec<f32> = b.to_f32().unwrap().into_iter().map(rounded).collect();
        assert_eq!((a.shape(), a.to_f32().unwrap()), (b.shape(), expected), "{key}");
    }
    // Names there and back.
    let names = Layout::Transformers.names();
    for key in &keys {
        let alias = &names.to_file(key)[0];
        let back = names.to_ours(&alias.name, 4);
        assert_eq!(back[alias.row.unwrap_or(0)], **key);
    }
    assert_eq!(Layout::detect(&Weights::open(&pt).unwrap()).unwrap(), Layout::Official);
}

#[test]
fn a_prefix_is_seen_through() {
    let prefixed: Vec<Tensor> = all_tensors(&TINY).into_iter().map(|(n, s)| (format!("model.{n}"), s)).collect();
    let (found, weights) = from_parts(&zeros(&prefixed), None).unwrap();
    assert_eq!(found, TINY);
    assert!(weights.at("sam_mask_decoder").has("iou_token.weight"));
    let message = weights.get("sam_mask_decoder.iou_token", &[]).unwrap_err().to_string();
    assert!(message.contains("('model.sam_mask_decoder.iou_token' in the file)"), "{message}");
}

#[test]
fn the_fixtures_config_is_read() {
    let (config, _) = mini();
    assert_eq!(config.hiera.dims, [16, 32, 64, 128]);
    assert_eq!(config.hiera.heads, [1, 2, 4, 8]);
    assert_eq!((config.hiera.blocks, config.hiera.windows), ([1, 2, 3, 2], [8, 4, 14, 7]));
    assert_eq!(config.hiera.global_blocks[..], [4]);
    assert_eq!((config.decoder.mlp_dim, config.decoder.iou_hidden), (128, 64));
    let memory = config.memory.unwrap();
    assert_eq!((memory.dim, memory.layers, memory.mlp_dim, memory.fuser_dim), (16, 2, 128, 256));
    assert_eq!((memory.max_cond_frames, memory.multimask_points), (None, (0, 1)));
}

#[test]
fn absent_fields_are_transformers_defaults() {
    for json in [r#"{"model_type":"sam2_video"}"#, r#"{"model_type":"sam2","vision_config":{"backbone_config":{}}}"#] {
        let (found, _) = from_parts(&zeros(&all_tensors(&TINY)), Some(json)).unwrap();
        assert_eq!(found, TINY, "{json}");
    }
    // Lists may be null.
    let json =
        r#"{"model_type":"sam2","vision_config":{"backbone_config":{"blocks_per_stage":null,"image_size":null}}}"#;
    from_parts(&zeros(&all_tensors(&TINY)), Some(json)).unwrap();
}

#[test]
fn contradictions_name_both_sides() {
    let small = zeros(&all_tensors(&SMALL));
    let json = r#"{"model_type":"sam2_video"}"#;
    says(
        from_parts(&small, Some(json)),
        &[
            "config.json and the tensors of embedded weights",
            "blocks_per_stage is [1, 2, 7, 2] by config.json, [1, 2, 11, 2] by the tensors",
        ],
    );
    let tiny = zeros(&all_tensors(&TINY));
    let json = r#"{"model_type":"sam2_video","enable_occlusion_spatial_embedding":false,"enable_temporal_pos_encoding_for_object_pointers":false}"#;
    says(from_parts(&tiny, Some(json)), &["Some(V2_0) by config.json, Some(V2_1) by the tensors"]);
    let mut tensors = all_tensors(&TINY);
    tensors.iter_mut().for_each(|(name, shape)| {
        if name.contains("iou_prediction_head.layers.0") {
            shape[0] = 128;
        }
    });
    says(
        from_parts(&zeros(&tensors), None),
        &["the released model of this size", "iou_head_hidden_dim is 256", "128 by the tensors"],
    );
}

#[test]
fn an_unknown_size_needs_its_config() {
    let (_, tensors) = mini();
    let expected =
        ["channels [16, 32, 64, 128], blocks [1, 2, 3, 2]", "hiera-tiny", "put the model's config.json beside"];
    says(from_parts(&zeros(&tensors), None), &expected);
    from_parts(&zeros(&tensors), Some(&mini_json())).unwrap();
}

#[test]
fn configs_that_cannot_be_meant_or_are_not_implemented() {
    let weights = zeros(&mini().1);
    let json = mini_json();
    for (from, to, expected) in [
        ("\"sam2_video\",\n \"output", "\"flux\",\n \"output", "\"flux\", not \"sam2\""),
        ("\"sigmoid_scale_for_mem_enc\": 20.0", "\"sigmoid_scale_for_mem_enc\": \"x\"", "cannot be read"),
        (
            "\"num_query_pool_stages\": 3",
            "\"num_query_pool_stages\": 2",
            "num_query_pool_stages is 2; impasto implements 3 only",
        ),
        ("\"layer_norm_eps\": 1e-06", "\"layer_norm_eps\": 1e-05", "layer_norm_eps"),
        ("\"hidden_act\": \"gelu\"", "\"hidden_act\": \"silu\"", "\"silu\"; impasto implements \"gelu\" only"),
        ("\"mlp_ratio\": 4.0", "\"mlp_ratio\": 2.5", "whole numbers"),
        ("\"mlp_ratio\": 4.0", "\"mlp_ratio\": 1e300", "whole numbers"),
        ("\"image_size\": 256,\n \"sigmoid", "\"image_size\": 512,\n \"sigmoid", "contradicts itself"),
        ("\"fpn_hidden_size\": 64", "\"fpn_hidden_size\": 32", "contradicts itself"),
        ("\"memory_fuser_embed_dim\": 64", "\"memory_fuser_embed_dim\": 32", "contradicts itself"),
        (
            "\"num_attention_heads_per_stage\": [\n    1,\n    2,",
            "\"num_attention_heads_per_stage\": [\n    3,\n    0,",
            "3 heads",
        ),
        (
            "\"window_size_per_stage\": [\n    8,",
            "\"window_size_per_stage\": [\n    9,",
            "window_size_per_stage[0] is 9",
        ),
        ("    4,\n    14,\n", "    4,\n    13,\n", "a window of 13"),
        ("\"global_attention_blocks\": [\n    4", "\"global_attention_blocks\": [\n    8", "global blocks [8] of 8"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000000000", "num_hidden_layers is 1000000000000"),
        ("\"attention_downsample_rate\": 2", "\"attention_downsample_rate\": 0", "attention_downsample_rate is 0"),
        ("\"blocks_per_stage\": [\n    1,", "\"blocks_per_stage\": [\n    1, 1,", "four stages"),
        ("\"memory_attention_num_attention_heads\": 1", "\"memory_attention_num_attention_heads\": 0", "0 heads"),
    ] {
        assert!(json.contains(from), "the fixture's config has no {from}");
        says(from_parts(&weights, Some(&json.replace(from, to))), &[expected]);
    }
    says(from_parts(&weights, Some("")), &["config.json cannot be read"]);
    says(from_parts(&weights, Some(&"[".repeat(100_000))), &["config.json cannot be read"]);
}

#[test]
fn incomplete_checkpoints_are_told_at_once() {
    let (_, tensors) = mini();
    let json = mini_json();
    let without = |part: &str| -> Vec<Tensor> { tensors.iter().filter(|(n, _)| !n.contains(part)).cloned().collect() };
    let one = zeros(&without("trunk.blocks.5.attn.qkv.bias"));
    says(
        from_parts(&one, Some(&json)),
        &["a tensor is not as it should be", "no tensor 'image_encoder.trunk.blocks.5.attn.qkv.bias'"],
    );
    let many = zeros(&without("transformer.layers.1.cross_attn"));
    says(
        from_parts(&many, Some(&json)),
        &["16 of 371 tensors", "sam_mask_decoder.transformer.layers.1.cross_attn_token_to_image.q_proj.weight"],
    );
    says(from_parts(&zeros(&without("patch_embed")), Some(&json)), &["no SAM 2 checkpoint"]);
    says(
        from_parts(&zeros(&without("mask_tokens")), Some(&json)),
        &["no tensor 'sam_mask_decoder.mask_tokens.weight'"],
    );
    let mut flat = tensors.clone();
    flat.iter_mut().filter(|(n, _)| n.ends_with("trunk.pos_embed")).for_each(|(_, s)| *s = vec![16 * 49]);
    says(from_parts(&zeros(&flat), Some(&json)), &["not one of 4 axes"]);
}

#[test]
fn layers_without_end_are_refused_before_they_are_listed() {
    let (_, mut tensors) = mini();
    tensors.iter_mut().filter(|(n, _)| n.ends_with("mask_tokens.weight")).for_each(|(_, s)| *s = vec![1_000_001, 1]);
    let json = mini_json().replace("\"num_multimask_outputs\": 3", "\"num_multimask_outputs\": 1000000");
    says(from_parts(&zeros(&tensors), Some(&json)), &["1000000", "256 are the most"]);
}

#[test]
fn a_stranger_beside_a_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mini.pt");
    std::fs::copy(fixture("sam2_mini_image/official.pt"), &file).unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"model_type":"bert"}"#).unwrap();
    says(open(&file), &["put the model's config.json beside"]);
    says(open(folder.path()), &["\"bert\""]);
    std::fs::write(&config, mini_json()).unwrap();
    assert_eq!(open(&file).unwrap().0, open(folder.path()).unwrap().0);
}

#[test]
fn inspection_tells_the_model_or_why_it_is_none() {
    let found = crate::models::inspect(&fixture("sam2_mini_image")).unwrap();
    let expected = "SAM 2.1 of [16, 32, 64, 128] channels and [1, 2, 3, 2] blocks, hidden 64, for 256 px";
    assert_eq!(found.model.as_deref(), Ok(expected));
    assert_eq!((found.summary.tensors.len(), found.summary.parameters), (369, 1_098_770));
    assert_eq!(TINY.to_string(), "SAM 2.1 hiera-tiny");
    let other = crate::models::inspect(&fixture("torch/kinds.pt")).unwrap();
    assert!(other.model.unwrap_err().contains("no SAM 2 checkpoint"));
}
