//! Automatic masks: a grid of clicks, filtered. After `SAM2AutomaticMaskGenerator`
//! (`sam2/automatic_mask_generator.py`): its parameters, defaults and order of operations.
//!
//! Masks are judged on the device: one pass counts what stability, area and box need at the picture's size. Only the
//! low-resolution logits of the survivors are read back (256 KiB each, less than a 4K bit mask), and become masks on
//! the host.

use super::{
    grid::{Crop, build_all_layer_point_grids, generate_crop_boxes, is_box_near_crop_edge, uncrop_box, uncrop_point},
    judge::Judged,
    predictor::Predictor,
    prompt::{MaskPrompt, Prompt},
};
use crate::{
    error::{Result, ensure},
    graph::Control,
    image::{
        Mask, Picture,
        components::{Regions, remove_small_regions},
        nms::nms,
        resize,
        rle::Rle,
    },
};

/// The official generator's parameters, by their official names.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Clicks along each side of the picture.
    pub points_per_side: usize,
    /// Clicks decoded at once, at most; memory may allow fewer, with the same result.
    pub points_per_batch: usize,
    /// Masks of a predicted IoU above this are kept.
    pub pred_iou_thresh: f32,
    /// Masks of at least this stability are kept.
    pub stability_score_thresh: f32,
    /// How far the threshold is moved to measure stability.
    pub stability_score_offset: f32,
    /// Logits above this are the object.
    pub mask_threshold: f32,
    /// Boxes within a crop that overlap more than this are duplicates.
    pub box_nms_thresh: f64,
    /// Layers of crops: layer i cuts the picture in 2^i x 2^i overlapping parts.
    pub crop_n_layers: usize,
    /// Boxes of different crops that overlap more than this are duplicates.
    pub crop_nms_thresh: f64,
    /// Overlap of crops, as a share of the shorter side in the first layer.
    pub crop_overlap_ratio: f64,
    /// Layer i has `points_per_side / factor^i` clicks a side.
    pub crop_n_points_downscale_factor: usize,
    /// Holes and islands of fewer pixels of the picture are removed; 0 keeps all. (SAM 2 hands this number to a
    /// step that works at low resolution and only with CUDA; here it means what SAM 1 meant.)
    pub min_mask_region_area: u64,
    /// Decode each mask once more with itself as a prompt.
    pub use_m2m: bool,
    /// Three masks a click, or one.
    pub multimask_output: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            points_per_side: 32,
            points_per_batch: 64,
            pred_iou_thresh: 0.8,
            stability_score_thresh: 0.95,
            stability_score_offset: 1.0,
            mask_threshold: 0.0,
            box_nms_thresh: 0.7,
            crop_n_layers: 0,
            crop_nms_thresh: 0.7,
            crop_overlap_ratio: 512.0 / 1500.0,
            crop_n_points_downscale_factor: 1,
            min_mask_region_area: 0,
            use_m2m: false,
            multimask_output: true,
        }
    }
}

impl Settings {
    /// The dense settings of the official notebook: more and smaller masks, at five times the work.
    pub fn dense() -> Self {
        Self {
            points_per_side: 64,
            points_per_batch: 128,
            pred_iou_thresh: 0.7,
            stability_score_thresh: 0.92,
            stability_score_offset: 0.7,
            crop_n_layers: 1,
            crop_n_points_downscale_factor: 2,
            min_mask_region_area: 25,
            use_m2m: true,
            ..Self::default()
        }
    }

    /// # Errors
    /// `Argument` for settings that cannot be meant.
    pub fn check(&self) -> Result<()> {
        ensure!((1..=256).contains(&self.points_per_side), Argument, "1 to 256 points a side");
        ensure!(self.points_per_batch > 0, Argument, "at least one point a batch");
        ensure!(self.crop_n_layers <= 4, Argument, "at most 4 layers of crops");
        ensure!(self.crop_n_points_downscale_factor > 0, Argument, "the downscale factor is at least 1");
        let numbers =
            [self.pred_iou_thresh, self.stability_score_thresh, self.stability_score_offset, self.mask_threshold];
        ensure!(numbers.iter().all(|v| v.is_finite()), Argument, "thresholds are numbers");
        Ok(())
    }
}

