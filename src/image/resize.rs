//! Resizing as the references resize, to the last bits of f32.
//!
//! SAM 2's `SAM2Transforms` is torchvision's `Resize` on a float tensor: bilinear with `antialias=True`, a triangle
//! filter widened by the scale when shrinking. It squashes: the sides scale on their own. Masks come back by plain
//! bilinear with `align_corners=False`. Both are ATen's `UpSampleKernel.cpp`: separable, weights in f32, columns
//! first, then rows; a side that keeps its length is not touched.

use super::{Mask, Picture, par};
use crate::error::{Result, bail, ensure};

/// Resizes to `(side, side)` by antialiased bilinear, then subtracts `mean` and divides by `std` (of channels in
/// 0..=1): the input of an image encoder, NHWC `(1, side, side, 3)`.
///
/// # Errors
/// `Argument` if `side` is 0.
pub fn preprocess(picture: &Picture, side: usize, mean: [f32; 3], std: [f32; 3]) -> Result<Vec<f32>> {
    let finish = |row: &mut [f32]| {
        for pixel in row.chunks_exact_mut(3) {
            for c in 0..3 {
                pixel[c] = (pixel[c] - mean[c]) / std[c];
            }
        }
    };
    picture_rows(picture, side, side, finish)
}

/// The picture in another size by Lanczos' filter of three lobes, in 8 bits, as diffusers prepares pictures through Pillow.
///
/// # Errors
/// `Input` if a side is 0.
pub fn lanczos(picture: &Picture, width: usize, height: usize) -> Result<Picture> {
    if (picture.width(), picture.height()) == (width, height) {
        return Ok(picture.clone());
    }
    let (w, h) = (picture.width() as u32, picture.height() as u32);
    let Some(rgb) = ::image::RgbImage::from_raw(w, h, picture.rgb().to_vec()) else {
        bail!(Internal, "a picture of {w}x{h} has other bytes");
    };
    let filter = ::image::imageops::FilterType::Lanczos3;
    let resized = ::image::imageops::resize(&rgb, width as u32, height as u32, filter);
    Picture::new(width, height, resized.into_raw())
}

/// Resizes to `(out_h, out_w)` by antialiased bilinear: `(out_h, out_w, 3)` in 0..=1.
///
/// # Errors
/// `Argument` if a side is 0.
pub fn antialias_bilinear(picture: &Picture, out_h: usize, out_w: usize) -> Result<Vec<f32>> {
    picture_rows(picture, out_h, out_w, |_| {})
}

fn picture_rows(
    picture: &Picture,
    out_h: usize,
    out_w: usize,
    finish: impl Fn(&mut [f32]) + Send + Sync,
) -> Result<Vec<f32>> {
    let unit: [f32; 256] = std::array::from_fn(|i| i as f32 / 255.0);
    let read = |y: usize, row: &mut [[f32; 4]]| {
        for (to, from) in row.iter_mut().zip(picture.row(y).chunks_exact(3)) {
            // The fourth lane is there for the vector unit.
            *to = [unit[from[0] as usize], unit[from[1] as usize], unit[from[2] as usize], 0.0];
        }
    };
    antialias::<4, 3>((picture.height(), picture.width()), (out_h, out_w), read, finish)
}

/// Resizes one channel `src (h, w)` to `(out_h, out_w)` by antialiased bilinear. Of a mask of 0 and 1 this is how
/// SAM 2 makes a mask prompt from a mask of any size (and then takes `>= 0.5`).
///
/// # Errors
/// `Argument` if a side is 0, `Shape` if `src` is not `h * w` long.
pub fn antialias_plane(src: &[f32], (h, w): (usize, usize), out_h: usize, out_w: usize) -> Result<Vec<f32>> {
    check_plane(src, h, w)?;
    let read = |y: usize, row: &mut [[f32; 1]]| {
        for (to, from) in row.iter_mut().zip(&src[y * w..]) {
            *to = [*from];
        }
    };
    antialias::<1, 1>((h, w), (out_h, out_w), read, |_| {})
}

/// Resizes a mask as 0 and 1 to `(out_h, out_w)` by antialiased bilinear: the covered share of each pixel.
///
/// # Errors
/// `Argument` if a side is 0.
pub fn antialias_mask(mask: &Mask, out_h: usize, out_w: usize) -> Result<Vec<f32>> {
    let read = |y: usize, row: &mut [[f32; 1]]| {
        row.fill([0.0]);
        for (start, end) in mask.runs(y) {
            row[start..end].fill([1.0]);
        }
    };
    antialias::<1, 1>((mask.height(), mask.width()), (out_h, out_w), read, |_| {})
}

