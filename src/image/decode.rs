//! Reading PNG, JPEG and WebP.

use super::Picture;
use crate::error::{ErrorKind, IntoError, Result, bail, ensure};
use ::image::{
    ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, metadata::Orientation,
};
use std::io::Cursor;

/// The most bytes a picture may take while it is decoded. 20000 x 20000 with alpha fits.
const MAX_DECODED: u64 = if cfg!(target_arch = "wasm32") { 512 << 20 } else { 2 << 30 };
/// The largest file that is read.
const MAX_FILE: u64 = if cfg!(target_arch = "wasm32") { 256 << 20 } else { 1 << 30 };

impl Picture {
    /// Reads a PNG, JPEG or WebP file; see [`Picture::decode`].
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `Io` if it cannot be read, else as [`Picture::decode`]. The message
    /// carries the path.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(path: impl AsRef<std::path::Path>) -> Result<Self> {
        use crate::error::{Context, Error};
        use std::io::Read;
        let path = path.as_ref();
        let open = || -> std::io::Result<Vec<u8>> {
            let file = std::fs::File::open(path)?;
            let mut bytes = Vec::new();
            // A length is asked from nobody: the path may be a pipe or a device that never ends.
            file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = open().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("{}: no such file", path.display()))
            }
            _ => Error::with_source(ErrorKind::Io, format!("cannot read {}", path.display()), e),
        })?;
        Self::decode(&bytes).context(|| format!("cannot read picture {}", path.display()))
    }

    /// Decodes a PNG, JPEG or WebP file, told apart by content, and turns it upright by its EXIF orientation.
    ///
    /// Colours become 8-bit RGB as PIL's `convert("RGB")` makes them, which is what SAM 2's own tools feed the
    /// model: alpha is dropped and not blended with a background, grey is repeated, palettes are looked up, 16-bit
    /// channels keep their high byte. (16-bit *grey* does too, where PIL clips to 255 and so makes nearly all of it
    /// white.) Colour profiles are ignored. Of an animation the first frame is taken.
    ///
    /// # Errors
    /// `Input` if the bytes are of no known format, truncated or damaged, or if the picture is too large to decode.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        ensure!(!bytes.is_empty(), Input, "the file is empty");
        ensure!(bytes.len() as u64 <= MAX_FILE, Input, "the file is larger than {} MiB", MAX_FILE >> 20);
        let format = match ::image::guess_format(bytes) {
            Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
            Ok(other) => bail!(Input, "{other:?} is not supported: use PNG, JPEG or WebP"),
            Err(_) => bail!(Input, "not a PNG, JPEG or WebP picture"),
        };
        let damaged = || format!("damaged or truncated {}", name(format));

        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_DECODED);
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().error(ErrorKind::Input, damaged)?;

        let (width, height) = decoder.dimensions();
        ensure!(width > 0 && height > 0, Input, "the picture is {width}x{height} and has no pixels");
        let bytes_decoded = decoder.total_bytes();
        ensure!(
            bytes_decoded <= MAX_DECODED,
            Input,
            "a picture of {width}x{height} takes {} MiB, the limit is {} MiB",
            bytes_decoded >> 20,
            MAX_DECODED >> 20
        );
        let bits = u64::from(decoder.original_color_type().bits_per_pixel());
        let least = least_len(format, width.into(), height.into(), bits);
        ensure!(
            bytes.len() as u64 >= least,
            Input,
            "the header says {width}x{height}, which needs {least} bytes at the very least, and the file has {}: \
             it is truncated or damaged",
            bytes.len()
        );
        if format == ImageFormat::WebP {
            let says = bytes.get(4..8).map_or(0, |b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])) + 8);
            let len = bytes.len() as u64;
            ensure!(len >= says, Input, "the WebP is truncated: it says {says} bytes and has {len}");
        }
        // A damaged EXIF block must not lose the picture: it is then taken as it lies, as viewers do.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let color = decoder.color_type();
        let mut pixels = vec![0; bytes_decoded as usize];
        decoder.read_image(&mut pixels).error(ErrorKind::Input, damaged)?;
        // The JPEG decoder fills up what is missing with grey.
        ensure!(
            format != ImageFormat::Jpeg || jpeg_is_complete(bytes),
            Input,
            "the JPEG is truncated: it has no end marker"
        );

        let rgb = into_rgb8(pixels, color)?;
        if orientation == Orientation::NoTransforms {
            return Self::new(width as usize, height as usize, rgb);
        }
        let image = RgbImage::from_raw(width, height, rgb);
        let mut image = DynamicImage::ImageRgb8(image.expect("three bytes for each pixel, by `into_rgb8`"));
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self::new(width, height, image.into_rgb8().into_raw())
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        _ => "WebP",
    }
}

