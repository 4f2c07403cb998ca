//! Showing masks and prompts on a picture.

use super::{Mask, Picture, par};
use crate::error::{Result, ensure};

/// A prompt to show. Coordinates are pixels of the picture, as the model takes them; what lies outside is cut off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Marker {
    /// A click `[x, y]` on the object.
    Positive([f32; 2]),
    /// A click `[x, y]` on what is not the object.
    Negative([f32; 2]),
    /// A box `[x0, y0, x1, y1]`.
    Box([f32; 4]),
}

/// The `i`-th of a sequence of colours that are easy to tell apart: hues a golden angle apart, in OKLCH so that none is much
/// darker or paler to the eye than another.
pub fn palette(i: usize) -> [u8; 3] {
    let hue = (255.0 + 137.508 * i as f32).to_radians();
    let lightness = [0.70, 0.78, 0.62][i / 8 % 3];
    let mut chroma = 0.2;
    // The strongest colour of this hue and lightness that a screen can show.
    loop {
        let rgb = oklch_to_linear(lightness, chroma, hue);
        if chroma < 0.02 || rgb.iter().all(|c| (-1e-3..=1.001).contains(c)) {
            return rgb.map(|c| {
                let c = c.clamp(0.0, 1.0);
                let c = if c <= 0.003_130_8 { 12.92 * c } else { 1.055 * c.powf(1.0 / 2.4) - 0.055 };
                (c * 255.0).round() as u8
            });
        }
        chroma -= 0.01;
    }
}

/// Björn Ottosson's OKLab, from lightness, chroma and hue to linear sRGB.
fn oklch_to_linear(l: f32, chroma: f32, hue: f32) -> [f32; 3] {
    let (a, b) = (chroma * hue.cos(), chroma * hue.sin());
    let l_ = (l + 0.396_337_78 * a + 0.215_803_76 * b).powi(3);
    let m_ = (l - 0.105_561_346 * a - 0.063_854_17 * b).powi(3);
    let s_ = (l - 0.089_484_18 * a - 1.291_485_5 * b).powi(3);
    [
        4.076_741_7 * l_ - 3.307_711_6 * m_ + 0.230_969_94 * s_,
        -1.268_438 * l_ + 2.609_757_4 * m_ - 0.341_319_4 * s_,
        -0.004_196_086_3 * l_ - 0.703_418_6 * m_ + 1.707_614_7 * s_,
    ]
}

/// Lays masks over a picture: mask `i` in colour [`palette`]`(i)`, half transparent, with a line along its inner edge.
/// Where masks overlap the smallest is seen.
///
/// # Errors
/// `Shape` if a mask has another size than the picture.
pub fn overlay(picture: &mut Picture, masks: &[&Mask]) -> Result<()> {
    let (w, h) = (picture.width(), picture.height());
    for mask in masks {
        ensure!(
            (mask.width(), mask.height()) == (w, h),
            Shape,
            "a mask of {}x{} does not fit a picture of {w}x{h}",
            mask.width(),
            mask.height()
        );
    }
    let mut order: Vec<usize> = (0..masks.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(masks[*i].area()));
    // Which mask is on top, plus one, times two, plus one on its line.
    let mut top = vec![0u32; w * h];
    for i in order {
        let mask = masks[i];
        let inner = inner(mask, line_width(w, h));
        let [_, y0, _, y1] = mask.bbox();
        for y in y0 as usize..=y1 as usize {
            let row = &mut top[y * w..][..w];
            for (start, end) in mask.runs(y) {
                row[start..end].fill(i as u32 * 2 + 3);
            }
            for (start, end) in inner.runs(y) {
                row[start..end].fill(i as u32 * 2 + 2);
            }
        }
    }
    let colors: Vec<[u8; 3]> = (0..masks.len()).map(palette).collect();
    par::chunks_mut(picture.rgb_mut(), w * 3, |y, row| {
        for (pixel, top) in row.chunks_exact_mut(3).zip(&top[y * w..]) {
            if *top > 0 {
                let color = colors[*top as usize / 2 - 1];
                if top % 2 == 0 { mix(pixel, color, 128) } else { mix(pixel, color.map(lighter), 243) }
            }
        }
    });
    Ok(())
}

