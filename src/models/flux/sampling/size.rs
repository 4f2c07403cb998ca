//! Sizes of pictures, and the positions that their tokens have.

use super::super::Version;
use crate::error::{Result, ensure};

/// A picture's size in pixels, both sides multiples of 16: the autoencoder makes one latent of 8 x 8 pixels, and the
/// transformer one token of 2 x 2 latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    width: usize,
    height: usize,
}

/// Pixels of a token's side.
const TOKEN: usize = 16;

impl Size {
    /// The longest side, which no model was trained for: it bounds what a typing error can ask for.
    pub const MAX_SIDE: usize = 8192;

    /// This size, as it is.
    ///
    /// # Errors
    /// `Argument` if a side is no multiple of 16 (with the nearest size that is), or not in 16..=8192.
    pub fn exact(width: usize, height: usize) -> Result<Self> {
        let size = Self::floor(width, height)?;
        ensure!(
            (size.width, size.height) == (width, height),
            Argument,
            "{width}x{height}: both sides have to be multiples of 16, as in {}x{}",
            size.width,
            size.height
        );
        Ok(size)
    }

    /// The next smaller size whose sides are multiples of 16, as diffusers rounds. Show what came of it:
    /// [`width`](Self::width) and [`height`](Self::height).
    ///
    /// # Errors
    /// `Argument` if a side is not in 16..=8192.
    pub fn floor(width: usize, height: usize) -> Result<Self> {
        let sides = 16..=Self::MAX_SIDE;
        ensure!(
            sides.contains(&width) && sides.contains(&height),
            Argument,
            "{width}x{height}: a side has 16 to {} pixels",
            Self::MAX_SIDE
        );
        Ok(Self { width: width / TOKEN * TOKEN, height: height / TOKEN * TOKEN })
    }

    /// Pixels in a row.
    pub fn width(self) -> usize {
        self.width
    }

    /// Rows of pixels.
    pub fn height(self) -> usize {
        self.height
    }

    /// Rows of tokens.
    pub fn rows(self) -> usize {
        self.height / TOKEN
    }

    /// Columns of tokens.
    pub fn columns(self) -> usize {
        self.width / TOKEN
    }

    /// Tokens of the picture: what FLUX's schedules go by.
    pub fn tokens(self) -> usize {
        self.rows() * self.columns()
    }
}

/// Positions `[t, row, column, l]` of a text's tokens on the axes of the rotary embedding; FLUX.1 uses the first three, all 0.
pub fn text_ids(version: Version, tokens: usize) -> Vec<[u32; 4]> {
    let l = |i| if version == Version::Flux2 { i as u32 } else { 0 };
    (0..tokens).map(|i| [0, 0, 0, l(i)]).collect()
}

/// Positions `[t, row, column, 0]` of a picture's tokens, row by row. The picture that is made has `t` = 0.
/// The reference picture of Kontext has `t` = 1, reference `k` (from 0) of FLUX.2 has `t` = 10 + 10 k.
pub fn image_ids(t: u32, rows: usize, columns: usize) -> Vec<[u32; 4]> {
    (0..rows).flat_map(|row| (0..columns).map(move |column| [t, row as u32, column as u32, 0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    #[test]
    fn sizes_are_multiples_of_16() {
        let size = Size::exact(1360, 768).unwrap();
        assert_eq!((size.columns(), size.rows(), size.tokens()), (85, 48, 4080));
        let floor = Size::floor(1000, 31).unwrap();
        assert_eq!((floor.width(), floor.height()), (992, 16));
        let e = Size::exact(1000, 1024).unwrap_err();
        assert_eq!(e.to_string(), "1000x1024: both sides have to be multiples of 16, as in 992x1024");
        for (width, height) in [(0, 16), (16, 15), (8208, 16), (16, usize::MAX)] {
            assert_eq!(Size::floor(width, height).unwrap_err().kind(), crate::ErrorKind::Argument);
        }
    }

    #[test]
    fn ids_are_those_of_diffusers() {
        let reference = Fixture::open("sampling/latents.safetensors");
        let flat = |ids: Vec<[u32; 4]>, axes| -> Vec<f32> {
            ids.iter().flat_map(|id| id[..axes].iter().map(|v| *v as f32)).collect()
        };
        assert_eq!(reference.f32("flux1.ids").1, flat(image_ids(0, 3, 5), 3));
        assert_eq!(reference.f32("flux2.ids").1, flat(image_ids(0, 3, 5), 4));
        assert_eq!(reference.f32("flux2.text_ids").1, flat(text_ids(Version::Flux2, 7), 4));
        let references = [image_ids(10, 2, 3), image_ids(20, 1, 2)].concat();
        assert_eq!(reference.f32("flux2.reference_ids").1, flat(references, 4));
        assert!(text_ids(Version::Flux1, 9).iter().all(|id| *id == [0; 4]));
    }
}
