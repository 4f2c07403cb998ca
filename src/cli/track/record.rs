//! What is said of a frame.

use impasto::{
    Result,
    image::{Mask, Rle, rle::CocoRle},
    models::sam2::video::clip::Followed,
};
use serde::Serialize;

/// A line of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct FrameRecord {
    frame: usize,
    objects: Vec<ObjectRecord>,
}

#[derive(Debug, Serialize)]
struct ObjectRecord {
    id: u32,
    /// The logit of "the object is in the picture".
    score: f32,
    /// The IoU that the model expects of the mask.
    iou: f32,
    area: u64,
    bbox: [u32; 4],
    rle: CocoRle,
}

impl FrameRecord {
    /// `masks`: one for each object.
    pub(super) fn new(of: &Followed, masks: &[Mask]) -> Result<Self> {
        let object = |(o, mask): (&impasto::models::sam2::video::Tracked, &Mask)| {
            Ok(ObjectRecord {
                id: o.object,
                score: o.score,
                iou: o.iou,
                area: mask.area(),
                bbox: mask.bbox_xywh(),
                rle: Rle::encode(mask)?.to_coco(true),
            })
        };
        let objects = of.objects.iter().zip(masks).map(object).collect::<Result<_>>()?;
        Ok(Self { frame: of.position.frame, objects })
    }
}