/// The picture as RGBA `(h, w, 4)` with the mask as alpha: 255 inside; outside all four channels are 0.
///
/// # Errors
/// `Shape` if the mask has another size than the picture.
pub fn cut_out(picture: &Picture, mask: &Mask) -> Result<Vec<u8>> {
    let (w, h) = (picture.width(), picture.height());
    ensure!(
        (mask.width(), mask.height()) == (w, h),
        Shape,
        "a mask of {}x{} does not fit a picture of {w}x{h}",
        mask.width(),
        mask.height()
    );
    let mut rgba = vec![0; w * h * 4];
    par::chunks_mut(&mut rgba, w * 4, |y, row| {
        for (start, end) in mask.runs(y) {
            let from = picture.row(y)[start * 3..end * 3].chunks_exact(3);
            for (to, from) in row[start * 4..end * 4].chunks_exact_mut(4).zip(from) {
                to.copy_from_slice(&[from[0], from[1], from[2], 255]);
            }
        }
    });
    Ok(rgba)
}

/// Draws prompts: a green disc with a plus, a red one with a minus, a box as a white line with dark edges. Sizes follow the picture's.
pub fn markers(picture: &mut Picture, markers: &[Marker]) {
    let side = picture.width().max(picture.height()) as f32;
    let radius = (side / 70.0).max(4.0);
    for marker in markers {
        match *marker {
            Marker::Positive(at) => click(picture, at, radius, [46, 184, 92], true),
            Marker::Negative(at) => click(picture, at, radius, [229, 57, 70], false),
            Marker::Box([x0, y0, x1, y1]) => {
                let line = radius * 0.16;
                outline(picture, [x0, y0, x1, y1], line * 1.9 + 0.3, [20, 24, 32]);
                outline(picture, [x0, y0, x1, y1], line, [255, 255, 255]);
            }
        }
    }
}

/// Four lines, `2 * line` wide, through the middles of the pixels that a box names: where the model sees it.
fn outline(picture: &mut Picture, [x0, y0, x1, y1]: [f32; 4], line: f32, color: [u8; 3]) {
    let (center, half) =
        ([(x0 + x1 + 1.0) / 2.0, (y0 + y1 + 1.0) / 2.0], [(x1 - x0).abs() / 2.0, (y1 - y0).abs() / 2.0]);
    let edge = |x: f32, y: f32| rect(x - center[0], y - center[1], half).abs() - line;
    let pad = line + 1.0;
    for side in [-1.0, 1.0] {
        let (row, column) = (center[1] + side * half[1], center[0] + side * half[0]);
        shade(picture, [center[0], row], [half[0] + pad, pad], color, edge);
        shade(picture, [column, center[1]], [pad, half[1] + pad], color, edge);
    }
}

fn click(picture: &mut Picture, at: [f32; 2], radius: f32, color: [u8; 3], plus: bool) {
    let center = at.map(|v| v + 0.5);
    let reach = [radius * 1.3 + 1.0; 2];
    let disc = |radius: f32| move |x: f32, y: f32| (x - center[0]).hypot(y - center[1]) - radius;
    shade(picture, center, reach, [20, 24, 32], disc(radius * 1.28));
    shade(picture, center, reach, [255, 255, 255], disc(radius * 1.18));
    shade(picture, center, reach, color, disc(radius * 0.95));
    let (long, thick) = (radius * 0.55, radius * 0.16);
    shade(picture, center, reach, [255, 255, 255], |x, y| {
        let (x, y) = (x - center[0], y - center[1]);
        let across = rect(x, y, [long, thick]);
        if plus { across.min(rect(x, y, [thick, long])) } else { across }
    });
}

/// The distance of `(x, y)` from a rectangle of half sides `half` around 0; negative inside.
fn rect(x: f32, y: f32, half: [f32; 2]) -> f32 {
    let (x, y) = (x.abs() - half[0], y.abs() - half[1]);
    x.max(0.0).hypot(y.max(0.0)) + x.max(y).min(0.0)
}