/// One mask, with the official record's fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The mask, as large as the picture.
    pub segmentation: Rle,
    /// Its pixels.
    pub area: u64,
    /// `[x, y, w, h]` with `w = max - min`, as the reference.
    pub bbox: [f32; 4],
    /// The IoU that the model expects.
    pub predicted_iou: f32,
    /// The click that gave it.
    pub point_coords: [f32; 2],
    /// Stability at the settings' offset.
    pub stability_score: f32,
    /// The crop that it was found in, `[x, y, w, h]`.
    pub crop_box: [usize; 4],
    /// The object score's logit.
    pub object_score: f32,
}

/// A mask on its way to a record; box and click in the crop's frame until the crop is done.
struct Found {
    rle: Rle,
    bounds: [f32; 4],
    iou: f32,
    point: [f32; 2],
    stability: f32,
    object_score: f32,
    crop: [usize; 4],
}

/// Every mask of a picture.
///
/// # Errors
/// `Argument` for settings that cannot be meant, `Cancelled`, and what the predictor reports.
pub async fn generate(p: &mut Predictor, picture: &Picture, s: &Settings, control: Control<'_>) -> Result<Vec<Record>> {
    s.check()?;
    let (height, width) = (picture.height(), picture.width());
    let crops = generate_crop_boxes(height, width, s.crop_n_layers, s.crop_overlap_ratio)?;
    let grids = build_all_layer_point_grids(s.points_per_side, s.crop_n_layers, s.crop_n_points_downscale_factor)?;
    let mut found = Vec::new();
    for (n, crop) in crops.iter().enumerate() {
        let report = |share: f32| {
            if let Some(progress) = control.progress {
                progress((n as f32 + share) / crops.len() as f32);
            }
        };
        let inner = Control { cancel: control.cancel, progress: None };
        found.extend(process_crop(p, picture, crop, &grids[crop.layer], s, inner, &report).await?);
        report(1.0);
    }
    if crops.len() > 1 {
        // Masks of smaller crops win; ties keep their order.
        let scores: Vec<f32> = found.iter().map(|f| 1.0 / area(f.crop)).collect();
        found = keep(found, &scores, s.crop_nms_thresh);
    }
    if s.min_mask_region_area > 0 {
        found = without_small_regions(found, s)?;
    }
    Ok(found.into_iter().map(Found::record).collect())
}

fn area([x0, y0, x1, y1]: [usize; 4]) -> f32 {
    ((x1 - x0) * (y1 - y0)) as f32
}

/// Non-maximum suppression: what is kept, best first.
fn keep(found: Vec<Found>, scores: &[f32], threshold: f64) -> Vec<Found> {
    let boxes: Vec<[f32; 4]> = found.iter().map(|f| f.bounds).collect();
    let mut found: Vec<Option<Found>> = found.into_iter().map(Some).collect();
    nms(&boxes, scores, threshold).into_iter().filter_map(|i| found[i].take()).collect()
}

async fn process_crop(
    p: &mut Predictor,
    picture: &Picture,
    crop: &Crop,
    grid: &[[f64; 2]],
    s: &Settings,
    control: Control<'_>,
    report: &(dyn Fn(f32) + Sync),
) -> Result<Vec<Found>> {
    let [x0, y0, x1, y1] = crop.rect;
    let whole = (x1 - x0, y1 - y0) == (picture.width(), picture.height());
    if whole {
        p.set_image(picture, control).await?;
    } else {
        p.set_image(&picture.crop(crop.rect)?, control).await?;
    }
    let (w, h) = (x1 - x0, y1 - y0);
    let points: Vec<[f32; 2]> = grid.iter().map(|[x, y]| [(x * w as f64) as f32, (y * h as f64) as f32]).collect();
    let mut found = Vec::new();
    let batch = s.points_per_batch.min(p.max_batch());
    for (n, clicks) in points.chunks(batch).enumerate() {
        control.check()?;
        found.extend(process_batch(p, clicks, batch, crop, (picture.width(), picture.height()), s, control).await?);
        report(((n + 1) * batch) as f32 / points.len().max(1) as f32);
    }
    let scores: Vec<f32> = found.iter().map(|f| f.iou).collect();
    let mut kept = keep(found, &scores, s.box_nms_thresh);
    for f in &mut kept {
        f.bounds = uncrop_box(f.bounds, crop.rect);
        f.point = uncrop_point(f.point, crop.rect);
    }
    Ok(kept)
}