/// Resizes one channel `src (h, w)` to `(out_h, out_w)` as `F.interpolate(mode="bilinear", align_corners=False)`: this
/// takes 256 x 256 mask logits to the size of the picture in one step.
///
/// # Errors
/// `Argument` if a side is 0, `Shape` if `src` is not `h * w` long.
pub fn bilinear(src: &[f32], (h, w): (usize, usize), out_h: usize, out_w: usize) -> Result<Vec<f32>> {
    let plan = Bilinear::new(src, (h, w), (out_h, out_w))?;
    let mut out = vec![0.0; checked_len(out_h, out_w, 1)?];
    par::chunks_mut(&mut out, out_w, |y, row| plan.row(y, row));
    Ok(out)
}

/// [`bilinear`], then `logit > threshold`, without the logits of the large size: 1 bit instead of 32 a pixel.
///
/// # Errors
/// As [`bilinear`].
pub fn bilinear_mask(src: &[f32], (h, w): (usize, usize), out_h: usize, out_w: usize, threshold: f32) -> Result<Mask> {
    let plan = Bilinear::new(src, (h, w), (out_h, out_w))?;
    checked_len(out_h, out_w, 1)?;
    Ok(Mask::from_rows(out_w, out_h, |y, row| plan.row(y, row), |v| v > threshold))
}

fn check_plane(src: &[f32], h: usize, w: usize) -> Result<()> {
    ensure!(h > 0 && w > 0, Argument, "cannot resize a plane of {w}x{h}");
    ensure!(h.checked_mul(w) == Some(src.len()), Shape, "a plane of {w}x{h} is given as {} values", src.len());
    Ok(())
}

fn checked_len(out_h: usize, out_w: usize, channels: usize) -> Result<usize> {
    ensure!(out_h > 0 && out_w > 0, Argument, "cannot resize to {out_w}x{out_h}");
    let len = out_h.checked_mul(out_w).and_then(|n| n.checked_mul(channels)).filter(|n| *n <= isize::MAX as usize / 4);
    ensure!(len.is_some(), Argument, "cannot resize to {out_w}x{out_h}: too large");
    Ok(len.unwrap_or_default())
}

/// The input pixels and weights of each output pixel along one side.
struct Taps {
    start: Vec<usize>,
    /// `weights[ends[i - 1]..ends[i]]` belong to output `i`.
    ends: Vec<usize>,
    weights: Vec<f32>,
}

impl Taps {
    /// ATen's `_compute_indices_min_size_weights_aa` with the triangle filter. Types and order are theirs: f32 held,
    /// f64 where C++ promotes by the literal 0.5.
    fn antialias(input: usize, output: usize) -> Self {
        let mut taps = Self { start: Vec::new(), ends: Vec::new(), weights: Vec::new() };
        let scale = input as f32 / output as f32;
        let support = scale.max(1.0);
        let inverse = if scale >= 1.0 { 1.0 / scale } else { 1.0 };
        let most = support.ceil() as usize * 2 + 1;
        for i in 0..output {
            if input == output {
                taps.start.push(i);
                taps.weights.push(1.0);
                taps.ends.push(taps.weights.len());
                continue;
            }
            let center = (f64::from(scale) * (i as f64 + 0.5)) as f32;
            let start = ((f64::from(center - support) + 0.5) as i64).max(0) as usize;
            let end = ((f64::from(center + support) + 0.5) as i64).max(0) as usize;
            let size = end.min(input).saturating_sub(start).min(most);
            let first = taps.weights.len();
            let mut total = 0.0f32;
            for j in 0..size {
                let x = (f64::from((j + start) as f32 - center) + 0.5) * f64::from(inverse);
                let w = (1.0 - (x as f32).abs()).max(0.0);
                taps.weights.push(w);
                total += w;
            }
            if total != 0.0 {
                taps.weights[first..].iter_mut().for_each(|w| *w /= total);
            }
            taps.start.push(start);
            taps.ends.push(taps.weights.len());
        }
        taps
    }

    fn of(&self, i: usize) -> (usize, &[f32]) {
        let first = if i == 0 { 0 } else { self.ends[i - 1] };
        (self.start[i], &self.weights[first..self.ends[i]])
    }

    /// The first input pixel after those of output `i`.
    fn end(&self, i: usize) -> usize {
        let (start, weights) = self.of(i);
        start + weights.len()
    }
}

