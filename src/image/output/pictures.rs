//! Pictures and masks as files.

use super::{
    super::{Mask, Picture},
    write,
};
use crate::error::{ErrorKind, IntoError, Result, bail, ensure};
use ::image::{ExtendedColorType, ImageEncoder, codecs};
use std::path::Path;

/// The picture formats that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lossless, grey or colour, with or without alpha.
    Png,
    /// Lossy (quality 92), no alpha.
    Jpeg,
    /// Lossless WebP, colour with or without alpha, sides up to 16384.
    WebP,
}

impl Format {
    /// The format that the extension of `path` names: `png`, `jpg`, `jpeg` or `webp`, in any case.
    ///
    /// # Errors
    /// `Argument` for any other, naming those that are known.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            "" => bail!(Argument, "{}: no extension: use .png, .jpg, .jpeg or .webp", path.display()),
            _ => bail!(Argument, "{}: cannot write .{extension}: use .png, .jpg, .jpeg or .webp", path.display()),
        }
    }

    /// As [`Format::of`], for pixels that have to come back as they were or that have alpha: no JPEG.
    ///
    /// # Errors
    /// `Argument` also for JPEG.
    pub fn exact_of(path: &Path) -> Result<Self> {
        let format = Self::of(path)?;
        ensure!(
            format != Self::Jpeg,
            Argument,
            "{}: a JPEG keeps neither a mask exact nor alpha: use .png or .webp",
            path.display()
        );
        Ok(format)
    }
}

/// Writes a picture in the format that the extension names.
///
/// # Errors
/// `Argument` for an unknown extension or a side that the format does not allow, else as [`write()`].
pub fn save_picture(path: &Path, picture: &Picture) -> Result<()> {
    let size = (picture.width(), picture.height());
    write(path, &encode(Format::of(path)?, path, picture.rgb(), size, ExtendedColorType::Rgb8)?)
}

/// The bytes of a picture as PNG.
///
/// # Errors
/// `Argument` for a side that PNG does not allow.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let size = (picture.width(), picture.height());
    encode(Format::Png, Path::new("a picture"), picture.rgb(), size, ExtendedColorType::Rgb8)
}

/// Writes RGBA bytes `(height, width, 4)`, alpha not premultiplied, as PNG or WebP.
///
/// # Errors
/// As [`save_picture`]; `Argument` also for JPEG, `Shape` if the length is not `width * height * 4`.
pub fn save_rgba(path: &Path, rgba: &[u8], width: usize, height: usize) -> Result<()> {
    let fits = width.checked_mul(height).and_then(|n| n.checked_mul(4)) == Some(rgba.len());
    ensure!(fits && !rgba.is_empty(), Shape, "{width}x{height} of RGBA is given as {} bytes", rgba.len());
    write(path, &encode(Format::exact_of(path)?, path, rgba, (width, height), ExtendedColorType::Rgba8)?)
}

/// Writes a mask as 8-bit grey PNG or WebP: 255 where set, 0 elsewhere.
///
/// # Errors
/// As [`save_picture`]; `Argument` also for JPEG.
pub fn save_mask(path: &Path, mask: &Mask) -> Result<()> {
    let size = (mask.width(), mask.height());
    write(path, &encode(Format::exact_of(path)?, path, &mask.to_bytes(255), size, ExtendedColorType::L8)?)
}

fn encode(
    format: Format,
    path: &Path,
    bytes: &[u8],
    (w, h): (usize, usize),
    color: ExtendedColorType,
) -> Result<Vec<u8>> {
    let most = match format {
        Format::Png => i32::MAX as usize,
        Format::Jpeg => 65535,
        Format::WebP => 16384,
    };
    ensure!(
        w <= most && h <= most,
        Argument,
        "{}: a {format:?} has at most {most} pixels a side, this has {w}x{h}: use .png",
        path.display()
    );
    let mut out = Vec::new();
    let (width, height) = (w as u32, h as u32);
    match format {
        Format::Png => codecs::png::PngEncoder::new(&mut out).write_image(bytes, width, height, color),
        Format::Jpeg => {
            codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 92).write_image(bytes, width, height, color)
        }
        Format::WebP => codecs::webp::WebPEncoder::new_lossless(&mut out).write_image(bytes, width, height, color),
    }
    .error(ErrorKind::Internal, || format!("cannot encode {}", path.display()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let picture = crate::image::testing::noise(40, 30);
        for name in ["a.png", "b.WebP"] {
            let path = dir.path().join(name);
            save_picture(&path, &picture).unwrap();
            assert_eq!(Picture::load(&path).unwrap(), picture);
        }
        let smooth: Vec<u8> = (0..40 * 30 * 3).map(|i| (i / 120 * 4 + i % 3) as u8).collect();
        let smooth = Picture::new(40, 30, smooth).unwrap();
        save_picture(&dir.path().join("c.jpeg"), &smooth).unwrap();
        let back = Picture::load(dir.path().join("c.jpeg")).unwrap();
        assert!(back.rgb().iter().zip(smooth.rgb()).all(|(a, b)| a.abs_diff(*b) < 12));

        let mut mask = Mask::new(70, 3).unwrap();
        mask.set(69, 1, true);
        for name in ["m.png", "m.webp"] {
            let path = dir.path().join(name);
            save_mask(&path, &mask).unwrap();
            let back = Picture::load(&path).unwrap();
            let grey: Vec<u8> = back.rgb().chunks(3).map(|p| p[0]).collect();
            assert_eq!(grey, mask.to_bytes(255));
        }
        save_rgba(&dir.path().join("r.png"), &[9, 8, 7, 0, 1, 2, 3, 255], 2, 1).unwrap();
        assert_eq!(Picture::load(dir.path().join("r.png")).unwrap().rgb(), [9, 8, 7, 1, 2, 3]);
        // Nothing is left beside them.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6);
    }

    #[test]
    fn formats_are_checked_by_name() {
        for (name, ok, exact) in [
            ("a.png", true, true),
            ("a.JPG", true, false),
            ("a.webp", true, true),
            ("a.gif", false, false),
            ("a", false, false),
        ] {
            assert_eq!(Format::of(Path::new(name)).is_ok(), ok);
            assert_eq!(Format::exact_of(Path::new(name)).is_ok(), exact);
        }
        let e = Format::of(Path::new("x/a.gif")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Argument);
        assert_eq!(e.to_string(), "x/a.gif: cannot write .gif: use .png, .jpg, .jpeg or .webp");
        let wide = Picture::new(70000, 1, vec![0; 210_000]).unwrap();
        for name in ["a.jpg", "a.webp"] {
            assert_eq!(save_picture(Path::new(name), &wide).unwrap_err().kind(), ErrorKind::Argument);
        }
    }
}
