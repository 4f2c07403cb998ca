//! `impasto segment`.

use super::{Place, checked_mask, read_mask, sample};
use impasto::image::Picture;
use safetensors::SafeTensors;
use serde_json::Value;

fn masks(json: &Value) -> &Vec<Value> {
    json["masks"].as_array().unwrap()
}

/// Whether a pixel's colour says that it is of the sample's cross, up to the grain: clicks on it should find those.
fn is_cross(p: &[u8]) -> bool {
    p[1] > 180 && p[0] < 100
}

#[test]
fn a_click_gives_the_object_in_every_form() {
    let place = Place::new();
    let line = format!(
        "segment {} --point 150,100 --model mini -o mask.png --overlay over.jpg --cutout cut.webp --rle rle.json \
         --polygons poly.json",
        sample()
    );
    let json = place.json(&line);
    let picture = Picture::load(sample()).unwrap();
    let (w, h) = (picture.width(), picture.height());
    assert_eq!(json["image"], serde_json::json!({ "width": w, "height": h }));
    assert_eq!(json["model"], "mini");
    assert!(!json["adapter"].as_str().unwrap().is_empty());
    for step in ["load", "read", "encode", "decode", "write", "total"] {
        assert!(json["timings_ms"][step].as_f64().unwrap() >= 0.0, "{step}");
    }
    let bytes = |what: &str| json["gpu_bytes"][what].as_u64().unwrap();
    assert!(bytes("planned") > 7_000_000 && bytes("allocated") > 7_000_000);

    let [record] = &masks(&json)[..] else { panic!("{json}") };
    let mask = checked_mask(record, "rle");
    let cross: Vec<u8> = picture.rgb().chunks(3).map(|p| u8::from(is_cross(p))).collect();
    let cross = impasto::image::Mask::from_fn_of(&cross, w, h, |v| v > 0).unwrap();
    assert!(mask.iou(&cross).unwrap() > 0.9, "{}", mask.iou(&cross).unwrap());
    for score in ["score", "stability"] {
        assert!((0.5..=1.0).contains(&record[score].as_f64().unwrap()), "{record}");
    }
    assert!(record["object_score"].as_f64().unwrap() > 0.0 && record["mean_abs_logit"].as_f64().unwrap() > 0.0);

    assert_eq!(read_mask(place.at("mask.png")), mask);
    let overlay = Picture::load(place.at("over.jpg")).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (w, h));
    let cut = image::open(place.at("cut.webp")).unwrap().into_rgba8();
    assert!(cut.enumerate_pixels().all(|(x, y, p)| p[3] == if mask.get(x as usize, y as usize) { 255 } else { 0 }));

    let file = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(place.at(name)).unwrap()).unwrap() };
    assert_eq!(checked_mask(&file("rle.json")[0], "segmentation"), mask);
    let polygons = file("poly.json")[0]["polygons"].clone();
    let area: i64 = polygons.as_array().unwrap().iter().map(twice_area).sum();
    assert_eq!(area.unsigned_abs() / 2, mask.area());
    assert_eq!(place.files(), ["cut.webp", "mask.png", "over.jpg", "poly.json", "rle.json"]);
}

/// Twice the area within a polygon; holes run the other way round and count against it.
fn twice_area(polygon: &Value) -> i64 {
    let points: Vec<[i64; 2]> = serde_json::from_value(polygon["points"].clone()).unwrap();
    let next = points.iter().cycle().skip(1);
    points.iter().zip(next).map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum()
}

#[test]
fn all_candidates_and_the_best() {
    let place = Place::new();
    let line = format!("segment {} --point 360,260 --model mini -o mask.png", sample());
    let best = place.json(&line);
    let all = place.json(&format!("{line} --all --overlay over.png"));
    let score = |m: &Value| m["score"].as_f64().unwrap();
    assert_eq!((masks(&best).len(), masks(&all).len()), (1, 3));
    for (i, record) in masks(&all).iter().enumerate() {
        assert_eq!(record["candidate"], i);
        assert!(score(record) <= score(&masks(&best)[0]));
        assert_eq!(read_mask(place.at(&format!("mask.{i}.png"))), checked_mask(record, "rle"));
        assert!(place.at(&format!("over.{i}.png")).exists());
    }
    let chosen = masks(&best)[0]["candidate"].as_u64().unwrap() as usize;
    assert_eq!(masks(&best)[0], masks(&all)[chosen]);
    let single = place.json(&format!("{line} --multimask off --postprocess raw"));
    assert_eq!((masks(&single).len(), &masks(&single)[0]["candidate"]), (1, &Value::from(0)));
}

