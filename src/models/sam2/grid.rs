//! Where the automatic mask generator looks: crops of the picture and grids of points, as `sam2/utils/amg.py`.

use crate::error::{Result, ensure};

/// A part of the picture that is segmented on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// `[x0, y0, x1, y1]` in pixels, ends exclusive.
    pub rect: [usize; 4],
    /// 0 for the whole picture, `i` for one of the `2^i x 2^i` crops of layer `i`.
    pub layer: usize,
}

/// The crops of a picture: itself, then for each layer `i = 1..=n_layers` a grid of `2^i x 2^i`, column by column
/// (`generate_crop_boxes`). Neighbours overlap by `overlap_ratio` (default 512 / 1500) of the shorter side, less
/// in each deeper layer.
///
/// # Errors
/// `Argument` if a side is 0, there are more than 8 layers, the ratio is not in 0..=1, or a crop would be empty because
/// the picture is too small to be cut so often.
pub fn generate_crop_boxes(im_h: usize, im_w: usize, n_layers: usize, overlap_ratio: f64) -> Result<Vec<Crop>> {
    ensure!(im_h > 0 && im_w > 0, Argument, "cannot crop a picture of {im_w}x{im_h}");
    ensure!(n_layers <= 8, Argument, "{n_layers} crop layers are too many: at most 8");
    ensure!((0.0..=1.0).contains(&overlap_ratio), Argument, "a crop overlap ratio of {overlap_ratio} is not in 0..=1");
    let mut crops = vec![Crop { rect: [0, 0, im_w, im_h], layer: 0 }];
    let short_side = im_h.min(im_w) as f64;
    for layer in 1..=n_layers {
        let n = 1 << layer;
        let overlap = (overlap_ratio * short_side * (2.0 / n as f64)) as usize;
        let length = |side: usize| (overlap * (n - 1) + side).div_ceil(n);
        let (crop_w, crop_h) = (length(im_w), length(im_h));
        for i in 0..n * n {
            let (x0, y0) = ((crop_w - overlap) * (i / n), (crop_h - overlap) * (i % n));
            let rect = [x0, y0, (x0 + crop_w).min(im_w), (y0 + crop_h).min(im_h)];
            ensure!(
                rect[0] < rect[2] && rect[1] < rect[3],
                Argument,
                "a picture of {im_w}x{im_h} is too small for {n_layers} crop layers"
            );
            crops.push(Crop { rect, layer });
        }
    }
    Ok(crops)
}

/// `n x n` points spread evenly over the unit square, row by row, as `[x, y]` (`build_point_grid`). To be scaled by the
/// crop's width and height in f64, then rounded to f32.
///
/// # Errors
/// `Argument` if `n_per_side` is 0.
pub fn build_point_grid(n_per_side: usize) -> Result<Vec<[f64; 2]>> {
    ensure!(n_per_side > 0, Argument, "a grid of 0 points a side has no points");
    let offset = 1.0 / (2 * n_per_side) as f64;
    // numpy's linspace: multiples of one step, and the end exact.
    let step = (1.0 - offset - offset) / (n_per_side.max(2) - 1) as f64;
    let side: Vec<f64> = (0..n_per_side)
        .map(|i| if i > 0 && i == n_per_side - 1 { 1.0 - offset } else { i as f64 * step + offset })
        .collect();
    Ok(side.iter().flat_map(|y| side.iter().map(move |x| [*x, *y])).collect())
}

/// The grids of the layers `0..=n_layers`: layer `i` has `n_per_side / scale_per_layer^i` points a side
/// (`build_all_layer_point_grids`).
///
/// # Errors
/// `Argument` if `scale_per_layer` is 0 or a layer is left without points.
pub fn build_all_layer_point_grids(
    n_per_side: usize,
    n_layers: usize,
    scale_per_layer: usize,
) -> Result<Vec<Vec<[f64; 2]>>> {
    ensure!(scale_per_layer > 0, Argument, "the points of a crop layer cannot be divided by 0");
    let mut n = n_per_side;
    let mut grids = Vec::new();
    for layer in 0..=n_layers {
        ensure!(
            n > 0,
            Argument,
            "{n_per_side} points a side divided by {scale_per_layer} a layer leave none for layer {layer}"
        );
        grids.push(build_point_grid(n)?);
        n /= scale_per_layer;
    }
    Ok(grids)
}

/// How near to the edge of a crop counts as cut off by it, in pixels (`atol`).
pub const CROP_EDGE: f32 = 20.0;