/// `L` lanes are read and filtered (zero-padded to suit the vector unit), `C` of them are kept.
///
/// Bands of output rows run side by side. A band walks its input rows once: each is read, filtered along x into one
/// scratch row, and added to the few output rows that it belongs to. Scratch is two rows a thread, whatever the
/// picture's size; the order of additions in a pixel does not depend on the bands.
fn antialias<const L: usize, const C: usize>(
    (in_h, in_w): (usize, usize),
    (out_h, out_w): (usize, usize),
    read: impl Fn(usize, &mut [[f32; L]]) + Send + Sync,
    finish: impl Fn(&mut [f32]) + Send + Sync,
) -> Result<Vec<f32>> {
    let mut out = vec![0.0f32; checked_len(out_h, out_w, C)?];
    let columns = Taps::antialias(in_w, out_w);
    let rows = Taps::antialias(in_h, out_h);
    let band = par::band(out_h);
    par::chunks_mut(&mut out, band * out_w * C, |b, out| {
        let mut source = vec![[0.0; L]; in_w];
        let mut across = vec![0.0; out_w * C];
        let (first, last) = (b * band, b * band + out.len() / (out_w * C));
        // Output rows before `open` are complete: the start of the window only grows with the row.
        let mut open = first;
        let end = (first..last).map(|y| rows.end(y)).max().unwrap_or(0);
        for y_in in rows.start[first]..end {
            read(y_in, &mut source);
            for (x, to) in across.chunks_exact_mut(C).enumerate() {
                let (start, weights) = columns.of(x);
                let mut sum = [0.0; L];
                for (from, w) in source[start..].iter().zip(weights) {
                    for l in 0..L {
                        sum[l] += from[l] * w;
                    }
                }
                to.copy_from_slice(&sum[..C]);
            }
            while open < last && rows.end(open) <= y_in {
                open += 1;
            }
            for y in open..last {
                let (start, weights) = rows.of(y);
                if start > y_in {
                    break;
                }
                let Some(w) = weights.get(y_in - start) else { continue };
                for (to, from) in out[(y - first) * out_w * C..][..out_w * C].iter_mut().zip(&across) {
                    *to += from * w;
                }
            }
        }
        finish(out);
    });
    Ok(out)
}

/// Plain bilinear, prepared: the source with its rows already stretched to the output width.
struct Bilinear {
    wide: Vec<f32>,
    out_w: usize,
    rows: Vec<(usize, usize, f32)>,
}

impl Bilinear {
    fn new(src: &[f32], (h, w): (usize, usize), (out_h, out_w): (usize, usize)) -> Result<Self> {
        check_plane(src, h, w)?;
        let mut wide = vec![0.0; checked_len(h, out_w, 1)?];
        ensure!(out_h > 0, Argument, "cannot resize to {out_w}x{out_h}");
        let columns = pairs(w, out_w);
        par::chunks_mut(&mut wide, out_w, |y, row| {
            let src = &src[y * w..][..w];
            for (to, &(a, b, t)) in row.iter_mut().zip(&columns) {
                *to = lerp(src[a], src[b], t);
            }
        });
        Ok(Self { wide, out_w, rows: pairs(h, out_h) })
    }

    fn row(&self, y: usize, out: &mut [f32]) {
        let (a, b, t) = self.rows[y];
        let (a, b) = (&self.wide[a * self.out_w..], &self.wide[b * self.out_w..]);
        for ((to, a), b) in out.iter_mut().zip(a).zip(b) {
            *to = lerp(*a, *b, t);
        }
    }
}

fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a * (1.0 - t) + b * t
}

