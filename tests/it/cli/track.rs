//! `impasto track`.

mod bad_input;
mod interrupted;

use super::{Place, Run, checked_mask};
use impasto::{
    image::{Mask, Picture, frames::Clip, indexed, movie::Movie, output},
    kernels::deviation,
    weights::Weights,
};
use safetensors::SafeTensors;
use serde_json::Value;
use std::{collections::BTreeMap, fs::File, process::Stdio};

/// A model of random weights, and what transformers makes of a clip with it.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sam2_mini_video");
const RANDOM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sam2_mini_image");

/// The first `n` frames of the fixture in the folder `in`.
fn frames(place: &Place, n: usize) {
    std::fs::create_dir(place.at("in")).unwrap();
    for i in 0..n {
        std::fs::copy(format!("{FIXTURE}/{i}.png"), place.at(&format!("in/{i}.png"))).unwrap();
    }
}

/// Frames of three colours: a disc and a square, on their ways.
fn drawn(n: usize) -> Vec<Picture> {
    let frame = |f: usize| {
        let pixel = |i: usize| {
            let (x, y) = ((i % 128) as i32, (i / 128) as i32);
            let (dx, dy) = (x - 40 - f as i32 * 3, y - 50 - f as i32);
            match (dx * dx + dy * dy < 400, (85..110).contains(&x) && (75..100).contains(&(y + f as i32))) {
                (true, _) => [220, 40, 30],
                (_, true) => [40, 70, 220],
                _ => [200, 205, 190],
            }
        };
        Picture::new(128, 128, (0..128 * 128).flat_map(pixel).collect()).unwrap()
    };
    (0..n).map(frame).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The masks of a line of `--json`, by object. Areas and boxes are those of the masks.
fn masks(line: &Value) -> BTreeMap<u64, Mask> {
    let objects = line["objects"].as_array().unwrap();
    objects.iter().map(|o| (o["id"].as_u64().unwrap(), checked_mask(o, "rle"))).collect()
}

fn order(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["frame"].as_u64().unwrap()).collect()
}

/// Runs `impasto LINE` with `bytes` on stdin.
fn with_stdin(place: &Place, line: &str, bytes: &[u8]) -> Run {
    std::fs::write(place.at("stdin"), bytes).unwrap();
    let mut command = place.command(&line.split_whitespace().collect::<Vec<_>>());
    Run::of(command.stdin(Stdio::from(File::open(place.at("stdin")).unwrap())).output().unwrap())
}

