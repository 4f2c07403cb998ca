//! COCO run lengths.

use super::Mask;
use crate::error::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// A mask as COCO writes it: the lengths of its runs down the columns, from left to right; the first run is
/// background (of length 0 if the first pixel is set).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rle {
    width: usize,
    height: usize,
    counts: Vec<u32>,
}

/// The JSON form of an [`Rle`]: `{"size": [height, width], "counts": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CocoRle {
    /// `[height, width]`.
    pub size: [usize; 2],
    /// The runs.
    pub counts: CocoCounts,
}

/// Runs as numbers (`uncompressed_rle`) or as pycocotools' string (`coco_rle`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CocoCounts {
    /// Run lengths.
    List(Vec<u32>),
    /// Run lengths, packed into characters.
    Compressed(String),
}

impl Rle {
    /// Runs of a mask of `width x height`.
    ///
    /// # Errors
    /// `Input` if the runs do not add up to `width * height`, `Argument` if a side is 0 or the mask has more than
    /// 2^32 - 1 pixels.
    pub fn new(width: usize, height: usize, counts: Vec<u32>) -> Result<Self> {
        check_size(width, height)?;
        let sum: u64 = counts.iter().map(|c| u64::from(*c)).sum();
        ensure!(
            sum == width as u64 * height as u64,
            Input,
            "the run lengths of a mask of {width}x{height} add up to {sum}, not to {}",
            width as u64 * height as u64
        );
        Ok(Self { width, height, counts })
    }

    /// The runs of `mask`, as pycocotools' `encode` and SAM 2's `mask_to_rle_pytorch` count them.
    ///
    /// # Errors
    /// `Argument` if the mask has more than 2^32 - 1 pixels.
    pub fn encode(mask: &Mask) -> Result<Self> {
        let (width, height) = (mask.width(), mask.height());
        check_size(width, height)?;
        let mut counts = Vec::new();
        let (mut last, mut on) = (0, 0);
        // Bits that differ from the pixel above, 64 columns at a time: the changes are few.
        let mut changes: [Vec<u32>; 64] = std::array::from_fn(|_| Vec::new());
        for block in 0..width.div_ceil(64) {
            let mut above = 0;
            for y in 0..height {
                let word = mask.row(y)[block];
                let mut diff = word ^ above;
                while diff != 0 {
                    changes[diff.trailing_zeros() as usize].push(y as u32);
                    diff &= diff - 1;
                }
                above = word;
            }
            for (i, changes) in changes.iter_mut().enumerate().take(width - block * 64) {
                let start = ((block * 64 + i) * height) as u32;
                // A column starts as if after background; the run goes on if the column before it ended set.
                let starts_on = u32::from(changes.first() == Some(&0));
                if starts_on != on {
                    counts.push(start - last);
                    last = start;
                }
                for y in changes.drain(..).skip(starts_on as usize) {
                    counts.push(start + y - last);
                    last = start + y;
                }
                on = (counts.len() % 2) as u32;
            }
        }
        counts.push((width * height) as u32 - last);
        Ok(Self { width, height, counts })
    }

    /// The mask of these runs.
    pub fn decode(&self) -> Mask {
        let mut mask = Mask::new(self.width, self.height).expect("`new` and `encode` checked the size");
        let mut at = 0;
        // A bit where a run starts or ends, seen down the column; then each row is what the row above was, flipped there.
        for (i, count) in self.counts.iter().enumerate() {
            let end = at + *count as usize;
            if i % 2 == 1 && at < end {
                let (first, last) = (at / self.height, (end - 1) / self.height);
                for x in first..=last {
                    let from = if x == first { at % self.height } else { 0 };
                    let to = if x == last { (end - 1) % self.height + 1 } else { self.height };
                    for y in [from, to] {
                        if y < self.height {
                            mask.row_mut(y)[x / 64] ^= 1 << (x % 64);
                        }
                    }
                }
            }
            at = end;
        }
        let mut above = vec![0; self.width.div_ceil(64)];
        for y in 0..self.height {
            for (word, above) in mask.row_mut(y).iter_mut().zip(&mut above) {
                *word ^= *above;
                *above = *word;
            }
        }
        mask
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The run lengths, background first.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// The number of set pixels.
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|c| u64::from(*c)).sum()
    }

    /// The run lengths as pycocotools' string: each number as its difference from the one two before, in groups of
    /// 5 bits, lowest first, with a continuation bit, plus 48.
    pub fn to_compressed(&self) -> String {
        let mut out = String::new();
        for (i, count) in self.counts.iter().enumerate() {
            let mut x = i64::from(*count);
            if i > 2 {
                x -= i64::from(self.counts[i - 2]);
            }
            loop {
                let group = (x & 0x1F) as u8;
                x >>= 5;
                let more = if group & 0x10 != 0 { x != -1 } else { x != 0 };
                out.push(char::from(48 + group + if more { 0x20 } else { 0 }));
                if !more {
                    break;
                }
            }
        }
        out
    }

    /// Reads pycocotools' string.
    ///
    /// # Errors
    /// `Input` if it is no such string or does not add up to `width * height`, `Argument` as [`Rle::new`].
    pub fn from_compressed(width: usize, height: usize, text: &str) -> Result<Self> {
        let mut counts: Vec<u32> = Vec::new();
        let (mut x, mut shift) = (0i64, 0);
        for (i, byte) in text.bytes().enumerate() {
            let group = byte.wrapping_sub(48);
            ensure!(group < 64, Input, "run lengths: byte {byte:#04x} at {i} is not of COCO's alphabet");
            // Seven groups hold any difference of two u32.
            ensure!(shift <= 30, Input, "run lengths: the number that ends after byte {i} is too long");
            x |= i64::from(group & 0x1F) << shift;
            shift += 5;
            if group & 0x20 != 0 {
                continue;
            }
            if group & 0x10 != 0 {
                x |= -1 << shift;
            }
            if counts.len() > 2 {
                x += i64::from(counts[counts.len() - 2]);
            }
            let Ok(count) = u32::try_from(x) else { bail!(Input, "run lengths: {x} at byte {i} is not a length") };
            counts.push(count);
            (x, shift) = (0, 0);
        }
        ensure!(shift == 0, Input, "run lengths: the string ends inside a number");
        Self::new(width, height, counts)
    }

    /// The JSON form, with a string or with a list.
    pub fn to_coco(&self, compressed: bool) -> CocoRle {
        let counts = if compressed {
            CocoCounts::Compressed(self.to_compressed())
        } else {
            CocoCounts::List(self.counts.clone())
        };
        CocoRle { size: [self.height, self.width], counts }
    }

    /// Reads either JSON form.
    ///
    /// # Errors
    /// As [`Rle::new`] and [`Rle::from_compressed`].
    pub fn from_coco(coco: CocoRle) -> Result<Self> {
        let [height, width] = coco.size;
        match coco.counts {
            CocoCounts::List(counts) => Self::new(width, height, counts),
            CocoCounts::Compressed(text) => Self::from_compressed(width, height, &text),
        }
    }
}

