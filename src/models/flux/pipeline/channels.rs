//! Pictures that some transformers of FLUX.1 read beside each token's latents, in channels of their own. After diffusers'
//! `FluxFillPipeline` and `FluxControlPipeline`.

use super::{
    super::{Config, config::Reads, sampling::Size},
    autoencoder::{finite, pixels},
};
use crate::{
    error::{Result, bail, ensure},
    image::{Mask, Picture, resize},
};

/// What stands in the channels behind the latents. Pictures and masks of another size than the one that is made are resized,
/// if their aspect is the same.
#[derive(Debug, Clone)]
pub enum Channels {
    /// For FLUX.1 Fill: a picture, of which what the mask covers is painted anew. To paint beyond its edges, put it on a
    /// larger canvas whose rest is masked.
    Fill {
        /// The picture. What lies under the mask is not seen.
        picture: Picture,
        /// Set where it is painted anew; [`read_mask`] reads one from a picture.
        mask: Mask,
    },
    /// For FLUX.1 Canny and Depth: the edges (white on black) or the depths (near is bright) that the picture is to have.
    Control(Picture),
    /// For either: `(tokens, channels)` as they are read, 320 for Fill and 64 for Canny and Depth.
    Encoded(Vec<f32>),
}

/// Whether a model can read what it is given, and is given what it reads.
///
/// # Errors
/// `Argument` if not, and for pictures of another aspect; `Numeric` for channels that are not finite.
pub(super) fn check(given: Option<&Channels>, c: &Config, size: Size) -> Result<()> {
    let reads = c.reads()?;
    match (given, reads) {
        (None, Reads::Latents) => Ok(()),
        (Some(Channels::Fill { picture, mask }), Reads::Fill) => {
            same_aspect([picture.width(), picture.height()], size, "the picture to fill in")?;
            same_aspect([mask.width(), mask.height()], size, "the mask")
        }
        (Some(Channels::Control(picture)), Reads::Control) => {
            same_aspect([picture.width(), picture.height()], size, "the picture to follow")
        }
        (Some(Channels::Encoded(values)), Reads::Fill | Reads::Control) => {
            let wanted = size.tokens() * (c.in_channels - c.out_channels);
            ensure!(values.len() == wanted, Argument, "{} values of channels, not {wanted}", values.len());
            finite(values, "the channels")
        }
        (_, Reads::Fill) => bail!(Argument, "this model fills in a picture: it takes one, and a mask of what to paint"),
        (_, Reads::Control) => bail!(Argument, "this model follows edges or depths: it takes a picture of them"),
        (Some(_), Reads::Latents) => bail!(
            Argument,
            "this model reads no picture to fill in or to follow: take FLUX.1 Fill, Canny or Depth, or refer to the picture"
        ),
    }
}

/// A picture of a mask in the size that is made: white is painted anew. Resized, made grey, and cut at one half, as diffusers
/// does it.
///
/// # Errors
/// `Argument` for another aspect.
pub fn read_mask(picture: &Picture, size: Size) -> Result<Mask> {
    let resized = fitted(picture, size, "the mask")?;
    // Pillow's conversion to "L".
    let grey = |p: &[u8]| {
        let sum =
            [(0, 19_595), (1, 38_470), (2, 7_471)].map(|(c, weight)| u32::from(p[c]) * weight).iter().sum::<u32>();
        ((sum + 0x8000) >> 16) as f32
    };
    let grey: Vec<f32> = resized.rgb().chunks_exact(3).map(grey).collect();
    Mask::from_logits(&grey, size.width(), size.height(), 127.5)
}

/// The mask in the size that is made.
pub(super) fn fitted_mask(mask: &Mask, size: Size) -> Result<Mask> {
    if (mask.width(), mask.height()) == (size.width(), size.height()) {
        return Ok(mask.clone());
    }
    let rgb = mask.to_bytes(255).iter().flat_map(|v| [*v; 3]).collect();
    read_mask(&Picture::new(mask.width(), mask.height(), rgb)?, size)
}

/// The picture in the size that is made.
pub(super) fn fitted(picture: &Picture, size: Size, what: &str) -> Result<Picture> {
    same_aspect([picture.width(), picture.height()], size, what)?;
    resize::lanczos(picture, size.width(), size.height())
}

/// What Fill sees of a picture of this size, from -1 to 1: grey under the mask.
pub(super) fn masked(picture: &Picture, mask: &Mask) -> Vec<f32> {
    let mut values = pixels(picture);
    for (i, pixel) in values.chunks_exact_mut(3).enumerate() {
        if mask.get(i % picture.width(), i / picture.width()) {
            pixel.fill(0.0);
        }
    }
    values
}

/// `count` tokens with `more` features behind those of each.
pub(super) fn beside(tokens: &[f32], more: &[f32], count: usize) -> Vec<f32> {
    let of = |values: &[f32]| values.len() / count.max(1);
    let both = tokens.chunks(of(tokens).max(1)).zip(more.chunks(of(more).max(1)));
    both.flat_map(|(token, more)| token.iter().chain(more)).copied().collect()
}

/// # Errors
/// `Argument` unless some scale makes the sides those of `size` before they are rounded down to multiples of 16.
pub(super) fn same_aspect([width, height]: [usize; 2], size: Size, what: &str) -> Result<()> {
    let [made_width, made_height] = [size.width(), size.height()];
    ensure!(
        made_width * height < (made_height + 16) * width && made_height * width < (made_width + 16) * height,
        Argument,
        "{what} is of {width}x{height}, another aspect than the {made_width}x{made_height} that are made: cut it, or make another size"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_stand_side_by_side() {
        assert_eq!(beside(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0], 2), [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    fn aspects_may_differ_by_a_rounding() {
        let size = Size::exact(96, 64).unwrap();
        for fine in [[96, 64], [192, 128], [111, 64], [96, 79], [1000, 667]] {
            same_aspect(fine, size, "it").unwrap();
        }
        for bad in [[64, 96], [112, 64], [96, 80], [1000, 1000]] {
            assert!(same_aspect(bad, size, "it").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn masks_are_resized_and_cut_at_one_half() {
        let size = Size::exact(32, 16).unwrap();
        // Grey of 127 and of 128 by Pillow's weights; green counts most.
        let pixel = |i: usize| [[127; 3], [128; 3], [0, 255, 0], [255, 0, 255]][i % 4];
        let picture = Picture::new(32, 16, (0..512).flat_map(pixel).collect()).unwrap();
        let mask = read_mask(&picture, size).unwrap();
        assert_eq!([0, 1, 2, 3].map(|x| mask.get(x, 7)), [false, true, true, false]);

        let mut half = Mask::new(64, 32).unwrap();
        (0..32).for_each(|y| (0..32).for_each(|x| half.set(x, y, true)));
        let small = fitted_mask(&half, size).unwrap();
        assert_eq!((small.area(), small.get(15, 3), small.get(16, 3)), (16 * 16, true, false));
        assert!(fitted_mask(&Mask::new(16, 32).unwrap(), size).is_err());
    }

    #[test]
    fn nothing_is_seen_under_a_mask() {
        let picture = Picture::new(2, 1, vec![0, 255, 0, 9, 9, 9]).unwrap();
        let mut mask = Mask::new(2, 1).unwrap();
        mask.set(1, 0, true);
        assert_eq!(masked(&picture, &mask), [-1.0, 1.0, -1.0, 0.0, 0.0, 0.0]);
    }
}