/// Whether a box (XYXY in the crop's pixels, ends inclusive) comes within 20 pixels of an edge of its crop that is not
/// also an edge of the picture: the mask is then probably cut off there (`is_box_near_crop_edge`).
pub fn is_box_near_crop_edge(bbox: [f32; 4], crop: [usize; 4], im_h: usize, im_w: usize) -> bool {
    let picture = [0, 0, im_w, im_h];
    let bbox = uncrop_box(bbox, crop);
    (0..4).any(|i| {
        let near = |edge: usize| (bbox[i] - edge as f32).abs() <= CROP_EDGE;
        near(crop[i]) && !near(picture[i])
    })
}

/// A box XYXY of a crop in the picture's pixels (`uncrop_boxes_xyxy`).
pub fn uncrop_box([x0, y0, x1, y1]: [f32; 4], crop: [usize; 4]) -> [f32; 4] {
    let ([a, b], [c, d]) = (uncrop_point([x0, y0], crop), uncrop_point([x1, y1], crop));
    [a, b, c, d]
}

/// A point of a crop in the picture's pixels (`uncrop_points`). Masks: [`Mask::uncrop`](crate::image::Mask::uncrop).
pub fn uncrop_point([x, y]: [f32; 2], crop: [usize; 4]) -> [f32; 2] {
    [x + crop[0] as f32, y + crop[1] as f32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::image::testing::Fixture;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Reference {
        crops: Vec<CropCase>,
        grids: Vec<GridCase>,
        near: Vec<NearCase>,
    }

    #[derive(Deserialize)]
    struct CropCase {
        h: usize,
        w: usize,
        layers: usize,
        overlap: f64,
        boxes: Vec<[usize; 4]>,
        layer: Vec<usize>,
    }

    #[derive(Deserialize)]
    struct GridCase {
        n: usize,
        layers: usize,
        scale: usize,
        counts: Vec<usize>,
        head: Vec<Vec<[f64; 2]>>,
        tail: Vec<Vec<[f64; 2]>>,
    }

    #[derive(Deserialize)]
    struct NearCase {
        crop: [usize; 4],
        orig: [usize; 4],
        boxes: Vec<[f32; 4]>,
        near: Vec<bool>,
    }

    #[test]
    fn crops_grids_and_edges_are_those_of_amg() {
        let fixture = Fixture::open("image/grid.json");
        let reference: Reference = serde_json::from_str(fixture.text()).unwrap();
        for case in reference.crops {
            let crops = generate_crop_boxes(case.h, case.w, case.layers, case.overlap).unwrap();
            assert_eq!(crops.iter().map(|c| c.rect).collect::<Vec<_>>(), case.boxes);
            assert_eq!(crops.iter().map(|c| c.layer).collect::<Vec<_>>(), case.layer);
        }
        for case in reference.grids {
            let grids = build_all_layer_point_grids(case.n, case.layers, case.scale).unwrap();
            assert_eq!(grids.iter().map(Vec::len).collect::<Vec<_>>(), case.counts);
            for ((grid, head), tail) in grids.iter().zip(&case.head).zip(&case.tail) {
                assert_eq!(grid[..head.len()], head[..]);
                assert_eq!(grid[grid.len() - tail.len()..], tail[..]);
            }
        }
        for case in reference.near {
            let [_, _, w, h] = case.orig;
            let near: Vec<_> = case.boxes.iter().map(|b| is_box_near_crop_edge(*b, case.crop, h, w)).collect();
            assert_eq!(near, case.near);
            assert!(case.crop == case.orig || (near.contains(&true) && near.contains(&false)));
        }
        assert_eq!(uncrop_box([1.0, 2.0, 3.0, 4.0], [10, 20, 30, 40]), [11.0, 22.0, 13.0, 24.0]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for e in [
            generate_crop_boxes(0, 5, 1, 0.3).unwrap_err(),
            generate_crop_boxes(5, 5, 9, 0.3).unwrap_err(),
            generate_crop_boxes(5, 5, 1, f64::NAN).unwrap_err(),
            generate_crop_boxes(3, 3, 3, 0.0).unwrap_err(),
            build_all_layer_point_grids(2, 2, 2).unwrap_err(),
            build_all_layer_point_grids(2, 2, 0).unwrap_err(),
            build_point_grid(0).unwrap_err(),
        ] {
            assert_eq!(e.kind(), ErrorKind::Argument, "{e}");
        }
    }
}
