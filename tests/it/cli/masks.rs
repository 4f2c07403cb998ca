//! `impasto masks`.

use super::{Place, checked_mask, read_mask, sample};
use impasto::image::{Picture, Rle};
use serde_json::Value;

#[test]
fn every_object_in_every_form() {
    let place = Place::new();
    let flags = "--model mini --points-per-side 6 --pred-iou-thresh 0.7 --stability-score-thresh 0.8";
    let line = format!("masks {} {flags} -o m.json --overlay over.png --png-dir parts", sample());
    let json = place.json(&line);
    let file: Value = serde_json::from_slice(&std::fs::read(place.at("m.json")).unwrap()).unwrap();
    assert_eq!(json["masks"], file);
    let records = file.as_array().unwrap();
    assert!(records.len() >= 3, "{} masks of four objects", records.len());
    for (i, r) in records.iter().enumerate() {
        let mut keys: Vec<&str> = r.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let official = ["area", "bbox", "crop_box", "point_coords", "predicted_iou", "segmentation", "stability_score"];
        assert_eq!(keys, official);
        let mask = checked_mask(r, "segmentation");
        assert!(r["predicted_iou"].as_f64().unwrap() > 0.7 && r["stability_score"].as_f64().unwrap() >= 0.8);
        assert_eq!(r["crop_box"], serde_json::json!([0, 0, 480, 360]));
        assert_eq!(r["point_coords"].as_array().unwrap().len(), 1);
        assert_eq!(read_mask(place.at(&format!("parts/sample.{i:03}.png"))), mask);
    }
    assert_eq!(std::fs::read_dir(place.at("parts")).unwrap().count(), records.len());
    let overlay = Picture::load(place.at("over.png")).unwrap();
    assert_ne!(overlay.rgb(), Picture::load(sample()).unwrap().rgb());

    let line = format!("masks {} {flags} -o m.json", sample());
    let read = || -> Value { serde_json::from_slice(&std::fs::read(place.at("m.json")).unwrap()).unwrap() };
    let summary = place.ok(&format!("{line} --format uncompressed"));
    assert!(summary.stdout.contains(&format!("{} masks", records.len())), "{}", summary.stdout);
    for (numbers, text) in read().as_array().unwrap().iter().zip(records) {
        let rle = |r: &Value| Rle::from_coco(serde_json::from_value(r["segmentation"].clone()).unwrap()).unwrap();
        assert!(numbers["segmentation"]["counts"].is_array() && text["segmentation"]["counts"].is_string());
        assert_eq!(rle(numbers), rle(text));
    }
    place.ok(&format!("{line} --format polygons"));
    for r in read().as_array().unwrap() {
        let polygons: Vec<Vec<u32>> = serde_json::from_value(r["segmentation"].clone()).unwrap();
        assert!(!polygons.is_empty() && polygons.iter().all(|p| p.len() >= 8 && p.len() % 2 == 0));
    }
}

#[test]
fn presets_and_flags() {
    let place = Place::new();
    let run = place.run(&["masks", &sample(), "--model", "mini"]);
    assert!(run.code == 2 && run.stderr.contains("no output"), "{}", run.stderr);
    let run = place.run(&["masks", &sample(), "--points-per-side", "0", "--json"]);
    assert!(run.code == 2 && run.stderr.contains("points a side"), "{}", run.stderr);
    let none = place.json(&format!("masks {} --model mini --points-per-side 2 --pred-iou-thresh 1", sample()));
    assert_eq!(none["masks"], serde_json::json!([]));
}
