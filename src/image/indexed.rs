//! Objects of a frame as one picture with a palette: the format of DAVIS, pixel value = object.

use super::{Mask, output};
use crate::error::{ErrorKind, IntoError, Result, ensure};
use png::{BitDepth, ColorType, Decoder, Encoder};
use std::{collections::BTreeMap, io::Cursor, path::Path};

/// The colours of DAVIS and PASCAL VOC: the bits of the index, dealt to red, green and blue from the highest on.
fn palette() -> Vec<u8> {
    let channel = |i: u32, c: u32| (0..3).fold(0, |v, bit| v | (((i >> (3 * bit + c)) & 1) << (7 - bit)) as u8);
    (0..256).flat_map(|i| [channel(i, 0), channel(i, 1), channel(i, 2)]).collect()
}

/// Writes masks as an 8-bit PNG with the palette of DAVIS: a pixel has the number of its object, 0 where there is none. Where
/// objects overlap the lower number is seen, as in the reference's `tools/vos_inference.py` (`put_per_obj_mask`).
///
/// # Errors
/// `Argument` for an object that is not in 1..=255, `Shape` for a mask of another size, else as [`output::write`].
pub fn save(path: &Path, objects: &[(u32, &Mask)], (width, height): (usize, usize)) -> Result<()> {
    let mut order: Vec<_> = objects.to_vec();
    order.sort_by_key(|(object, _)| std::cmp::Reverse(*object));
    let mut pixels = vec![0; width * height];
    for (object, mask) in order {
        ensure!((1..=255).contains(&object), Argument, "object {object}: a palette has room for objects 1 to 255");
        ensure!(
            (mask.width(), mask.height()) == (width, height),
            Shape,
            "a mask of {}x{} for a frame of {width}x{height}",
            mask.width(),
            mask.height()
        );
        for (y, row) in pixels.chunks_exact_mut(width).enumerate() {
            mask.runs(y).for_each(|(start, end)| row[start..end].fill(object as u8));
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(palette());
    let encoded = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&pixels)?;
        writer.finish()
    });
    encoded.error(ErrorKind::Internal, || format!("cannot encode {}", path.display()))?;
    output::write(path, &bytes)
}

/// The objects of a PNG with a palette, by number; `None` if it is another kind of picture.
///
/// # Errors
/// `Io` if it cannot be read, `Input` if it is damaged or very large.
pub fn load(path: &Path) -> Result<Option<BTreeMap<u32, Mask>>> {
    let bytes = std::fs::read(path).error(ErrorKind::Io, || format!("cannot read {}", path.display()))?;
    let damaged = || format!("{}: damaged or truncated PNG", path.display());
    if !bytes.starts_with(b"\x89PNG") {
        return Ok(None);
    }
    let mut decoder = Decoder::new_with_limits(Cursor::new(&bytes), png::Limits { bytes: 1 << 30 });
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().error(ErrorKind::Input, damaged)?;
    if reader.info().color_type != ColorType::Indexed {
        return Ok(None);
    }
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let bits = reader.info().bit_depth as usize;
    // A row of equal bytes is told in a few: this many come of the file at the very most.
    let most = bytes.len().saturating_mul(1032);
    ensure!((width * bits).div_ceil(8) <= most / height.max(1), Input, "{}", damaged());
    let mut packed = vec![0; reader.output_buffer_size().unwrap_or(0)];
    let row_bytes = reader.next_frame(&mut packed).error(ErrorKind::Input, damaged)?.line_size;
    let value = |x: usize, y: usize| {
        let byte = packed[y * row_bytes + x * bits / 8];
        // The first pixel is in the highest bits.
        usize::from(byte >> (8 - bits - x * bits % 8)) & ((1 << bits) - 1)
    };
    let mut values: Vec<u8> = Vec::with_capacity(width * height);
    (0..height).for_each(|y| values.extend((0..width).map(|x| value(x, y) as u8)));
    let mut present = [false; 256];
    values.iter().for_each(|v| present[usize::from(*v)] = true);
    let mask = |object: u8| Ok((u32::from(object), Mask::from_fn_of(&values, width, height, move |v| v == object)?));
    (1..=255).filter(|object| present[usize::from(*object)]).map(mask).collect::<Result<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Picture;

    #[test]
    fn the_palette_is_that_of_davis() {
        let palette = palette();
        let color = |i: usize| &palette[i * 3..][..3];
        assert_eq!(color(0), [0, 0, 0]);
        assert_eq!(color(1), [128, 0, 0]);
        assert_eq!(color(2), [0, 128, 0]);
        assert_eq!(color(4), [0, 0, 128]);
        assert_eq!(color(9), [192, 0, 0]);
        assert_eq!(color(22), [0, 192, 128]);
        assert_eq!(color(255), [224, 224, 192]);
    }

    #[test]
    fn the_lower_number_is_seen_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.png");
        let block = |x0: usize, x1: usize| {
            let mut mask = Mask::new(70, 4).unwrap();
            (x0..x1).for_each(|x| mask.set(x, 2, true));
            mask
        };
        let (a, b) = (block(0, 40), block(30, 69));
        save(&path, &[(2, &a), (200, &b)], (70, 4)).unwrap();
        let back = load(&path).unwrap().unwrap();
        assert_eq!(back.keys().copied().collect::<Vec<_>>(), [2, 200]);
        assert_eq!((&back[&2], &back[&200]), (&a, &block(40, 69)));
        let shown = Picture::load(&path).unwrap();
        assert_eq!((&shown.row(2)[..3], &shown.row(1)[..3]), (&[0, 128, 0][..], &[0, 0, 0][..]));
        assert_eq!(save(&path, &[(256, &a)], (70, 4)).unwrap_err().kind(), ErrorKind::Argument);
        assert_eq!(save(&path, &[(1, &a)], (4, 70)).unwrap_err().kind(), ErrorKind::Shape);
        // Of other depths too, and nothing of pictures without a palette.
        for (bits, depth) in [(1, BitDepth::One), (2, BitDepth::Two), (4, BitDepth::Four)] {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, 8, 1);
            encoder.set_color(ColorType::Indexed);
            encoder.set_depth(depth);
            encoder.set_palette([0; 48].as_slice());
            encoder.write_header().unwrap().write_image_data(&vec![0b0100_0001; bits]).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let found: Vec<u32> = load(&path).unwrap().unwrap().into_keys().collect();
            assert_eq!(found, [&[1][..], &[1], &[], &[1, 4]][bits.ilog2() as usize + usize::from(bits > 2)], "{bits}");
        }
        output::save_mask(&path, &a).unwrap();
        assert!(load(&path).unwrap().is_none());
    }
}
