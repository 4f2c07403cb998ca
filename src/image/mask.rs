//! A binary mask, one bit a pixel.

use super::par;
use crate::error::{Result, ensure};

/// A binary mask of `width x height` pixels, packed row by row into words of 64: a mask of a 4K picture takes 1 MB,
/// and areas, boxes and IoU are counted a word at a time.
#[derive(Clone, PartialEq, Eq)]
pub struct Mask {
    width: usize,
    height: usize,
    /// `height` rows of `stride` words; the lowest bit is the leftmost pixel. Bits past the width are 0.
    words: Vec<u64>,
}

impl Mask {
    /// An empty mask: no pixel set.
    ///
    /// # Errors
    /// `Argument` if a side is 0 or the mask would not fit into memory.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        ensure!(width > 0 && height > 0, Argument, "a mask of {width}x{height} has no pixels");
        let fits = width.checked_mul(height).is_some_and(|n| n as u64 <= 1 << 40);
        ensure!(fits, Argument, "a mask of {width}x{height} is too large");
        Ok(Self::blank(width, height))
    }

    fn blank(width: usize, height: usize) -> Self {
        Self { width, height, words: vec![0; width.div_ceil(64) * height] }
    }

    /// The mask of `logit > threshold`, strictly, as SAM 2 cuts its logits (`(h, w)`, row by row; threshold 0). NaN is
    /// background.
    ///
    /// # Errors
    /// `Argument` if a side is 0, `Shape` if there are not `width * height` logits.
    pub fn from_logits(logits: &[f32], width: usize, height: usize, threshold: f32) -> Result<Self> {
        Self::from_fn_of(logits, width, height, |v| v > threshold)
    }

    /// The mask of the pixels for which `set(value)` holds.
    ///
    /// # Errors
    /// As [`Mask::from_logits`].
    pub fn from_fn_of<T: Copy + Sync>(
        values: &[T],
        width: usize,
        height: usize,
        set: impl Fn(T) -> bool + Send + Sync,
    ) -> Result<Self> {
        let mut mask = Self::new(width, height)?;
        ensure!(
            values.len() == width * height,
            Shape,
            "a mask of {width}x{height} is given as {} values",
            values.len()
        );
        par::chunks_mut(&mut mask.words, width.div_ceil(64), |y, words| {
            pack(&values[y * width..][..width], words, &set)
        });
        Ok(mask)
    }

    /// The mask of rows that `fill(y, row)` computes, without a copy of them all. Sides are at least 1.
    pub(super) fn from_rows(
        width: usize,
        height: usize,
        fill: impl Fn(usize, &mut [f32]) + Send + Sync,
        set: impl Fn(f32) -> bool + Send + Sync,
    ) -> Self {
        let mut mask = Self::blank(width, height);
        let (stride, band) = (width.div_ceil(64), par::band(height));
        par::chunks_mut(&mut mask.words, stride * band, |b, words| {
            let mut row = vec![0.0; width];
            for (i, words) in words.chunks_mut(stride).enumerate() {
                fill(b * band + i, &mut row);
                pack(&row, words, &set);
            }
        });
        mask
    }

    /// Columns, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Whether the pixel is set; outside the mask none is.
    pub fn get(&self, x: usize, y: usize) -> bool {
        x < self.width && y < self.height && self.row(y)[x / 64] >> (x % 64) & 1 == 1
    }

    /// Sets or clears a pixel.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn set(&mut self, x: usize, y: usize, on: bool) {
        assert!(x < self.width && y < self.height, "({x}, {y}) is outside the mask");
        let word = &mut self.row_mut(y)[x / 64];
        let bit = 1 << (x % 64);
        *word = if on { *word | bit } else { *word & !bit };
    }

    /// The words of row `y`: bit `x % 64` of word `x / 64` is pixel `x`.
    pub(super) fn row(&self, y: usize) -> &[u64] {
        let stride = self.width.div_ceil(64);
        &self.words[y * stride..][..stride]
    }

    /// As [`Mask::row`]; bits past the width must stay 0.
    pub(super) fn row_mut(&mut self, y: usize) -> &mut [u64] {
        let stride = self.width.div_ceil(64);
        &mut self.words[y * stride..][..stride]
    }

    /// The runs of set pixels of row `y`, as `(start, end)` with `end` exclusive, from left to right.
    pub(super) fn runs(&self, y: usize) -> Runs<'_> {
        Runs { row: self.row(y), width: self.width, at: 0 }
    }

    /// The number of set pixels.
    pub fn area(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether no pixel is set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// The box `[x0, y0, x1, y1]` of the outermost set pixels, both ends inclusive; all 0 for an empty mask. This is
    /// `batched_mask_to_box` of `sam2/utils/amg.py`.
    pub fn bbox(&self) -> [u32; 4] {
        let (mut left, mut right, mut top, mut bottom) = (usize::MAX, 0, None, 0);
        for y in 0..self.height {
            let row = self.row(y);
            let Some(first) = row.iter().position(|w| *w != 0) else { continue };
            let last = row.iter().rposition(|w| *w != 0).unwrap_or(first);
            left = left.min(first * 64 + row[first].trailing_zeros() as usize);
            right = right.max(last * 64 + 63 - row[last].leading_zeros() as usize);
            top.get_or_insert(y);
            bottom = y;
        }
        match top {
            Some(top) => [left as u32, top as u32, right as u32, bottom as u32],
            None => [0; 4],
        }
    }

    /// The box `[x, y, w, h]` as SAM 2 writes it: `w = x1 - x0` of [`Mask::bbox`], with no + 1. A single pixel has
    /// width 0.
    pub fn bbox_xywh(&self) -> [u32; 4] {
        let [x0, y0, x1, y1] = self.bbox();
        [x0, y0, x1 - x0, y1 - y0]
    }

    /// The number of pixels set in both.
    ///
    /// # Errors
    /// `Shape` if the sizes differ.
    pub fn intersection(&self, other: &Self) -> Result<u64> {
        self.check_same_size(other)?;
        Ok(self.words.iter().zip(&other.words).map(|(a, b)| u64::from((a & b).count_ones())).sum())
    }

    /// Sets what is set in `other`.
    ///
    /// # Errors
    /// `Shape` if the sizes differ.
    pub fn unite(&mut self, other: &Self) -> Result<()> {
        self.check_same_size(other)?;
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
        Ok(())
    }

    /// Intersection over union. Two empty masks agree: 1.
    ///
    /// # Errors
    /// `Shape` if the sizes differ.
    pub fn iou(&self, other: &Self) -> Result<f64> {
        let both = self.intersection(other)?;
        let either = self.area() + other.area() - both;
        Ok(if either == 0 { 1.0 } else { both as f64 / either as f64 })
    }

    /// The mask in a larger frame of `width x height`, its top left corner at `(x0, y0)`: `uncrop_masks`.
    ///
    /// # Errors
    /// `Argument` if it does not fit there.
    pub fn uncrop(&self, x0: usize, y0: usize, width: usize, height: usize) -> Result<Self> {
        let fits = x0.checked_add(self.width).is_some_and(|x| x <= width)
            && y0.checked_add(self.height).is_some_and(|y| y <= height);
        ensure!(
            fits,
            Argument,
            "a mask of {}x{} at ({x0}, {y0}) leaves the frame of {width}x{height}",
            self.width,
            self.height
        );
        let mut out = Self::new(width, height)?;
        let (skip, shift) = (x0 / 64, x0 % 64);
        for y in 0..self.height {
            let to = &mut out.row_mut(y0 + y)[skip..];
            for (i, word) in self.row(y).iter().enumerate() {
                to[i] |= word << shift;
                // What is shifted out of the last word are bits past the width, which are 0.
                if shift > 0 && i + 1 < to.len() {
                    to[i + 1] |= word >> (64 - shift);
                }
            }
        }
        Ok(out)
    }

    /// The mask as bytes, `(height, width)`: `on` where set, 0 elsewhere.
    pub fn to_bytes(&self, on: u8) -> Vec<u8> {
        let mut bytes = vec![0; self.width * self.height];
        par::chunks_mut(&mut bytes, self.width, |y, row| {
            for (start, end) in self.runs(y) {
                row[start..end].fill(on);
            }
        });
        bytes
    }

    fn check_same_size(&self, other: &Self) -> Result<()> {
        ensure!(
            (self.width, self.height) == (other.width, other.height),
            Shape,
            "masks of {}x{} and {}x{} cannot be compared",
            self.width,
            self.height,
            other.width,
            other.height
        );
        Ok(())
    }
}

