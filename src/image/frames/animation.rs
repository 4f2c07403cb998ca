//! GIF and animated WebP. The decoder lays each frame over those before it; transparency is dropped, as in
//! [`Picture::decode`].

use super::{MAX_FRAME, Stream};
use crate::{
    error::{Error, ErrorKind, IntoError, Result, bail},
    image::Picture,
};
use ::image::{
    AnimationDecoder, Frame, ImageDecoder, Limits,
    codecs::{gif::GifDecoder, webp::WebPDecoder},
};
use std::{fs::File, io::BufReader, path::Path, sync::mpsc};

pub(super) struct Animation {
    pub(super) frames: Stream,
    pub(super) frames_in_all: usize,
    /// Of the first frame's delay.
    pub(super) rate: Option<f64>,
}

/// Counts the frames, which takes decoding them, and begins anew.
///
/// # Errors
/// `Input` for a file that is damaged before its first frame, and for a WebP that is none; `Io`.
pub(super) fn open(path: &Path) -> Result<Animation> {
    let (mut frames_in_all, mut rate) = (0, None);
    for frame in decoder(path)? {
        if let Ok(frame) = &frame {
            let (numerator, denominator) = frame.delay().numer_denom_ms();
            rate = rate.or(Some(1e3 * f64::from(denominator) / f64::from(numerator)).filter(|r| r.is_finite()));
        }
        // One that is damaged is told when it is asked for: what is before it can be used.
        frames_in_all += 1;
        if frame.is_err() {
            break;
        }
    }
    // The decoder cannot change threads, so it gets one of its own, and is one frame ahead.
    let (send, receive) = mpsc::sync_channel(1);
    let path = path.to_path_buf();
    let run = move || {
        let frames = match decoder(&path) {
            Ok(frames) => frames,
            Err(e) => return drop(send.send(Err(e))),
        };
        for frame in frames {
            // Nobody listens any more when the clip is gone.
            if send.send(frame.error(ErrorKind::Input, || "damaged or truncated").and_then(picture)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("animation".into()).spawn(run);
    thread.error(ErrorKind::Io, || "cannot start a thread to decode the animation")?;
    Ok(Animation { frames: Box::new(receive.into_iter()), frames_in_all, rate })
}

fn decoder(path: &Path) -> Result<::image::Frames<'static>> {
    let mut file = BufReader::new(File::open(path).error(ErrorKind::Io, || "cannot be read")?);
    let is_gif = std::io::BufRead::fill_buf(&mut file).is_ok_and(|start| start.starts_with(b"GIF"));
    let damaged = || "damaged or truncated";
    let mut limits = Limits::default();
    limits.max_alloc = Some(2 * MAX_FRAME as u64);
    if is_gif {
        let mut decoder = GifDecoder::new(file).error(ErrorKind::Input, damaged)?;
        decoder.set_limits(limits).error(ErrorKind::Input, damaged)?;
        return Ok(decoder.into_frames());
    }
    let mut decoder = WebPDecoder::new(file).error(ErrorKind::Input, damaged)?;
    decoder.set_limits(limits).error(ErrorKind::Input, damaged)?;
    if !decoder.has_animation() {
        bail!(Input, "a single picture is no clip: give the folder of its frames");
    }
    Ok(decoder.into_frames())
}

fn picture(frame: Frame) -> Result<Picture, Error> {
    let rgba = frame.into_buffer();
    let (width, height) = (rgba.width() as usize, rgba.height() as usize);
    let rgb = rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    Picture::new(width, height, rgb)
}
