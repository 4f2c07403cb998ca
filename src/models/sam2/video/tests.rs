//! Sessions against the two official implementations.

use super::{Options, Session, Tracked};
use crate::{
    gpu::{self, Gpu},
    graph::Control,
    image::{Mask, Picture},
    kernels::deviation,
    models::sam2::{open, prompt::Prompt},
    weights::Weights,
};
use pollster::block_on;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn oracle(name: &str) -> PathBuf {
    PathBuf::from(std::env::var("ORACLE").unwrap()).join(name)
}

fn session(options: Options) -> Session {
    let gpu = block_on(Gpu::open(&gpu::Options { untuned: true, ..gpu::Options::from_env() })).unwrap();
    let (config, weights) = open(&fixture("sam2_mini_image")).unwrap();
    block_on(Session::new(&gpu, config, &weights, options)).unwrap()
}

fn frames() -> Vec<Picture> {
    let io = Weights::open(&oracle("sam2_mini_video/io.safetensors")).unwrap();
    let all = io.tensor("frames_u8").unwrap();
    let frame = |bytes: &[u8]| Picture::new(256, 256, bytes.to_vec()).unwrap();
    all.bytes().chunks(256 * 256 * 3).map(frame).collect()
}

/// Mean square error over mean square, and pixels on the other side of 0.
fn against(found: &Tracked, expected: &[f32]) -> (f64, usize) {
    let other = found.low_res.iter().zip(expected).filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count();
    (deviation(&found.low_res, expected).0, other)
}

#[test]
fn a_clip_is_followed_as_by_transformers() {
    let io = Weights::open(&oracle("sam2_mini_video/io.safetensors")).unwrap();
    let get = |name: &str| io.tensor(name).unwrap().to_f32().unwrap();
    let options = Options { bf16: false, hole_area: Some(0), frames: Some(8), ..Options::default() };
    let mut s = session(options);
    for (f, frame) in frames().iter().enumerate() {
        block_on(s.set_frame(f, frame, Control::default())).unwrap();
        if f == 0 {
            for id in [1, 2] {
                let (points, labels) =
                    (get(&format!("in.o{id}.points")), io.tensor(&format!("in.o{id}.labels")).unwrap());
                let labels: Vec<i32> = bytemuck::pod_collect_to_vec(&labels.bytes());
                let mut prompt = Prompt::default();
                for (p, label) in points.chunks(2).zip(labels) {
                    prompt = prompt.and_point(p[0], p[1], label == 1);
                }
                block_on(s.prompt(id, &prompt, false, Control::default())).unwrap();
            }
            let mask = Mask::from_logits(&get("in.o3.mask"), 256, 256, 0.5).unwrap();
            block_on(s.prompt_mask(3, &mask, Control::default())).unwrap();
        }
        let found = block_on(s.track(false, Control::default())).unwrap();
        let (expected, scores) = (get(&format!("f{f}.low_res_masks")), get(&format!("f{f}.obj_score")));
        for (o, found) in found.iter().enumerate() {
            let nmse = against(found, &expected[o * 4096..][..4096]);
            println!("frame {f} object {o}: {nmse:?} score {} {}", found.score, scores[o]);
        }
    }
}

#[test]
fn corrections_and_reverse_are_as_in_the_official_package() {
    let config = std::fs::read_to_string(oracle("sam2_mini_video_interactive/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let io = Weights::open(&oracle("sam2_mini_video_interactive/io.safetensors")).unwrap();
    let options = Options { hole_area: Some(0), frames: Some(8), corrections_condition: false, ..Options::default() };
    let mut s = session(options);
    let frames = frames();
    for step in config["steps"].as_array().unwrap() {
        let tag = step["tag"].as_str().unwrap_or_default();
        let number = |name: &str| step[name].as_u64().map(|n| n as usize);
        match step["op"].as_str().unwrap() {
            "add_points_or_box" => {
                let at = number("frame").unwrap();
                if s.frame() != Some(at) {
                    block_on(s.set_frame(at, &frames[at], Control::default())).unwrap();
                }
                let mut prompt = Prompt::default();
                let floats = |v: &serde_json::Value| -> Vec<f32> {
                    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
                };
                if let Some(b) = step.get("box") {
                    let b = floats(b);
                    prompt.bounds = Some([b[0], b[1], b[2], b[3]]);
                }
                if let Some(points) = step.get("points") {
                    for (p, l) in points.as_array().unwrap().iter().zip(step["labels"].as_array().unwrap()) {
                        let p = floats(p);
                        prompt = prompt.and_point(p[0], p[1], l.as_i64() == Some(1));
                    }
                }
                let more = step.get("clear_old_points").is_some_and(|v| v == false);
                let id = number("obj").unwrap() as u32;
                let found = block_on(s.prompt(id, &prompt, more, Control::default())).unwrap();
                let expected = io.tensor(tag).unwrap().to_f32().unwrap();
                let which =
                    step["ids"].as_array().unwrap().iter().position(|i| i.as_u64() == Some(u64::from(id))).unwrap();
                let logits = found.logits().unwrap();
                let halved: Vec<f32> = (0..128 * 128).map(|i| logits[i / 128 * 2 * 256 + i % 128 * 2]).collect();
                println!("{tag}: {:?}", deviation(&halved, &expected[which * 128 * 128..][..128 * 128]));
            }
            "propagate" => {
                let reverse = step.get("reverse").is_some_and(|v| v == true);
                let start = number("start_frame_idx").unwrap_or(2);
                let order: Vec<usize> = if reverse { (0..=start).rev().collect() } else { (start..8).collect() };
                for f in order {
                    block_on(s.set_frame(f, &frames[f], Control::default())).unwrap();
                    let found = block_on(s.track(reverse, Control::default())).unwrap();
                    let expected = io.tensor(&format!("{tag}.f{f}.low")).unwrap().to_f32().unwrap();
                    for (o, found) in found.iter().enumerate() {
                        println!(
                            "{tag} frame {f} object {}: {:?}",
                            found.object,
                            against(found, &expected[o * 4096..][..4096])
                        );
                    }
                }
            }
            "remove_object" => assert!(s.remove(number("obj").unwrap() as u32)),
            other => panic!("{other}"),
        }
    }
}