#[test]
fn objects_are_followed_in_every_form() {
    let place = Place::new();
    frames(&place, 4);
    std::fs::write(place.at("in/notes.txt"), "no frame").unwrap();
    let line = "track in --model mini --point 0:97,123 --box 2:150,110,220,210@9 --out masks --overlay over --cutouts cut \
                --save-tensors t.safetensors --json";
    let run = place.ok(line);
    assert!(run.stderr.contains("in: of its files 1 are no frames by their names: notes.txt"), "{}", run.stderr);
    let all = lines(&run.stdout);
    assert_eq!(order(&all), [0, 1, 2, 3]);
    let bytes = std::fs::read(place.at("t.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (f, line) in all.iter().enumerate() {
        let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["frame", "objects"]);
        let masks = masks(line);
        let ids: &[u64] = if f < 2 { &[1] } else { &[1, 9] };
        assert_eq!(masks.keys().copied().collect::<Vec<_>>(), ids, "frame {f}");
        let first = &line["objects"][0];
        assert!(
            first["score"].as_f64().unwrap() > 0.0 && (0.5..=1.0).contains(&first["iou"].as_f64().unwrap()),
            "{first}"
        );
        assert!(first["area"].as_u64().unwrap() > 500, "{first}");

        // Palette: every pixel is of the lowest object that has it.
        let palette = indexed::load(&place.at(&format!("masks/{f}.png"))).unwrap().unwrap();
        let cut = image::open(place.at(&format!("cut/{f}.png"))).unwrap().into_rgba8();
        let frame = Picture::load(place.at(&format!("in/{f}.png"))).unwrap();
        for (x, y, pixel) in cut.enumerate_pixels() {
            let (x, y) = (x as usize, y as usize);
            let expected = masks.iter().find(|(_, mask)| mask.get(x, y)).map(|(id, _)| *id as u32);
            let found = palette.iter().find(|(_, mask)| mask.get(x, y)).map(|(id, _)| *id);
            assert_eq!(found, expected, "frame {f}: {x} {y}");
            let rgb = &frame.row(y)[x * 3..][..3];
            assert_eq!(pixel.0[..], if found.is_some() { [rgb, &[255]].concat() } else { vec![0; 4] });
        }
        assert_ne!(Picture::load(place.at(&format!("over/{f}.png"))).unwrap().rgb(), frame.rgb());

        let low = tensors.tensor(&format!("f{f}.low_res_masks")).unwrap();
        assert_eq!(low.shape(), [ids.len(), 64, 64]);
        let low: Vec<f32> = bytemuck::pod_collect_to_vec(low.data());
        let share = low[..4096].iter().filter(|l| **l > 0.0).count() as f64 / 4096.0;
        assert!((share - masks[&1].area() as f64 / 65536.0).abs() < 0.005, "frame {f}");
        let scores = tensors.tensor(&format!("f{f}.obj_score")).unwrap();
        let scores: Vec<f32> = bytemuck::pod_collect_to_vec(scores.data());
        assert_eq!(scores[0], first["score"].as_f64().unwrap() as f32);
    }

    // From the palette as a mask prompt; each object in a file of its own.
    let line = "track in --model mini --mask 2:masks/2.png --out each --per-object --json=each.jsonl --from 1";
    let run = place.ok(line);
    assert!(run.stdout.contains("in: 3 frames, 2 objects"), "{}", run.stdout);
    let each = lines(&std::fs::read_to_string(place.at("each.jsonl")).unwrap());
    assert_eq!(order(&each), [1, 2, 3]);
    assert_eq!(each[0]["objects"], serde_json::json!([]), "before its prompt an object is nowhere");
    for (f, line) in each.iter().enumerate().skip(1) {
        for (id, mask) in masks(line) {
            assert_eq!(super::read_mask(place.at(&format!("each/{id}/{}.png", f + 1))), mask);
            let before = &masks(&all[f + 1])[&id];
            assert!(mask.iou(before).unwrap() > 0.8, "object {id}: {}", mask.iou(before).unwrap());
        }
    }
}

#[test]
fn a_clip_is_followed_as_by_transformers() {
    let place = Place::new();
    frames(&place, 8);
    let bytes = std::fs::read(format!("{FIXTURE}/clip.safetensors")).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| fixture.tensor(name).unwrap();
    let mut line = format!("track in --model {RANDOM} --memory-dtype f32 --fill-holes 0 --save-tensors t.safetensors");
    for object in [1, 2] {
        let points: Vec<f32> = bytemuck::pod_collect_to_vec(tensor(&format!("in.o{object}.points")).data());
        let labels: Vec<i32> = bytemuck::pod_collect_to_vec(tensor(&format!("in.o{object}.labels")).data());
        for (p, label) in points.chunks(2).zip(labels) {
            line += &format!(" --point 0:{},{},{label}@{object}", p[0], p[1]);
        }
    }
    let mask = Mask::from_fn_of(tensor("in.o3.mask").data(), 256, 256, |v| v > 0).unwrap();
    output::save_mask(&place.at("mask.png"), &mask).unwrap();
    place.ok(&format!("{line} --mask 0:mask.png@3"));
    let [found, expected] = [place.at("t.safetensors"), format!("{FIXTURE}/clip.safetensors").into()]
        .map(|path| Weights::open(&path).unwrap());
    for f in 0..8 {
        let values = |of: &Weights| of.tensor(&format!("f{f}.low_res_masks")).unwrap().to_f32().unwrap();
        let nmse = deviation(&values(&found), &values(&expected)).0;
        assert!(nmse < 1e-7, "frame {f}: {nmse:.1e}");
    }
}