/// The fewest bytes that can hold such a picture, so that a header alone cannot ask for gigabytes: DEFLATE shrinks at
/// most 1032 to 1, and a JPEG spends at least one bit on each block of 64 pixels. One colour in lossless WebP costs
/// nothing for each pixel, but WebP ends at 16384 x 16384.
fn least_len(format: ImageFormat, width: u64, height: u64, bits_per_pixel: u64) -> u64 {
    match format {
        ImageFormat::Png => (width * bits_per_pixel).div_ceil(8) * height / 1032,
        ImageFormat::Jpeg => width * height / 512,
        _ => 0,
    }
}

/// Whether the end marker follows the last scan. Thumbnails have end markers too, so the segments are walked.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Next marker: in a scan, 0xFF is followed by 0 (an escaped byte) or by a restart marker.
        let Some(skip) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xFF)) else { return false };
        at += skip + 1;
        match bytes.get(at) {
            Some(0xFF) => {}
            Some(0x00 | 0x01 | 0xD0..=0xD8) => at += 1,
            Some(0xD9) => return true,
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(&[hi, lo]) => at += 1 + usize::from(u16::from_be_bytes([hi, lo])).max(2),
                _ => return false,
            },
            None => return false,
        }
    }
}

fn into_rgb8(mut pixels: Vec<u8>, color: ColorType) -> Result<Vec<u8>> {
    // 16-bit samples are in native byte order; the high byte is kept.
    let high = if cfg!(target_endian = "little") { 1 } else { 0 };
    let (step, take): (usize, [usize; 3]) = match color {
        ColorType::Rgb8 => return Ok(pixels),
        ColorType::L8 => (1, [0; 3]),
        ColorType::La8 => (2, [0; 3]),
        ColorType::Rgba8 => (4, [0, 1, 2]),
        ColorType::L16 => (2, [high; 3]),
        ColorType::La16 => (4, [high; 3]),
        ColorType::Rgb16 => (6, [high, 2 + high, 4 + high]),
        ColorType::Rgba16 => (8, [high, 2 + high, 4 + high]),
        other => bail!(Input, "pictures of type {other:?} are not supported"),
    };
    let n = pixels.len() / step;
    if step < 3 {
        return Ok(pixels.chunks_exact(step).flat_map(|p| take.map(|i| p[i])).collect());
    }
    // Pixels shrink: in place, as the picture may be as large as memory allows.
    for i in 0..n {
        let p = take.map(|c| pixels[i * step + c]);
        pixels[i * 3..i * 3 + 3].copy_from_slice(&p);
    }
    pixels.truncate(n * 3);
    pixels.shrink_to_fit();
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    #[test]
    fn reads_what_pil_reads() {
        let fixture = Fixture::open("image/decode.safetensors");
        let names = fixture.names();
        let files: Vec<_> = names.iter().filter_map(|n| n.strip_suffix(".file")).collect();
        assert!(files.len() >= 40);
        for name in files {
            let (shape, want) = fixture.u8(&format!("{name}.rgb"));
            let got = Picture::decode(&fixture.u8(&format!("{name}.file")).1).unwrap();
            assert_eq!([got.height(), got.width(), 3], shape[..], "{name}");
            let worst = got.rgb().iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            // JPEG leaves the inverse transform, the chroma upsampling and the colour matrix to the decoder's rounding.
            let allowed = if name.starts_with("jpeg") { 3 } else { 0 };
            assert!(worst <= allowed, "{name}: differs from PIL by {worst}");
        }
    }

    #[test]
    fn every_truncation_is_an_input_error() {
        let fixture = Fixture::open("image/decode.safetensors");
        for name in ["png_rgb", "jpeg_rgb", "jpeg_progressive", "jpeg_exif6", "webp_lossless", "webp_lossy"] {
            let (_, file) = fixture.u8(&format!("{name}.file"));
            Picture::decode(&file).unwrap();
            // The last chunk of a PNG says nothing but "end": the picture is complete without it.
            let end = if name.starts_with("png") { file.len() - 12 } else { file.len() };
            for len in 0..end {
                match Picture::decode(&file[..len]) {
                    Ok(_) => panic!("{name}: {len} of {} bytes were accepted", file.len()),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Input, "{name} {len}: {e}"),
                }
            }
        }
    }

    #[test]
    fn a_lying_header_allocates_nothing() {
        let fixture = Fixture::open("image/decode.safetensors");
        let (_, mut png) = fixture.u8("png_rgb.file");
        png[16..24].copy_from_slice(&[0, 0, 0x70, 0, 0, 0, 0x40, 0]);
        let crc = png_crc(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        let e = Picture::decode(&png).unwrap_err();
        assert!(e.to_string().contains("the header says 28672x16384"), "{e}");

        png[16..24].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF]);
        let crc = png_crc(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(Picture::decode(&png).unwrap_err().kind(), ErrorKind::Input);

        let (_, mut jpeg) = fixture.u8("jpeg_rgb.file");
        let sof = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
        jpeg[sof + 5..sof + 9].copy_from_slice(&[0x60, 0, 0x60, 0]);
        let e = Picture::decode(&jpeg).unwrap_err();
        assert!(e.to_string().contains("the header says 24576x24576"), "{e}");
    }

    fn png_crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &b| {
            (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 })
        })
    }

    #[test]
    fn other_files_are_refused_by_content() {
        for (bytes, what) in [
            (&b""[..], "empty"),
            (b"hello, world", "not a PNG"),
            (b"GIF89a\x01\0\x01\0\0\0\0;", "Gif is not supported"),
        ] {
            let e = Picture::decode(bytes).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Input);
            assert!(e.to_string().contains(what), "{e}");
        }
        let dir = tempfile::tempdir().unwrap();
        let e = Picture::load(dir.path().join("none.png")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert_eq!(Picture::load(dir.path()).unwrap_err().kind(), ErrorKind::Io);
        let file = dir.path().join("text.png");
        std::fs::write(&file, "text").unwrap();
        let e = Picture::load(&file).unwrap_err();
        assert!(e.kind() == ErrorKind::Input && e.to_string().contains("text.png"), "{e}");
    }

    proptest::proptest! {
        #[test]
        fn damaged_files_never_panic(which in 0usize..8, at in 0usize..100_000, xor in 1u8..=255, cut in 0usize..100_000) {
            let fixture = Fixture::open("image/decode.safetensors");
            let names = ["png_rgb", "png_palette_trns", "png_rgb16", "jpeg_420", "jpeg_progressive", "webp_lossy", "webp_rgba",
                "webp_animated"];
            let (_, mut file) = fixture.u8(&format!("{}.file", names[which]));
            let n = file.len();
            file[at % n] ^= xor;
            file.truncate(n - cut % (n / 2) * (cut % 2));
            if let Err(e) = Picture::decode(&file) {
                assert_eq!(e.kind(), ErrorKind::Input);
            }
        }
    }
}