/// Colours the pixels for which `distance(x, y)` is negative, with soft edges, within `reach` of `center`.
fn shade(picture: &mut Picture, center: [f32; 2], reach: [f32; 2], color: [u8; 3], distance: impl Fn(f32, f32) -> f32) {
    let (w, h) = (picture.width(), picture.height());
    // A float turns into the nearest index that there is; NaN into 0.
    let range = |i: usize, side: usize| {
        ((center[i] - reach[i]).max(0.0) as usize).min(side)
            ..((center[i] + reach[i]).max(0.0).ceil() as usize).min(side)
    };
    for y in range(1, h) {
        for x in range(0, w) {
            let cover = (0.5 - distance(x as f32 + 0.5, y as f32 + 0.5)).clamp(0.0, 1.0);
            if cover > 0.0 {
                mix(&mut picture.rgb_mut()[(y * w + x) * 3..][..3], color, (cover * 256.0) as u32);
            }
        }
    }
}

/// `share` is the colour's, of 256.
fn mix(pixel: &mut [u8], color: [u8; 3], share: u32) {
    for (to, c) in pixel.iter_mut().zip(color) {
        *to = ((u32::from(*to) * (256 - share) + u32::from(c) * share + 128) >> 8) as u8;
    }
}

fn lighter(c: u8) -> u8 {
    c + ((255 - c) as f32 * 0.25) as u8
}

fn line_width(w: usize, h: usize) -> usize {
    (w.max(h) as f32 / 320.0).round().max(1.0) as usize
}