/// An object with memories in bfloat16, to the end and back. Objects are followed on their own, so that the others of the
/// fixture are not needed.
#[test]
fn both_ways_are_those_of_the_official_package() {
    let place = Place::new();
    frames(&place, 8);
    let flags = "--both --box 2:150,110,220,210@9 --fill-holes 0 --save-tensors t.safetensors";
    place.ok(&format!("track in --model {RANDOM} {flags}"));
    let [found, expected] = [place.at("t.safetensors"), format!("{FIXTURE}/interactive.safetensors").into()]
        .map(|path| Weights::open(&path).unwrap());
    for (f, way) in (0..8).map(|f| (f, if f < 2 { "p1r" } else { "p1" })) {
        let found = found.tensor(&format!("f{f}.low_res_masks")).unwrap().to_f32().unwrap();
        let expected = expected.tensor(&format!("{way}.f{f}.low")).unwrap().to_f32().unwrap();
        // Of two objects it is the second.
        let nmse = deviation(&found, &expected[4096..]).0;
        assert!(nmse < 1e-4, "frame {f}: {nmse:.1e}");
    }
}

/// 16 frames: the reference takes the length of shorter clips into account, which a stream does not know.
#[test]
fn clips_of_every_kind_give_the_same() {
    let place = Place::new();
    std::fs::create_dir(place.at("in")).unwrap();
    let pictures = drawn(16);
    let film = |name: &str| {
        let mut film = Movie::create(&place.at(name), 12.5, (128, 128)).unwrap();
        pictures.iter().try_for_each(|p| film.add(p)).unwrap();
        film.finish().unwrap();
    };
    for (i, picture) in pictures.iter().enumerate() {
        output::save_picture(&place.at(&format!("in/{i}.png")), picture).unwrap();
    }
    let flags = "--model mini --image-size 128 --point 0:40,50 --point 0:97,87@2 --json";
    let expected = place.ok(&format!("track in {flags} --overlay over.gif")).stdout;
    let all = lines(&expected);
    assert_eq!(order(&all), (0..16).collect::<Vec<u64>>());
    for (line, picture) in all.iter().zip(&pictures) {
        let red: Vec<u8> = picture.rgb().chunks(3).map(|p| p[0]).collect();
        let disc = Mask::from_fn_of(&red, 128, 128, |r| r == 220).unwrap();
        let iou = masks(line)[&1].iou(&disc).unwrap();
        assert!(iou > 0.9, "frame {}: {iou}", line["frame"]);
    }
    let overlay = Clip::open(&place.at("over.gif")).unwrap();
    assert_eq!((overlay.length(), overlay.rate()), (impasto::image::frames::Length::Exact(16), Some(25.0)));

    film("clip.gif");
    assert_eq!(place.ok(&format!("track clip.gif {flags}")).stdout, expected, "of a GIF");
    let raw: Vec<u8> = pictures.iter().flat_map(|p| p.rgb().to_vec()).collect();
    let run = with_stdin(&place, &format!("track - --raw 128x128 {flags}"), &raw);
    assert_eq!((run.code, run.stdout == expected), (0, true), "of a stream: {}", run.stderr);

    if std::process::Command::new("ffmpeg").arg("-version").output().is_err() {
        return eprintln!("SKIPPED: videos, as ffmpeg is not installed");
    }
    let convert = ["-v", "error", "-i", "clip.gif", "-c:v", "ffv1", "-pix_fmt", "bgr0", "clip.mkv"];
    let made = std::process::Command::new("ffmpeg").args(convert).current_dir(place.0.path()).status().unwrap();
    assert!(made.success());
    assert_eq!(place.ok(&format!("track clip.mkv {flags} --overlay over.mp4")).stdout, expected, "of a video");
    assert_eq!(Clip::open(&place.at("over.mp4")).unwrap().size(), (128, 128));
}