/// Decodes clicks, judges the masks on the device and fetches those that pass.
async fn process_batch(
    p: &mut Predictor,
    clicks: &[[f32; 2]],
    batch: usize,
    crop: &Crop,
    (width, height): (usize, usize),
    s: &Settings,
    control: Control<'_>,
) -> Result<Vec<Found>> {
    let prompts: Vec<Prompt> = clicks.iter().map(|[x, y]| Prompt::point(*x, *y)).collect();
    let judged =
        p.judge(&prompts, batch, s.multimask_output, s.mask_threshold, s.stability_score_offset, control).await?;
    let [x0, y0, x1, y1] = crop.rect;
    let (w, h) = (x1 - x0, y1 - y0);
    let passes = |j: &Judged| {
        (s.pred_iou_thresh <= 0.0 || j.iou > s.pred_iou_thresh)
            && (s.stability_score_thresh <= 0.0 || j.stability >= s.stability_score_thresh)
            && !is_box_near_crop_edge(j.bounds, crop.rect, height, width)
    };
    let mut found = Vec::new();
    let mut collect = |judged: Vec<Judged>, logits: Vec<Vec<f32>>, clicks: &dyn Fn(usize) -> [f32; 2]| -> Result<()> {
        for (j, low) in judged.into_iter().zip(logits) {
            let side = low.len().isqrt();
            let mask = resize::bilinear_mask(&low, (side, side), h, w, s.mask_threshold)?;
            let full = if (w, h) == (width, height) { mask } else { mask.uncrop(x0, y0, width, height)? };
            found.push(Found {
                rle: Rle::encode(&full)?,
                bounds: j.bounds,
                iou: j.iou,
                point: clicks(j.prompt),
                stability: j.stability,
                object_score: j.object_score,
                crop: crop.rect,
            });
        }
        Ok(())
    };
    if !s.use_m2m {
        let kept: Vec<Judged> = judged.into_iter().filter(passes).collect();
        let logits = p.judged_logits(&kept).await?;
        collect(kept, logits, &|i| clicks[i])?;
        return Ok(found);
    }
    // Mask to mask: every mask goes back in with its click, and one mask comes out.
    let logits = p.judged_logits(&judged).await?;
    let again: Vec<(usize, Prompt)> = judged
        .iter()
        .zip(logits)
        .map(|(j, low)| {
            let clamped = low.into_iter().map(|l| l.clamp(-32.0, 32.0)).collect();
            (j.prompt, prompts[j.prompt].clone().and_mask(MaskPrompt::Logits(clamped)))
        })
        .collect();
    for part in again.chunks(batch) {
        let refined: Vec<Prompt> = part.iter().map(|(_, prompt)| prompt.clone()).collect();
        let judged = p.judge(&refined, batch, false, s.mask_threshold, s.stability_score_offset, control).await?;
        let kept: Vec<Judged> = judged.into_iter().filter(passes).collect();
        let logits = p.judged_logits(&kept).await?;
        collect(kept, logits, &|i| clicks[part[i].0])?;
    }
    Ok(found)
}

/// `postprocess_small_regions`: holes, then islands; a changed mask yields to an unchanged duplicate.
fn without_small_regions(found: Vec<Found>, s: &Settings) -> Result<Vec<Found>> {
    let mut scores = Vec::with_capacity(found.len());
    let mut cleaned = Vec::with_capacity(found.len());
    for mut f in found {
        let mut mask: Mask = f.rle.decode();
        let holes = remove_small_regions(&mut mask, s.min_mask_region_area, Regions::Holes);
        let islands = remove_small_regions(&mut mask, s.min_mask_region_area, Regions::Islands);
        if holes || islands {
            f.rle = Rle::encode(&mask)?;
            f.bounds = mask.bbox().map(|v| v as f32);
        }
        scores.push(if holes || islands { 0.0 } else { 1.0 });
        cleaned.push(f);
    }
    let threshold = s.box_nms_thresh.max(s.crop_nms_thresh);
    Ok(keep(cleaned, &scores, threshold))
}

impl Found {
    fn record(self) -> Record {
        let [x0, y0, x1, y1] = self.bounds;
        let crop = self.crop;
        Record {
            area: self.rle.area(),
            segmentation: self.rle,
            bbox: [x0, y0, x1 - x0, y1 - y0],
            predicted_iou: self.iou,
            point_coords: self.point,
            stability_score: self.stability,
            crop_box: [crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1]],
            object_score: self.object_score,
        }
    }
}
