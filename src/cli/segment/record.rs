//! What is said of a mask.

use impasto::{
    Result,
    image::{Mask, Rle, polygon, rle::CocoRle},
    models::sam2::Candidate,
};
use serde::Serialize;
use std::fmt;

/// The offset at which stability is measured: the mask generator's default.
const STABILITY_OFFSET: f32 = 1.0;

/// A mask in the JSON output.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MaskRecord {
    /// The number of the object that it answers.
    pub(super) object: usize,
    /// Which of the model's masks it is.
    pub(super) candidate: usize,
    /// The IoU that the model expects.
    pub(super) score: f32,
    /// By threshold; null for an empty mask.
    stability: f32,
    mean_abs_logit: f32,
    /// Mean IoU with the masks of noisy pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) noise_stability: Option<f64>,
    /// A logit.
    object_score: f32,
    area: u64,
    bbox: [u32; 4],
    rle: CocoRle,
}

impl MaskRecord {
    pub(super) fn new(object: usize, candidate: usize, of: &Candidate, mask: &Mask, object_score: f32) -> Result<Self> {
        let statistics = of.statistics(STABILITY_OFFSET)?;
        Ok(Self {
            object,
            candidate,
            score: of.iou,
            stability: statistics.stability,
            mean_abs_logit: statistics.mean_abs_logit,
            noise_stability: None,
            object_score,
            area: mask.area(),
            bbox: mask.bbox_xywh(),
            rle: Rle::encode(mask)?.to_coco(true),
        })
    }
}

impl fmt::Display for MaskRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, w, h] = self.bbox;
        write!(
            f,
            "object {}, mask {}: score {:.3}, stability {:.3}",
            self.object, self.candidate, self.score, self.stability
        )?;
        if let Some(noise) = self.noise_stability {
            write!(f, ", under noise {noise:.3}")?;
        }
        write!(f, ", {} pixels in {x},{y} to {},{}", self.area, x + w, y + h)
    }
}

/// A mask in the file of `--rle`.
#[derive(Debug, Serialize)]
pub(super) struct RleRecord<'a> {
    object: usize,
    candidate: usize,
    score: f32,
    area: u64,
    bbox: [u32; 4],
    segmentation: &'a CocoRle,
}

/// A mask in the file of `--polygons`.
#[derive(Debug, Serialize)]
pub(super) struct PolygonRecord {
    object: usize,
    candidate: usize,
    score: f32,
    area: u64,
    bbox: [u32; 4],
    polygons: Vec<Polygon>,
}

#[derive(Debug, Serialize)]
struct Polygon {
    /// Corners of pixels: pixel (x, y) covers x to x + 1.
    points: Vec<[u32; 2]>,
    hole: bool,
}

impl MaskRecord {
    pub(super) fn with_rle(&self) -> RleRecord<'_> {
        let Self { object, candidate, score, area, bbox, .. } = *self;
        RleRecord { object, candidate, score, area, bbox, segmentation: &self.rle }
    }

    pub(super) fn with_polygons(&self, mask: &Mask) -> PolygonRecord {
        let Self { object, candidate, score, area, bbox, .. } = *self;
        let contours = polygon::contours(mask).into_iter();
        let polygons = contours.map(|c| Polygon { points: c.points, hole: c.hole }).collect();
        PolygonRecord { object, candidate, score, area, bbox, polygons }
    }
}