/// The mask without a rim of `width` pixels. Beyond the picture's border counts as inside: no line is drawn there.
fn inner(mask: &Mask, width: usize) -> Mask {
    let [x0, y0, x1, y1] = mask.bbox().map(|v| v as usize);
    // The words and rows that the mask lies in: around them are zeros, or the border of the picture.
    let (first, last) = (x0 / 64, x1 / 64);
    let (n, rows) = (last - first + 1, y1 - y0 + 1);
    let beyond_left = u64::from(first == 0);
    let beyond_right = if last == (mask.width() - 1) / 64 { 1 << ((mask.width() - 1) % 64) } else { 0 };
    let mut now: Vec<u64> = (y0..=y1).flat_map(|y| &mask.row(y)[first..=last]).copied().collect();
    let (mut narrow, mut before) = (now.clone(), now.clone());
    for step in 0..width {
        // Pixels whose neighbours to the left and right are set too.
        for (narrow, row) in narrow.chunks_exact_mut(n).zip(now.chunks_exact(n)) {
            for i in 0..n {
                let left = row[i] << 1 | if i > 0 { row[i - 1] >> 63 } else { beyond_left };
                let right = row[i] >> 1 | if i + 1 < n { row[i + 1] << 63 } else { beyond_right };
                narrow[i] = row[i] & left & right;
            }
        }
        before.copy_from_slice(&now);
        // Crosses and squares in turn make the rim about as wide along diagonals.
        let near = if step % 2 == 0 { &before } else { &narrow };
        for y in 0..rows {
            for i in 0..n {
                let up = if y > 0 {
                    near[(y - 1) * n + i]
                } else if y0 == 0 {
                    !0
                } else {
                    0
                };
                let down = if y + 1 < rows {
                    near[(y + 1) * n + i]
                } else if y1 + 1 == mask.height() {
                    !0
                } else {
                    0
                };
                now[y * n + i] = narrow[y * n + i] & up & down;
            }
        }
    }
    let mut out = mask.clone();
    for (y, row) in (y0..=y1).zip(now.chunks_exact(n)) {
        out.row_mut(y)[first..=last].copy_from_slice(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    fn block(w: usize, h: usize, [x0, y0, x1, y1]: [usize; 4]) -> Mask {
        let mut mask = Mask::new(w, h).unwrap();
        (y0..y1).for_each(|y| (x0..x1).for_each(|x| mask.set(x, y, true)));
        mask
    }

    #[test]
    fn colours_are_far_apart() {
        let colors: Vec<[u8; 3]> = (0..24).map(palette).collect();
        let distance = |a: [u8; 3], b: [u8; 3]| a.iter().zip(b).map(|(a, b)| a.abs_diff(b) as u32).sum::<u32>();
        for (i, a) in colors.iter().enumerate() {
            assert!(a.iter().max().unwrap() - a.iter().min().unwrap() > 80, "{i} is grey: {a:?}");
            for (j, b) in colors[..i].iter().enumerate() {
                let least = if i < 8 { 70 } else { 20 };
                assert!(distance(*a, *b) >= least, "{j} {b:?} and {i} {a:?}");
            }
        }
    }

    #[test]
    fn the_smallest_mask_is_on_top_with_a_line_inside_its_edge() {
        let picture = noise(100, 80);
        let (small, large) = (block(100, 80, [70, 20, 90, 40]), block(100, 80, [10, 10, 100, 60]));
        let mut shown = picture.clone();
        overlay(&mut shown, &[&small, &large]).unwrap();
        let at = |p: &Picture, x: usize, y: usize| -> [u8; 3] { p.row(y)[x * 3..x * 3 + 3].try_into().unwrap() };
        let blended = |x, y, i| {
            std::array::from_fn(|c| (f32::midpoint(at(&picture, x, y)[c].into(), palette(i)[c].into())).round() as u8)
        };
        assert_eq!(at(&shown, 5, 5), at(&picture, 5, 5));
        assert_eq!(at(&shown, 80, 30), blended(80, 30, 0));
        assert_eq!(at(&shown, 30, 30), blended(30, 30, 1));
        // The edges of the small one, not hidden by the large one; none where the large one leaves the picture.
        for (x, y, i) in [(70, 30, 0), (89, 30, 0), (80, 20, 0), (80, 39, 0), (10, 30, 1), (30, 59, 1)] {
            assert!(at(&shown, x, y).iter().zip(palette(i).map(lighter)).all(|(a, b)| a.abs_diff(b) <= 13), "{x} {y}");
        }
        assert_eq!(at(&shown, 99, 30), blended(99, 30, 1));
        assert!(overlay(&mut shown, &[&block(99, 80, [0; 4])]).is_err());
        let before = shown.clone();
        overlay(&mut shown, &[&block(100, 80, [0; 4])]).unwrap();
        assert_eq!(shown, before);
    }

    #[test]
    fn the_rim_is_as_wide_as_asked() {
        for width in 1..6 {
            let rim = inner(&block(200, 60, [60, 10, 140, 50]), width);
            assert_eq!(rim, block(200, 60, [60 + width, 10 + width, 140 - width, 50 - width]));
        }
        // At the border there is none.
        assert_eq!(inner(&block(130, 9, [0, 0, 130, 9]), 3).area(), 130 * 9);
    }

    #[test]
    fn cut_outs_show_only_the_mask() {
        let picture = noise(9, 4);
        let rgba = cut_out(&picture, &block(9, 4, [2, 1, 5, 3])).unwrap();
        for (i, p) in rgba.chunks(4).enumerate() {
            let (x, y) = (i % 9, i / 9);
            let want = &picture.row(y)[x * 3..x * 3 + 3];
            assert_eq!(p == [want, &[255]].concat(), (2..5).contains(&x) && (1..3).contains(&y), "{x} {y}");
            assert!(p[3] == 255 || p == [0; 4]);
        }
        assert!(cut_out(&picture, &block(4, 9, [0; 4])).is_err());
    }

    #[test]
    fn markers_are_where_the_prompt_is_and_never_outside() {
        let black = Picture::new(200, 100, vec![0; 60_000]).unwrap();
        let mut shown = black.clone();
        markers(
            &mut shown,
            &[Marker::Positive([50.0, 40.0]), Marker::Negative([150.0, 40.0]), Marker::Box([20.0, 10.0, 180.0, 80.0])],
        );
        let at = |x: usize, y: usize| &shown.row(y)[x * 3..x * 3 + 3];
        assert_eq!((at(50, 40), at(150, 40), at(20, 40)), (&[255; 3][..], &[255; 3][..], &[255; 3][..]));
        assert!(at(48, 38)[1] > 150 && at(48, 38)[0] < 90, "{:?}", at(48, 38));
        assert!(at(148, 38)[0] > 190 && at(148, 38)[1] < 90, "{:?}", at(148, 38));
        assert_eq!(at(100, 50), [0; 3]);
        let mut far = black.clone();
        for v in [-1e9, 1e9, f32::NAN, f32::INFINITY, -100.0, 300.0] {
            markers(&mut far, &[Marker::Positive([v, 50.0]), Marker::Negative([v; 2]), Marker::Box([v; 4])]);
        }
        assert_eq!(far, black);
    }
}
