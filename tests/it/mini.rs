//! The embedded miniature on held-out pictures: a click, a box and three clicks give what PyTorch gave.
//! `tests/fixtures/sam2_heldout/index.json` has the prompts and the IoUs that transformers reached.

use crate::common::{fixture, gpu};
use impasto::{
    gpu::Checks,
    graph::Control,
    image::{Mask, Picture},
    models::sam2::{self, Ask, MaskPrompt, Options, Predictor, Prompt},
};
use pollster::block_on;
use serde_json::Value;

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect()
}

#[test]
fn held_out_pictures() {
    let (config, weights) = sam2::mini().unwrap();
    let mut p = block_on(Predictor::new(gpu(Checks::Trusted), config, &weights, Options::default())).unwrap();
    let index: Value = serde_json::from_slice(&std::fs::read(fixture("sam2_heldout/index.json")).unwrap()).unwrap();
    let entries = index.as_array().unwrap();
    assert_eq!(entries.len(), 6);
    for entry in entries {
        let file = |key: &str| fixture(&format!("sam2_heldout/{}", entry[key].as_str().unwrap()));
        let picture = Picture::load(file("image")).unwrap();
        let truth = Picture::load(file("gt")).unwrap();
        let grey: Vec<f32> = truth.rgb().chunks(3).map(|p| f32::from(p[0])).collect();
        let truth = Mask::from_logits(&grey, truth.width(), truth.height(), 127.0).unwrap();
        block_on(p.set_image(&picture, Control::default())).unwrap();
        let close = |what: &str, found: f64, expected: &Value| {
            let expected = expected.as_f64().unwrap();
            // A pixel on the border of a small object is worth half a percent.
            assert!((found - expected).abs() <= 0.005, "{} {what}: {found:.4}, PyTorch {expected}", entry["image"]);
        };
        let ask = |p: &mut Predictor, prompt: &Prompt, multimask| {
            block_on(p.predict_one(prompt, &Ask { multimask, ..Ask::default() }, Control::default())).unwrap()
        };

        let clicks: Vec<Vec<f32>> = entry["clicks"].as_array().unwrap().iter().map(floats).collect();
        let labels = floats(&entry["labels"]);
        let mut prompt = Prompt::default().and_point(clicks[0][0], clicks[0][1], labels[0] == 1.0);
        let first = ask(&mut p, &prompt, true);
        let reference = &entry["ref"];
        for (i, c) in first.candidates.iter().enumerate() {
            close("click", c.mask().unwrap().iou(&truth).unwrap(), &reference["ious_click"][i]);
            close("predicted IoU", f64::from(c.iou), &reference["predicted_iou"][i]);
        }
        close("object score", f64::from(first.object_score), &reference["object_score"]);

        let bounds: [f32; 4] = floats(&entry["box"]).try_into().unwrap();
        let boxed = ask(&mut p, &Prompt::bounds(bounds), false);
        close("box", boxed.best().mask().unwrap().iou(&truth).unwrap(), &reference["iou_box"]);

        // Corrections: each click goes in with the mask so far.
        let mut current = first.best().clone();
        for (xy, label) in clicks.iter().zip(&labels).skip(1) {
            prompt = prompt.and_point(xy[0], xy[1], *label == 1.0).and_mask(MaskPrompt::Logits(current.refinement()));
            current = ask(&mut p, &prompt, false).best().clone();
        }
        close("three clicks", current.mask().unwrap().iou(&truth).unwrap(), &reference["iou_3_clicks"]);
    }
}
