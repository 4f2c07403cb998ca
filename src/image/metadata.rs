//! Text inside of picture files: how the picture was made.
//!
//! | format | [`parameters`](Metadata::parameters) | [`json`](Metadata::json) |
//! |---|---|---|
//! | PNG | `tEXt` or `iTXt`, key `parameters` | the same, key `impasto` |
//! | JPEG, WebP | EXIF `UserComment` | EXIF `ImageDescription` |
//!
//! The places of `parameters` are those where tools of Stable Diffusion look.

use super::Picture;
use crate::error::{ErrorKind, IntoError, Result, bail, ensure};
use ::image::{ExtendedColorType, ImageDecoder, ImageEncoder, codecs};
use std::io::Cursor;

/// The key of [`Metadata::parameters`] in a PNG.
pub const PARAMETERS_KEY: &str = "parameters";
/// The key of [`Metadata::json`] in a PNG.
pub const JSON_KEY: &str = "impasto";

/// What a picture's file says about how it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The text that other tools read. No NUL.
    pub parameters: String,
    /// JSON that remakes the picture.
    pub json: String,
}

impl Metadata {
    /// The picture as PNG with this text.
    ///
    /// # Errors
    /// `Argument` if a text has a NUL, which PNG forbids.
    pub fn png(&self, picture: &Picture) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, picture.width() as u32, picture.height() as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let cannot = || "cannot encode a PNG".to_owned();
        for (key, text) in [(PARAMETERS_KEY, &self.parameters), (JSON_KEY, &self.json)] {
            ensure!(!text.contains('\0'), Argument, "a NUL cannot be in the metadata of a PNG ('{key}')");
            let (key, text) = (key.to_owned(), text.clone());
            // Latin-1 where that is enough, as PIL writes it and the oldest readers expect it.
            match text.chars().all(|c| c <= '\u{ff}') {
                true => encoder.add_text_chunk(key, text),
                false => encoder.add_itxt_chunk(key, text),
            }
            .error(ErrorKind::Internal, cannot)?;
        }
        let mut writer = encoder.write_header().error(ErrorKind::Internal, cannot)?;
        writer.write_image_data(picture.rgb()).error(ErrorKind::Internal, cannot)?;
        writer.finish().error(ErrorKind::Internal, cannot)?;
        Ok(bytes)
    }

    /// The picture as JPEG of quality 92 with this text.
    ///
    /// # Errors
    /// `Argument` if a side is longer than 65535, or the text than a JPEG's 64 KiB.
    pub fn jpeg(&self, picture: &Picture) -> Result<Vec<u8>> {
        let exif = self.to_exif();
        ensure!(exif.len() <= 65_000, Argument, "{} bytes of metadata are too long for a JPEG: use PNG", exif.len());
        let mut bytes = Vec::new();
        let encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 92);
        encode("JPEG", 65535, encoder, picture, exif)?;
        Ok(bytes)
    }

    /// The picture as lossless WebP with this text.
    ///
    /// # Errors
    /// `Argument` if a side is longer than 16384.
    pub fn webp(&self, picture: &Picture) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let encoder = codecs::webp::WebPEncoder::new_lossless(&mut bytes);
        encode("WebP", 16384, encoder, picture, self.to_exif())?;
        Ok(bytes)
    }

    /// Reads what [`png`](Self::png), [`jpeg`](Self::jpeg) and [`webp`](Self::webp) write; nothing if the picture has no
    /// such text.
    ///
    /// # Errors
    /// `Input` if the bytes are no PNG, JPEG or WebP, or a damaged one.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let damaged = || "cannot read the picture's metadata".to_owned();
        let cursor = Cursor::new(bytes);
        let exif = match ::image::guess_format(bytes) {
            Ok(::image::ImageFormat::Png) => return read_png(cursor),
            Ok(::image::ImageFormat::Jpeg) => {
                codecs::jpeg::JpegDecoder::new(cursor).and_then(|mut d| d.exif_metadata())
            }
            Ok(::image::ImageFormat::WebP) => {
                codecs::webp::WebPDecoder::new(cursor).and_then(|mut d| d.exif_metadata())
            }
            _ => bail!(Input, "not a PNG, JPEG or WebP picture"),
        };
        Ok(exif.error(ErrorKind::Input, damaged)?.and_then(|exif| Self::from_exif(&exif)))
    }

    /// A big-endian TIFF of two directories.
    fn to_exif(&self) -> Vec<u8> {
        let json: String = self.json.chars().map(ascii).collect::<String>() + "\0";
        let mut comment = b"UNICODE\0".to_vec();
        comment.extend(self.parameters.encode_utf16().flat_map(u16::to_be_bytes));

        // The header, a directory of two entries, one of one entry, and what they point to.
        let (directory, json_at) = (8 + 2 + 2 * 12 + 4, 8 + (2 + 2 * 12 + 4) + (2 + 12 + 4));
        let comment_at = json_at + json.len();
        let mut tiff = b"MM\0\x2a\0\0\0\x08".to_vec();
        let mut entries = |entries: &[(u16, u16, usize, usize)]| {
            tiff.extend((entries.len() as u16).to_be_bytes());
            for (tag, kind, count, value) in entries {
                tiff.extend([tag.to_be_bytes(), kind.to_be_bytes()].concat());
                tiff.extend([(*count as u32).to_be_bytes(), (*value as u32).to_be_bytes()].concat());
            }
            tiff.extend([0; 4]);
        };
        entries(&[(IMAGE_DESCRIPTION, ASCII, json.len(), json_at), (EXIF_DIRECTORY, LONG, 1, directory)]);
        entries(&[(USER_COMMENT, UNDEFINED, comment.len(), comment_at)]);
        tiff.extend(json.as_bytes());
        tiff.extend(comment);
        tiff
    }

    /// Only what [`to_exif`](Self::to_exif) wrote: two directories, big-endian, a comment in UTF-16.
    fn from_exif(tiff: &[u8]) -> Option<Self> {
        tiff.strip_prefix(b"MM\0\x2a")?;
        let first = number(tiff, 4)?;
        let json = pointed_to(tiff, first, IMAGE_DESCRIPTION)?.strip_suffix(b"\0")?;
        let second = number(tiff, entry(tiff, first, EXIF_DIRECTORY)? + 8)?;
        let comment = pointed_to(tiff, second, USER_COMMENT)?.strip_prefix(b"UNICODE\0")?;
        let comment: Vec<u16> = comment.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
        Some(Self { parameters: String::from_utf16(&comment).ok()?, json: std::str::from_utf8(json).ok()?.to_owned() })
    }
}

