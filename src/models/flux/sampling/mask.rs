//! Masks of what is painted anew, in the two forms that runs read. After `prepare_mask_latents` of diffusers'
//! `FluxFillPipeline` and `FluxInpaintPipeline`.

use super::Size;
use crate::{
    error::{Result, ensure},
    image::Mask,
};

/// Features of a token that the mask of Fill takes: its 16 x 16 pixels.
pub const FILL_FEATURES: usize = 256;

/// Pixels of a latent's side.
const LATENT: usize = 8;

/// A mask as FLUX.1 Fill reads it, `(tokens, 256)`, 1 where it is set. Feature `4 * pixel + 2 * row + column` is pixel
/// `8 * y + x` of the latent at `row` and `column` of the token: pixels stand where latents have channels.
///
/// # Errors
/// `Shape` for a mask of another size.
pub fn fill_mask(mask: &Mask, size: Size) -> Result<Vec<f32>> {
    build(mask, size, FILL_FEATURES / 4)
}

/// A mask of latents, `(tokens, 4)`: 1 where the mask is set at the first pixel of latent `2 * row + column` of the token.
///
/// # Errors
/// `Shape` for a mask of another size.
pub fn latent_mask(mask: &Mask, size: Size) -> Result<Vec<f32>> {
    build(mask, size, 1)
}

/// The first `pixels` of each latent's 64.
fn build(mask: &Mask, size: Size, pixels: usize) -> Result<Vec<f32>> {
    let (width, height) = (size.width(), size.height());
    ensure!(
        (mask.width(), mask.height()) == (width, height),
        Shape,
        "a mask of {}x{} for a picture of {width}x{height}",
        mask.width(),
        mask.height()
    );
    let value = |token: usize, feature: usize| {
        let (row, column) = (token / size.columns(), token % size.columns());
        let (pixel, latent) = (feature / 4, feature % 4);
        let y = (2 * row + latent / 2) * LATENT + pixel / LATENT;
        let x = (2 * column + latent % 2) * LATENT + pixel % LATENT;
        f32::from(u8::from(mask.get(x, y)))
    };
    let value = &value;
    Ok((0..size.tokens()).flat_map(|t| (0..4 * pixels).map(move |f| value(t, f))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_has_its_place() {
        let size = Size::exact(32, 48).unwrap();
        // Token 3 is at row 1, column 1; its latent at row 1, column 0 begins at (16, 24).
        let mut mask = Mask::new(32, 48).unwrap();
        mask.set(16 + 5, 24 + 2, true);
        let fill = fill_mask(&mask, size).unwrap();
        let set: Vec<usize> = (0..fill.len()).filter(|i| fill[*i] == 1.0).collect();
        assert_eq!((fill.len(), set), (6 * 256, vec![3 * 256 + 4 * (8 * 2 + 5) + 2]));
        // A latent goes by its first pixel.
        assert!(latent_mask(&mask, size).unwrap().iter().all(|v| *v == 0.0));
        mask.set(16, 24, true);
        let latents = latent_mask(&mask, size).unwrap();
        let set: Vec<usize> = (0..latents.len()).filter(|i| latents[*i] == 1.0).collect();
        assert_eq!((latents.len(), set), (24, vec![3 * 4 + 2]));
        assert!(fill_mask(&Mask::new(16, 48).unwrap(), size).is_err());
    }
}