#[test]
fn both_ways() {
    let place = Place::new();
    frames(&place, 6);
    let flags = "--model mini --point 3:97,123 --json";
    let forward = lines(&place.ok(&format!("track in {flags}")).stdout);
    assert_eq!(order(&forward), [0, 1, 2, 3, 4, 5]);
    assert!(masks(&forward[2]).is_empty() && masks(&forward[3]).contains_key(&1));
    let reverse = lines(&place.ok(&format!("track in {flags} --reverse --from 1")).stdout);
    assert_eq!(order(&reverse), [3, 2, 1]);
    let both = lines(&place.ok(&format!("track in {flags} --both --to 4")).stdout);
    assert_eq!(order(&both), [3, 4, 2, 1, 0]);
    assert_eq!((&both[0], &both[1]), (&forward[3], &forward[4]));
    // It sees what was found on frame 4, too.
    let iou = masks(&both[2])[&1].iou(&masks(&reverse[1])[&1]).unwrap();
    assert!(iou > 0.9, "{iou}");
    let raw: Vec<u8> =
        (0..6).flat_map(|f| Picture::load(place.at(&format!("in/{f}.png"))).unwrap().rgb().to_vec()).collect();
    let run = with_stdin(&place, &format!("track - --raw 256x256 {flags} --both"), &raw);
    assert_eq!(order(&lines(&run.stdout)), [3, 4, 5, 2, 1, 0], "{}", run.stderr);
    assert!(place.run(&["track", "in", "--point", "0:9,9", "--both", "--reverse"]).code == 2);
}

#[test]
fn masks_of_the_first_frame_corrections_and_no_overlap() {
    let place = Place::new();
    frames(&place, 3);
    let found =
        "--objects-from-masks --max-objects 3 --points-per-side 6 --pred-iou-thresh 0.7 --stability-score-thresh 0.8";
    let all = lines(&place.ok(&format!("track in --model mini {found} --non-overlap --json")).stdout);
    for line in &all {
        let masks: Vec<Mask> = masks(line).into_values().collect();
        assert_eq!(masks.len(), 3);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert_eq!(masks[a].intersection(&masks[b]).unwrap(), 0);
        }
    }
    // A correction refines what was found on its frame; given first, it is a prompt like any other.
    let flags = "--model mini --point 0:97,123 --point 2:60,140 --json";
    let plain = lines(&place.ok("track in --model mini --point 0:97,123 --json").stdout);
    let corrected = lines(&place.ok(&format!("track in {flags}")).stdout);
    assert_eq!(corrected[..2], plain[..2]);
    assert_ne!(corrected[2], plain[2]);
    let first = lines(&place.ok(&format!("track in {flags} --prompts-first")).stdout);
    assert_ne!(first[1], plain[1], "frame 1 knows of the prompt behind it");
    // How frames are prepared is not without a trace.
    let official =
        lines(&place.ok("track in --model mini --point 0:97,123 --json --preprocess official --image-size 224").stdout);
    let again = lines(&place.ok("track in --model mini --point 0:97,123 --json --image-size 224").stdout);
    assert_ne!(official, again);
    assert!(masks(&official[2])[&1].iou(&masks(&again[2])[&1]).unwrap() > 0.9);
    let plan = place.ok("track in --point 1:97,123@4 --both --out masks --dry-run").stdout;
    assert_eq!(plan, "in: 3 frames of 256x256\nframe 1: prompts of 4\n3 frames to follow, both\n");
    assert_eq!(place.files(), ["in"], "a plan writes nothing");
}