fn pack<T: Copy>(row: &[T], words: &mut [u64], set: impl Fn(T) -> bool) {
    for (word, values) in words.iter_mut().zip(row.chunks(64)) {
        *word = values.iter().enumerate().fold(0, |word, (i, v)| word | u64::from(set(*v)) << i);
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({}x{}, area {})", self.width, self.height, self.area())
    }
}

/// See [`Mask::runs`].
pub(super) struct Runs<'a> {
    row: &'a [u64],
    width: usize,
    at: usize,
}

impl Runs<'_> {
    /// The first pixel from `at` on that is `on`, or the width.
    fn seek(&self, mut at: usize, on: bool) -> usize {
        while at < self.width {
            let word = if on { self.row[at / 64] } else { !self.row[at / 64] } >> (at % 64);
            if word != 0 {
                return (at + word.trailing_zeros() as usize).min(self.width);
            }
            at = (at / 64 + 1) * 64;
        }
        self.width
    }
}

impl Iterator for Runs<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.seek(self.at, true);
        (start < self.width).then(|| {
            self.at = self.seek(start, false);
            (start, self.at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::image::testing::Fixture;

    #[test]
    fn area_box_and_iou_are_those_of_amg_and_coco() {
        let fixture = Fixture::open("image/rle.safetensors");
        let masks: Vec<_> = (0..10)
            .map(|i| {
                let (shape, bytes) = fixture.u8(&format!("{i}.mask"));
                let mask = Mask::from_fn_of(&bytes, shape[1], shape[0], |b| b > 0).unwrap();
                assert_eq!(mask.area(), u64::from(fixture.u32(&format!("{i}.area"))[0]));
                assert_eq!(mask.bbox()[..], fixture.u32(&format!("{i}.box"))[..]);
                assert_eq!(mask.is_empty(), mask.area() == 0);
                assert_eq!(mask.to_bytes(1), bytes);
                mask
            })
            .collect();
        let want = fixture.f64("iou");
        for (i, a) in masks[7..].iter().enumerate() {
            for (j, b) in masks[7..].iter().enumerate() {
                assert!((a.iou(b).unwrap() - want[i * 3 + j]).abs() < 1e-12);
            }
        }
        assert_eq!(masks[0].iou(&masks[2]).unwrap_err().kind(), ErrorKind::Shape);
    }

    #[test]
    fn logits_are_cut_strictly() {
        let mask = Mask::from_logits(&[0.0, -0.0, 1e-9, f32::NAN, -1.0, f32::INFINITY], 3, 2, 0.0).unwrap();
        let got: Vec<_> = (0..6).map(|i| mask.get(i % 3, i / 3)).collect();
        assert_eq!(got, [false, false, true, false, false, true]);
        assert_eq!(mask.bbox(), [2, 0, 2, 1]);
        assert_eq!(mask.bbox_xywh(), [2, 0, 0, 1]);
        assert!(!mask.get(3, 0) && !mask.get(0, 2));
        assert_eq!(Mask::new(0, 4).unwrap_err().kind(), ErrorKind::Argument);
        assert_eq!(Mask::new(usize::MAX, 4).unwrap_err().kind(), ErrorKind::Argument);
        assert_eq!(Mask::from_logits(&[0.0; 5], 3, 2, 0.0).unwrap_err().kind(), ErrorKind::Shape);
    }

    proptest::proptest! {
        #[test]
        fn uncrop_moves_every_pixel(
            (w, h) in (1usize..150, 1usize..6), (x0, y0) in (0usize..140, 0usize..3), more in 0usize..70, seed: u64,
        ) {
            let bits: Vec<u64> = (0..w * h).map(|i| (i as u64 + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63).collect();
            let mask = Mask::from_fn_of(&bits, w, h, |b| b == 1).unwrap();
            let (width, height) = (x0 + w + more, y0 + h + more % 3);
            let big = mask.uncrop(x0, y0, width, height).unwrap();
            for y in 0..height {
                for x in 0..width {
                    let inside = x >= x0 && y >= y0;
                    assert_eq!(big.get(x, y), inside && mask.get(x - x0, y - y0));
                }
            }
            assert_eq!(big.area(), mask.area());
            assert!(mask.uncrop(x0 + more + 1, y0, width, height).is_err());
        }
    }
}
