//! Pillow's bicubic resize on 8-bit pixels, to the bit: what the official video predictor does to the frames of a folder
//! (`_load_img_as_tensor` in `sam2/utils/misc.py`). After `Resample.c`: weights of 22 fractional bits, along rows first, rounded to
//! 8 bits between the passes. (Pillow 13 takes columns first where that is less work, as for upright frames: up to a few levels
//! of difference at hard edges. All before it go as here.)

use super::{Picture, par};
use crate::error::{Result, ensure};

/// Fractional bits of a weight.
const BITS: u32 = 22;

/// The pixels that make one, from the first on, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes to `(side, side)` by bicubic in 8 bits, then subtracts `mean` and divides by `std` (of channels in 0..=1): NHWC
/// `(1, side, side, 3)`.
///
/// # Errors
/// `Argument` if `side` is 0.
pub fn preprocess(picture: &Picture, side: usize, mean: [f32; 3], std: [f32; 3]) -> Result<Vec<f32>> {
    let resized = bicubic(picture, side, side)?;
    let finish = |(i, v): (usize, &u8)| (f32::from(*v) / 255.0 - mean[i % 3]) / std[i % 3];
    Ok(resized.rgb().iter().enumerate().map(finish).collect())
}

/// The picture in another size, as `PIL.Image.resize` makes it of an RGB image when nothing else is said.
///
/// # Errors
/// `Argument` if a side is 0.
pub fn bicubic(picture: &Picture, width: usize, height: usize) -> Result<Picture> {
    ensure!(width > 0 && height > 0, Argument, "a picture of {width}x{height} has no pixels");
    let (w, h) = (picture.width(), picture.height());
    let mut wide = vec![0; width * h * 3];
    if width == w {
        wide.copy_from_slice(picture.rgb());
    } else {
        let columns = taps(w, width);
        par::chunks_mut(&mut wide, width * 3, |y, row| {
            let from = picture.row(y);
            for (to, taps) in row.chunks_exact_mut(3).zip(&columns) {
                for (c, to) in to.iter_mut().enumerate() {
                    *to = weighted(taps, |i| from[i * 3 + c]);
                }
            }
        });
    }
    if height == h {
        return Picture::new(width, height, wide);
    }
    let rows = taps(h, height);
    let mut out = vec![0; width * height * 3];
    par::chunks_mut(&mut out, width * 3, |y, row| {
        for (x, to) in row.iter_mut().enumerate() {
            *to = weighted(&rows[y], |i| wide[i * width * 3 + x]);
        }
    });
    Picture::new(width, height, out)
}

fn weighted(taps: &Taps, pixel: impl Fn(usize) -> u8) -> u8 {
    let of = |(i, w): (usize, &i32)| i32::from(pixel(taps.first + i)) * w;
    let sum = taps.weights.iter().enumerate().map(of).fold(1 << (BITS - 1), |sum, v| sum + v);
    (sum >> BITS).clamp(0, 255) as u8
}

/// For each of `to` pixels, those of `from` that it is made of.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    // The filter is widened when shrinking.
    let wide = scale.max(1.0);
    let support = 2.0 * wide;
    let one = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let last = ((center + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..last).map(|x| cubic((x as f64 - center + 0.5) / wide)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: &f64| (w / sum * f64::from(1 << BITS)).round() as i32;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(one).collect()
}

/// Keys' kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    /// Outputs of Pillow 13.0.0 for `Image.fromarray(noise).resize((w, h))`, named `HxW.hxw`.
    #[test]
    fn the_bits_are_those_of_pillow() {
        let fixture = Fixture::open("resize/pillow.safetensors");
        let names = fixture.names();
        assert_eq!(names.len(), 5);
        for name in names {
            let (before, after) = name.split_once('.').unwrap();
            let size = |text: &str| -> (usize, usize) {
                let (h, w) = text.split_once('x').unwrap();
                (h.parse().unwrap(), w.parse().unwrap())
            };
            let ((h, w), (out_h, out_w)) = (size(before), size(after));
            // Some hard edges, where rounding and clipping show.
            let value = |i: usize| if i.is_multiple_of(7) { 255 * (i / 7 % 2) as u8 } else { (i * i * 31 % 251) as u8 };
            let picture = Picture::new(w, h, (0..w * h * 3).map(value).collect()).unwrap();
            let found = bicubic(&picture, out_w, out_h).unwrap();
            assert_eq!(found.rgb(), fixture.u8(&name).1, "{name}");
        }
    }

    #[test]
    fn channels_are_normalised() {
        let picture = Picture::new(2, 1, vec![255, 0, 51, 255, 0, 51]).unwrap();
        let found = preprocess(&picture, 4, [0.5, 0.0, 0.2], [0.5, 1.0, 2.0]).unwrap();
        assert_eq!((found.len(), &found[..3]), (48, &[1.0, 0.0, 0.0][..]));
        assert!(preprocess(&picture, 0, [0.0; 3], [1.0; 3]).is_err());
    }
}