const IMAGE_DESCRIPTION: u16 = 0x010e;
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;
const ASCII: u16 = 2;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

/// A character of a JSON text in ASCII: beyond it there are only strings, where `\u` stands for it.
fn ascii(c: char) -> String {
    match c.is_ascii() {
        true => c.to_string(),
        false => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    }
}

/// Where the entry of `tag` begins in the directory at `at`.
fn entry(tiff: &[u8], at: usize, tag: u16) -> Option<usize> {
    let count = u16::from_be_bytes(tiff.get(at..at.checked_add(2)?)?.try_into().ok()?);
    let mut entries = (0..usize::from(count)).map(|i| at + 2 + 12 * i);
    entries.find(|e| tiff.get(*e..e + 2) == Some(&tag.to_be_bytes()))
}

fn pointed_to(tiff: &[u8], directory: usize, tag: u16) -> Option<&[u8]> {
    let entry = entry(tiff, directory, tag)?;
    let (count, at) = (number(tiff, entry + 4)?, number(tiff, entry + 8)?);
    tiff.get(at..at.checked_add(count)?)
}

fn number(tiff: &[u8], at: usize) -> Option<usize> {
    let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes) as usize)
}

fn encode(name: &str, most: usize, mut to: impl ImageEncoder, picture: &Picture, exif: Vec<u8>) -> Result<()> {
    let (w, h) = (picture.width(), picture.height());
    ensure!(w <= most && h <= most, Argument, "a {name} has at most {most} pixels a side, this has {w}x{h}: use PNG");
    let cannot = || format!("cannot encode a {name}");
    to.set_exif_metadata(exif).error(ErrorKind::Internal, cannot)?;
    to.write_image(picture.rgb(), w as u32, h as u32, ExtendedColorType::Rgb8).error(ErrorKind::Internal, cannot)
}

