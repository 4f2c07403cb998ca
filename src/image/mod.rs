//! Pictures and masks on the CPU: reading and writing files, resizing as the references do, run lengths,
//! polygons, connected components, box suppression and drawing.
//!
//! Everything here is plain data and knows neither device nor model.

pub mod batch;
pub mod components;
mod decode;
pub mod draw;
#[cfg(not(target_arch = "wasm32"))]
pub mod frames;
#[cfg(not(target_arch = "wasm32"))]
pub mod indexed;
pub mod mask;
pub mod metadata;
#[cfg(not(target_arch = "wasm32"))]
pub mod movie;
pub mod nms;
#[cfg(not(target_arch = "wasm32"))]
pub mod output;
mod par;
pub mod pillow;
pub mod polygon;
pub mod resize;
pub mod rle;
#[cfg(test)]
pub(crate) mod testing;

pub use mask::Mask;
pub use rle::Rle;

use crate::error::{Result, ensure};

/// An RGB picture, 8 bits a channel.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    /// A picture from `rgb`: `(height, width, 3)` bytes, row by row.
    ///
    /// # Errors
    /// `Input` if a side is 0 or the length is not `width * height * 3`.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        ensure!(width > 0 && height > 0, Input, "a picture of {width}x{height} has no pixels");
        let want = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        ensure!(
            want == Some(rgb.len()),
            Input,
            "a picture of {width}x{height} needs width * height * 3 bytes of RGB, got {}",
            rgb.len()
        );
        Ok(Self { width, height, rgb })
    }

    /// Columns, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, at least 1.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `(height, width, 3)` bytes.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// `(height, width, 3)` bytes, to draw on.
    pub fn rgb_mut(&mut self) -> &mut [u8] {
        &mut self.rgb
    }

    /// The bytes of row `y`: `width * 3` of them.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.rgb[y * self.width * 3..][..self.width * 3]
    }

    /// A copy of the pixels with `x0 <= x < x1` and `y0 <= y < y1`.
    ///
    /// # Errors
    /// `Argument` if the rectangle is empty or leaves the picture.
    pub fn crop(&self, [x0, y0, x1, y1]: [usize; 4]) -> Result<Self> {
        ensure!(
            x0 < x1 && y0 < y1 && x1 <= self.width && y1 <= self.height,
            Argument,
            "crop [{x0}, {y0}, {x1}, {y1}] is empty or leaves the picture of {}x{}",
            self.width,
            self.height
        );
        let rgb = (y0..y1).flat_map(|y| &self.row(y)[x0 * 3..x1 * 3]).copied().collect();
        Self::new(x1 - x0, y1 - y0, rgb)
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}
