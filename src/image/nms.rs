//! Greedy suppression of overlapping boxes.

/// The indices of the boxes to keep, best score first: `torchvision.ops.nms`, and `batched_nms` with one category.
///
/// `boxes` are XYXY, one for each score. Boxes are taken by falling score, ties in the order given (NaN counts as the
/// best, as torch sorts it); one is dropped if its IoU with a box kept before is greater than `iou_threshold`. Areas and IoU are
/// f32 and the comparison f64, as there. Two boxes without area have IoU 0/0: NaN, which suppresses nothing.
///
/// # Panics
/// If there are not as many scores as boxes.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "one score for each box");
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (scores[a], scores[b]);
        // Falling; `partial_cmp` fails for NaN only.
        b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
    });
    let area = |b: &[f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let mut kept: Vec<usize> = Vec::new();
    let mut suppressed = vec![false; boxes.len()];
    for (place, &i) in order.iter().enumerate() {
        if suppressed[i] {
            continue;
        }
        kept.push(i);
        let (a, area_a) = (&boxes[i], area(&boxes[i]));
        for &j in &order[place + 1..] {
            let b = &boxes[j];
            let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
            let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
            let both = w * h;
            let iou = both / (area_a + area(b) - both);
            suppressed[j] |= f64::from(iou) > iou_threshold;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    #[test]
    fn keeps_what_torchvision_keeps() {
        let fixture = Fixture::open("image/nms.safetensors");
        for i in 0..6 {
            let (_, boxes) = fixture.f32(&format!("{i}.boxes"));
            let boxes: Vec<[f32; 4]> = boxes.chunks_exact(4).map(|b| b.try_into().unwrap()).collect();
            let (_, scores) = fixture.f32(&format!("{i}.scores"));
            let keep = nms(&boxes, &scores, fixture.f64(&format!("{i}.threshold"))[0]);
            let keep: Vec<i64> = keep.into_iter().map(|k| k as i64).collect();
            assert_eq!(keep, fixture.i64(&format!("{i}.keep")), "{i}");
        }
    }

    #[test]
    fn boxes_without_area_suppress_nothing_and_ties_keep_their_order() {
        let point = [3.0, 3.0, 3.0, 3.0];
        assert_eq!(nms(&[point; 3], &[0.5, 0.9, 0.5], 0.7), [1, 0, 2]);
        let boxes = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]];
        assert_eq!(nms(&boxes, &[0.5, 0.5, 0.5], 0.7), [0, 2]);
        assert!(nms(&[], &[], 0.7).is_empty());
    }
}