fn read_png(file: Cursor<&[u8]>) -> Result<Option<Metadata>> {
    let mut reader = png::Decoder::new(file).read_info().error(ErrorKind::Input, || "damaged PNG".to_owned())?;
    // Text may come after the pixels too.
    reader.finish().error(ErrorKind::Input, || "damaged PNG".to_owned())?;
    let info = reader.info();
    let text = |key: &str| {
        let latin = info.uncompressed_latin1_text.iter().find(|t| t.keyword == key).map(|t| t.text.clone());
        latin.or_else(|| info.utf8_text.iter().find(|t| t.keyword == key)?.get_text().ok())
    };
    Ok(text(PARAMETERS_KEY).zip(text(JSON_KEY)).map(|(parameters, json)| Metadata { parameters, json }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, image::testing};

    fn metadata(prompt: &str) -> Metadata {
        Metadata {
            parameters: format!("{prompt}\nSteps: 4, Seed: 1"),
            json: serde_json::json!({ "prompt": prompt, "seed": 1 }).to_string(),
        }
    }

    /// The chunks of a PNG: type and content.
    fn chunks(png: &[u8]) -> Vec<(&[u8], &[u8])> {
        let (mut at, mut chunks) = (8, Vec::new());
        while at < png.len() {
            let size = number(png, at).unwrap();
            chunks.push((&png[at + 4..at + 8], &png[at + 8..at + 8 + size]));
            at += size + 12;
        }
        chunks
    }

    #[test]
    fn text_comes_back_from_every_format() {
        let picture = testing::noise(24, 16);
        for prompt in ["a fox", "ein Füchslein", "狐 \u{1f98a} \"quoted\", \\ and\nlines", ""] {
            let metadata = metadata(prompt);
            for bytes in [metadata.png(&picture).unwrap(), metadata.webp(&picture).unwrap()] {
                assert_eq!(Picture::decode(&bytes).unwrap(), picture);
                let read = Metadata::read(&bytes).unwrap().unwrap();
                assert_eq!(read.parameters, metadata.parameters);
                let json = |m: &Metadata| serde_json::from_str::<serde_json::Value>(&m.json).unwrap();
                assert_eq!(json(&read), json(&metadata));
            }
            let jpeg = metadata.jpeg(&picture).unwrap();
            assert_eq!(Picture::decode(&jpeg).unwrap().width(), 24);
            assert_eq!(Metadata::read(&jpeg).unwrap().unwrap().parameters, metadata.parameters);
        }
    }

    #[test]
    fn a_png_holds_the_chunks_that_others_read() {
        let picture = testing::noise(8, 8);
        let png = metadata("für elise").png(&picture).unwrap();
        let [head, parameters, json, ..] = chunks(&png)[..] else { panic!("too few chunks") };
        assert_eq!(head.0, b"IHDR");
        assert_eq!((parameters.0, parameters.1), (&b"tEXt"[..], &b"parameters\0f\xfcr elise\nSteps: 4, Seed: 1"[..]));
        assert!(json.0 == b"tEXt" && json.1.starts_with(b"impasto\0{"));
        let png = metadata("狐").png(&picture).unwrap();
        // Key, NUL, not compressed (2 bytes), no language, no translated key, UTF-8.
        assert!(chunks(&png)[1].0 == b"iTXt" && chunks(&png)[1].1.starts_with("parameters\0\0\0\0\0狐\n".as_bytes()));
    }

    #[test]
    fn pictures_without_it_have_none() {
        let mut plain = Vec::new();
        let pixels = [9; 12];
        codecs::png::PngEncoder::new(&mut plain).write_image(&pixels, 2, 2, ExtendedColorType::Rgb8).unwrap();
        assert_eq!(Metadata::read(&plain).unwrap(), None);
        let mut plain = Vec::new();
        codecs::jpeg::JpegEncoder::new(&mut plain).write_image(&pixels, 2, 2, ExtendedColorType::Rgb8).unwrap();
        assert_eq!(Metadata::read(&plain).unwrap(), None);
        for bytes in [&b""[..], b"GIF89a", b"\x89PNG\r\n\x1a\n"] {
            assert_eq!(Metadata::read(bytes).unwrap_err().kind(), ErrorKind::Input);
        }
    }

    #[test]
    fn damaged_exif_is_no_panic() {
        let exif = metadata("a fox").to_exif();
        assert!(Metadata::from_exif(&exif).is_some());
        for i in 0..exif.len() {
            assert_eq!(Metadata::from_exif(&exif[..i]), None);
            let mut hostile = exif.clone();
            hostile[i] = 0xff;
            let _ = Metadata::from_exif(&hostile);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let picture = testing::noise(8, 8);
        let long = metadata(&"x".repeat(40_000));
        let e = long.jpeg(&picture).unwrap_err();
        assert!(e.kind() == ErrorKind::Argument && e.to_string().ends_with("too long for a JPEG: use PNG"), "{e}");
        assert_eq!(Metadata::read(&long.png(&picture).unwrap()).unwrap(), Some(long));
        assert_eq!(metadata("\0").png(&picture).unwrap_err().kind(), ErrorKind::Argument);
        let wide = Picture::new(16385, 1, vec![0; 16385 * 3]).unwrap();
        assert!(metadata("").webp(&wide).is_err() && metadata("").jpeg(&wide).is_ok());
    }
}