fn check_size(width: usize, height: usize) -> Result<()> {
    let fits = width > 0 && height > 0 && width.checked_mul(height).is_some_and(|n| u32::try_from(n).is_ok());
    ensure!(fits, Argument, "a mask of {width}x{height} has no run lengths: 1 to 2^32 - 1 pixels do");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::image::testing::Fixture;
    use proptest::prelude::*;

    #[test]
    fn encodes_and_decodes_as_pycocotools() {
        let fixture = Fixture::open("image/rle.safetensors");
        for i in 0..10 {
            let (shape, bytes) = fixture.u8(&format!("{i}.mask"));
            let (h, w) = (shape[0], shape[1]);
            let mask = Mask::from_fn_of(&bytes, w, h, |b| b > 0).unwrap();
            let rle = Rle::encode(&mask).unwrap();
            assert_eq!(rle.counts(), fixture.u32(&format!("{i}.counts")));
            let string = String::from_utf8(fixture.u8(&format!("{i}.string")).1).unwrap();
            assert_eq!(rle.to_compressed(), string);
            assert_eq!(Rle::from_compressed(w, h, &string).unwrap(), rle);
            assert_eq!(rle.decode(), mask);
            assert_eq!(rle.area(), mask.area());
            for compressed in [true, false] {
                let json = serde_json::to_string(&rle.to_coco(compressed)).unwrap();
                assert_eq!(Rle::from_coco(serde_json::from_str(&json).unwrap()).unwrap(), rle);
            }
        }
    }

    #[test]
    fn hostile_run_lengths_are_errors() {
        for (text, what) in [
            ("", "add up"),
            ("11", "add up"),
            ("P", "inside a number"),
            ("\x7f", "alphabet"),
            (" ", "alphabet"),
            ("é", "alphabet"),
            ("ooooooooooooooooooo0", "too long"),
            ("O", "not a length"),
        ] {
            let e = Rle::from_compressed(4, 4, text).unwrap_err();
            assert!(e.kind() == ErrorKind::Input && e.to_string().contains(what), "{text:?}: {e}");
        }
        assert_eq!(Rle::new(2, 2, vec![u32::MAX; 9]).unwrap_err().kind(), ErrorKind::Input);
        assert_eq!(Rle::new(1 << 20, 1 << 20, vec![]).unwrap_err().kind(), ErrorKind::Argument);
        assert_eq!(Rle::new(0, 2, vec![]).unwrap_err().kind(), ErrorKind::Argument);
        // Zero-length runs inside are allowed, as in COCO.
        assert_eq!(Rle::new(2, 2, vec![0, 1, 0, 2, 1]).unwrap().decode().area(), 3);
    }

    proptest! {
        #[test]
        fn any_mask_survives(w in 1usize..140, h in 1usize..40, density in 0u64..=8, seed: u64) {
            let set = |i: usize| (i as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61 < density;
            let bits: Vec<bool> = (0..w * h).map(set).collect();
            let mask = Mask::from_fn_of(&bits, w, h, |b| b).unwrap();
            let rle = Rle::encode(&mask).unwrap();
            // The definition, pixel by pixel.
            let (mut counts, mut last) = (vec![0u32], false);
            for x in 0..w {
                for y in 0..h {
                    if bits[y * w + x] != last {
                        counts.push(0);
                        last = !last;
                    }
                    *counts.last_mut().unwrap() += 1;
                }
            }
            prop_assert_eq!(rle.counts(), counts);
            prop_assert_eq!(&rle.decode(), &mask);
            prop_assert_eq!(Rle::from_compressed(w, h, &rle.to_compressed()).unwrap(), rle);
        }

        #[test]
        fn any_counts_survive_the_string(counts in prop::collection::vec(any::<u32>(), 0..9), junk in ".{0,40}") {
            let rle = Rle { width: 1, height: 1, counts };
            let text = rle.to_compressed();
            let sum: u64 = rle.counts.iter().map(|c| u64::from(*c)).sum();
            match Rle::from_compressed(1, 1, &text) {
                Ok(read) => prop_assert_eq!(read, rle),
                Err(e) => {
                    let says = format!("add up to {sum},");
                    prop_assert!(sum != 1 && e.to_string().contains(&says), "{}", e);
                }
            }
            let _ = Rle::from_compressed(1, 1, &junk);
        }
    }
}