#[test]
fn several_objects_are_several_files() {
    let place = Place::new();
    let both = place.json(&format!(
        "segment {} --box 320,40,420,140 --box 290,180,435,325 --point 360,260@1 --model mini -o mask.png",
        sample()
    ));
    assert_eq!(place.files(), ["mask.0.png", "mask.1.png"]);
    assert_eq!(masks(&both).iter().map(|m| m["object"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
    let [a, b] = [0, 1].map(|i| checked_mask(&masks(&both)[i], "rle"));
    assert_eq!(a.intersection(&b).unwrap(), 0);
    // One by one they are the same.
    let one = place.json(&format!("segment {} --box 320,40,420,140 --model mini", sample()));
    assert!(checked_mask(&masks(&one)[0], "rle").iou(&a).unwrap() > 0.999);
}

#[test]
fn tensors_and_embeddings_can_be_used_again() {
    let place = Place::new();
    let line = format!("segment {} --point 150,100 --model mini", sample());
    let first = place.json(&format!("{line} --save-tensors t.safetensors --save-embedding e.safetensors"));
    let bytes = std::fs::read(place.at("t.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str, shape: &[usize]| -> Vec<f32> {
        let t = tensors.tensor(name).unwrap();
        assert_eq!(t.shape(), shape, "{name}");
        bytemuck::pod_collect_to_vec(t.data())
    };
    values("image_embed", &[1, 128, 16, 16]);
    values("feat0", &[1, 16, 64, 64]);
    values("feat1", &[1, 32, 32, 32]);
    let low = values("low_res_masks", &[1, 3, 64, 64]);
    let iou = values("iou", &[1, 3]);
    let record = &masks(&first)[0];
    assert_eq!(f64::from(values("obj_score", &[1, 1])[0]) as f32, record["object_score"].as_f64().unwrap() as f32);
    let best = record["candidate"].as_u64().unwrap() as usize;
    assert_eq!(iou[best], record["score"].as_f64().unwrap() as f32);
    let above = low[best * 4096..][..4096].iter().filter(|l| **l > 0.0).count() as f64 / 4096.0;
    let share = record["area"].as_f64().unwrap() / (480.0 * 360.0);
    assert!((above - share).abs() < 0.01, "{above} of the low-resolution mask, {share} of the mask");

    let again = place.json("segment --embedding e.safetensors --point 150,100 --model mini");
    assert_eq!(masks(&again)[0]["rle"], record["rle"]);
    assert_eq!(again["image"], first["image"]);
    let other = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sam2_mini_image");
    let run = place.run(&["segment", "--embedding", "e.safetensors", "--point", "150,100", "--model", other]);
    assert!(run.code == 1 && run.stderr.contains("another model"), "{}", run.stderr);
    let refined = place.json(&format!("{line} --mask t.safetensors"));
    let iou = checked_mask(&masks(&refined)[0], "rle").iou(&checked_mask(record, "rle")).unwrap();
    assert!(iou > 0.9, "{iou}");
}

#[test]
fn masks_noise_and_no_prompt() {
    let place = Place::new();
    place.ok(&format!("segment {} --point 130,270 --model mini -o mask.png -q", sample()));
    let line = format!("segment {} --model mini --mask mask.png --stability-noise 4", sample());
    let json = place.json(&line);
    let record = &masks(&json)[0];
    let iou = checked_mask(record, "rle").iou(&read_mask(place.at("mask.png"))).unwrap();
    assert!(iou > 0.8, "{iou}");
    let noise = record["noise_stability"].as_f64().unwrap();
    assert!((0.5..=1.0).contains(&noise), "{noise}");
    let none = place.json(&format!("segment {} --model mini --no-prompt --image-size 128", sample()));
    checked_mask(&masks(&none)[0], "rle");
}

#[test]
fn a_folder_is_a_batch_and_what_is_broken_in_it_is_told() {
    let place = Place::new();
    std::fs::create_dir(place.at("in")).unwrap();
    std::fs::create_dir(place.at("out")).unwrap();
    for name in ["a", "b", "d"] {
        std::fs::copy(sample(), place.at(&format!("in/{name}.png"))).unwrap();
    }
    std::fs::write(place.at("in/c.png"), "not a picture").unwrap();
    let line = "segment in --point 150,100 --model mini --json -o out/{stem}.mask.png";
    let run = place.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("c.png") && run.stderr.contains("1 of 4"), "{}", run.stderr);
    let lines: Vec<Value> = run.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[2]["error"].as_str().unwrap().contains("c.png"));
    let first = checked_mask(&masks(&lines[0])[0], "rle");
    for (i, name) in [(0, "a"), (1, "b"), (3, "d")] {
        assert_eq!(checked_mask(&masks(&lines[i])[0], "rle"), first);
        assert_eq!(read_mask(place.at(&format!("out/{name}.mask.png"))), first);
        // Memory stays as it was after the first.
        assert_eq!(lines[i]["gpu_bytes"], lines[0]["gpu_bytes"]);
    }
}

#[test]
fn the_summary_goes_away_with_quiet_and_details_come_with_verbose() {
    let place = Place::new();
    let line = format!("segment {} --point 150,100 --model mini", sample());
    let plain = place.ok(&line);
    assert!(plain.stdout.contains("score") && plain.stderr.is_empty(), "{}{}", plain.stdout, plain.stderr);
    let quiet = place.ok(&format!("{line} -q"));
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty());
    let verbose = place.ok(&format!("{line} -v"));
    assert!(verbose.stderr.matches("dispatches=").count() >= 2, "{}", verbose.stderr);
}