/// ATen's `compute_source_index_and_lambda`: for each output the two neighbours and the weight of the second.
fn pairs(input: usize, output: usize) -> Vec<(usize, usize, f32)> {
    let scale = input as f32 / output as f32;
    let pair = |i: usize| {
        if input == output {
            return (i, i, 0.0);
        }
        // Fused, as compilers contract it for CPUs that have it: 6 times nearer to torch than two roundings.
        let at = scale.mul_add(i as f32 + 0.5, -0.5).max(0.0);
        let a = (at as usize).min(input - 1);
        (a, (a + 1).min(input - 1), (at - a as f32).clamp(0.0, 1.0))
    };
    (0..output).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::{Fixture, max_abs_diff, noise};

    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];
    const TOLERANCE: f32 = 2e-6;

    fn to_nhwc(chw: &[f32]) -> Vec<f32> {
        let n = chw.len() / 3;
        (0..chw.len()).map(|i| chw[i % 3 * n + i / 3]).collect()
    }

    #[test]
    fn preprocess_is_sam2_transforms() {
        let oracle = Fixture::open("resize/io.safetensors");
        let (shape, rgb) = oracle.u8("image_u8");
        let picture = Picture::new(shape[1], shape[0], rgb).unwrap();
        let (_, want) = oracle.f32("sam2_official_64");
        let got = preprocess(&picture, 64, MEAN, STD).unwrap();
        assert!(max_abs_diff(&got, &to_nhwc(&want)) <= TOLERANCE);
        let (_, want) = oracle.f32("sam2_official_256_rows0_32");
        let got = preprocess(&picture, 256, MEAN, STD).unwrap();
        assert!(max_abs_diff(&got[..32 * 256 * 3], &to_nhwc(&want)) <= TOLERANCE);

        let fixture = Fixture::open("image/resize.safetensors");
        for name in fixture.names().iter().filter(|n| n.starts_with("preprocess")) {
            let n: Vec<usize> = name["preprocess_".len()..].split(['x', '_']).map(|n| n.parse().unwrap()).collect();
            let got = preprocess(&noise(n[0], n[1]), n[2], MEAN, STD).unwrap();
            let diff = max_abs_diff(&got, &to_nhwc(&fixture.f32(name).1));
            assert!(diff <= TOLERANCE, "{name}: {diff:e}");
        }
    }

    #[test]
    fn planes_are_interpolated_as_by_torch() {
        let oracle = Fixture::open("resize/io.safetensors");
        let (_, src) = oracle.f32("mask_low");
        for (plane, channel) in src.chunks(256).enumerate() {
            let (_, up) = oracle.f32("mask_bilinear_74x106");
            let got = bilinear(channel, (16, 16), 74, 106).unwrap();
            assert!(max_abs_diff(&got, &up[plane * 74 * 106..][..74 * 106]) <= TOLERANCE);
            let (_, down) = oracle.f32("mask_down_antialias_6x5");
            let got = antialias_plane(channel, (16, 16), 6, 5).unwrap();
            assert!(max_abs_diff(&got, &down[plane * 30..][..30]) <= TOLERANCE);
        }

        let fixture = Fixture::open("image/resize.safetensors");
        let names = fixture.names();
        let names: Vec<_> = names.iter().filter_map(|n| n.strip_suffix(".src")).collect();
        assert_eq!(names.len(), 8);
        for name in names {
            let (s, src) = fixture.f32(&format!("{name}.src"));
            let (d, want) = fixture.f32(&format!("{name}.dst"));
            let (from, [h, w]) = ((s[0], s[1]), [d[0], d[1]]);
            if name.starts_with("bilinear") {
                let got = bilinear(&src, from, h, w).unwrap();
                assert!(max_abs_diff(&got, &want) <= TOLERANCE, "{name}");
                let mask = bilinear_mask(&src, from, h, w, 0.0).unwrap();
                assert_eq!(mask, Mask::from_logits(&got, w, h, 0.0).unwrap());
            } else {
                assert!(max_abs_diff(&antialias_plane(&src, from, h, w).unwrap(), &want) <= TOLERANCE, "{name}");
                let mask = Mask::from_logits(&src, s[1], s[0], 0.5).unwrap();
                assert!(max_abs_diff(&antialias_mask(&mask, h, w).unwrap(), &want) <= TOLERANCE, "{name}");
            }
        }
    }

    #[test]
    fn bands_do_not_change_a_bit() {
        // The first rows of a tall picture are a band of their own; the same rows as the end of another are not.
        let picture = noise(40, 300);
        let all = antialias_bilinear(&picture, 200, 17).unwrap();
        let one = antialias::<4, 3>(
            (300, 40),
            (200, 17),
            |y, row| {
                for (to, from) in row.iter_mut().zip(picture.row(y).chunks_exact(3)) {
                    *to = [from[0], from[1], from[2], 0].map(|v| f32::from(v) / 255.0);
                }
            },
            |_| {},
        );
        assert_eq!(all, one.unwrap());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(7).build().unwrap();
        assert_eq!(all, pool.install(|| antialias_bilinear(&picture, 200, 17)).unwrap());
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let picture = noise(2, 2);
        assert!(antialias_bilinear(&picture, 0, 4).is_err());
        assert!(antialias_bilinear(&picture, usize::MAX / 2, 4).is_err());
        assert!(preprocess(&picture, 0, MEAN, STD).is_err());
        assert!(bilinear(&[1.0; 4], (2, 2), 0, 3).is_err());
        assert!(bilinear(&[1.0; 4], (2, 2), 3, 0).is_err());
        assert!(bilinear(&[1.0; 4], (2, 3), 3, 3).is_err());
        assert!(bilinear(&[], (0, 0), 3, 3).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_constant_stays_constant(w in 1usize..50, h in 1usize..50, ow in 1usize..50, oh in 1usize..50) {
            for v in antialias_plane(&vec![1.0; w * h], (h, w), oh, ow).unwrap() {
                assert!((v - 1.0).abs() <= 2e-6);
            }
            for v in bilinear(&vec![3.0; w * h], (h, w), oh, ow).unwrap() {
                assert!((v - 3.0).abs() <= 2e-6);
            }
        }
    }
}
