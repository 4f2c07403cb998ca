//! Automatic masks against the official generator: `tests/fixtures/sam2_mini_amg/cases.json` holds what it gave for the
//! fixture's picture under several settings.

use crate::common::{fixture, gpu};
use impasto::{
    gpu::Checks,
    graph::Control,
    image::{Picture, rle::Rle},
    models::sam2::{
        self, Options, Predictor,
        amg::{self, Settings},
    },
    nn::Storage,
};
use pollster::block_on;
use serde_json::Value;

/// The fixture's `args`, by the official names, over the defaults.
fn settings(args: &Value) -> Settings {
    let mut s = Settings::default();
    for (name, v) in args.as_object().unwrap() {
        let number = || v.as_f64().unwrap();
        match name.as_str() {
            "points_per_side" => s.points_per_side = number() as usize,
            "points_per_batch" => s.points_per_batch = number() as usize,
            "pred_iou_thresh" => s.pred_iou_thresh = number() as f32,
            "stability_score_thresh" => s.stability_score_thresh = number() as f32,
            "box_nms_thresh" => s.box_nms_thresh = number(),
            "crop_n_layers" => s.crop_n_layers = number() as usize,
            "crop_nms_thresh" => s.crop_nms_thresh = number(),
            "crop_n_points_downscale_factor" => s.crop_n_points_downscale_factor = number() as usize,
            "use_m2m" => s.use_m2m = v.as_bool().unwrap(),
            "multimask_output" => s.multimask_output = v.as_bool().unwrap(),
            // Here areas are the picture's and take effect; the reference, without CUDA, skips the step silently.
            "min_mask_region_area" => {}
            other => panic!("unknown setting {other}"),
        }
    }
    s
}

#[test]
fn records_equal_the_official_generator() {
    let file = std::fs::read(fixture("sam2_mini_image/io.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let picture = Picture::new(256, 256, file.tensor("image_u8").unwrap().data().to_vec()).unwrap();
    let (config, weights) = sam2::open(&fixture("sam2_mini_image")).unwrap();
    let options = Options { storage: Storage::F32, ..Options::default() };
    let mut p = block_on(Predictor::new(gpu(Checks::Trusted), config, &weights, options)).unwrap();

    let cases: Value = serde_json::from_slice(&std::fs::read(fixture("sam2_mini_amg/cases.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (name, case) in cases["cases"].as_object().unwrap() {
        let found = block_on(amg::generate(&mut p, &picture, &settings(&case["args"]), Control::default())).unwrap();
        let expected = case["masks"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            let number = |v: &Value| v.as_f64().unwrap();
            let close = |what: &str, a: f64, b: f64, by: f64| {
                assert!((a - b).abs() <= by, "{name} mask {i} {what}: {a}, official {b}");
            };
            close("predicted_iou", f64::from(a.predicted_iou), number(&b["predicted_iou"]), 1e-5);
            // A logit within rounding of a threshold may fall on either side.
            close("stability_score", f64::from(a.stability_score), number(&b["stability_score"]), 1e-3);
            close("area", a.area as f64, number(&b["area"]), 3.0);
            for (j, v) in a.bbox.iter().enumerate() {
                close("bbox", f64::from(*v), number(&b["bbox"][j]), 1.0);
            }
            for (j, v) in a.point_coords.iter().enumerate() {
                close("point_coords", f64::from(*v), number(&b["point_coords"][0][j]), 1e-4);
            }
            for (j, v) in a.crop_box.iter().enumerate() {
                close("crop_box", *v as f64, number(&b["crop_box"][j]), 0.0);
            }
            let counts = b["segmentation"]["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32);
            let official = Rle::new(256, 256, counts.collect()).unwrap().decode();
            let iou = a.segmentation.decode().iou(&official).unwrap();
            assert!(iou >= 0.999, "{name} mask {i}: IoU {iou}");
            compared += 1;
        }
    }
    assert_eq!(compared, 16);
}

#[test]
fn small_regions_are_removed_at_the_pictures_size() {
    let (config, weights) = sam2::mini().unwrap();
    let mut p = block_on(Predictor::new(gpu(Checks::Trusted), config, &weights, Options::default())).unwrap();
    let picture = Picture::load(fixture("sam2_heldout/2.png")).unwrap();
    let loose = Settings {
        points_per_side: 3,
        pred_iou_thresh: 0.0,
        stability_score_thresh: 0.0,
        box_nms_thresh: 1.0,
        ..Settings::default()
    };
    let all = block_on(amg::generate(&mut p, &picture, &loose, Control::default())).unwrap();
    let cleaned = Settings { min_mask_region_area: 50, ..loose };
    let cleaned = block_on(amg::generate(&mut p, &picture, &cleaned, Control::default())).unwrap();
    assert!(all.len() > 10 && !cleaned.is_empty());
    let smallest = |records: &[amg::Record]| {
        let areas = |r: &amg::Record| {
            let parts = impasto::image::components::Components::of(&r.segmentation.decode());
            parts.areas().iter().copied().min().unwrap_or(u64::MAX)
        };
        records.iter().map(areas).min().unwrap()
    };
    assert!(smallest(&all) < 50, "the test needs a mask with a small island");
    assert!(smallest(&cleaned) >= 50);
}
