//! Writing frames as a GIF, or as a video through `ffmpeg`.

use super::{
    Picture,
    frames::ffmpeg::{self, Process},
    output::Growing,
};
use crate::error::{Context, Error, ErrorKind, IntoError, Result, bail, ensure};
use ::image::{Delay, Frame, codecs::gif::GifEncoder};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, Stdio},
};

/// A GIF or a video that is written frame by frame. It appears under its name when it is finished.
pub struct Movie {
    file: Growing,
    sink: Sink,
    path: PathBuf,
    /// Frames a second.
    rate: f64,
    size: (usize, usize),
    frames: usize,
}

/// What takes the frames.
enum Sink {
    Gif(Box<GifEncoder<File>>),
    Video { process: Process, to: ChildStdin },
}

/// The kinds that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An endless GIF.
    Gif,
    /// A video, by ffmpeg's name for the format.
    Video(&'static str),
}

impl Format {
    /// The format that the extension of `path` names.
    pub fn of(path: &Path) -> Option<Self> {
        Some(match path.extension()?.to_string_lossy().to_lowercase().as_str() {
            "gif" => Self::Gif,
            "mp4" => Self::Video("mp4"),
            "mov" => Self::Video("mov"),
            "mkv" => Self::Video("matroska"),
            "webm" => Self::Video("webm"),
            "avi" => Self::Video("avi"),
            _ => return None,
        })
    }
}

impl Movie {
    /// Begins a file of so many frames a second, each of `width` x `height`.
    ///
    /// # Errors
    /// `Argument` for an extension that names no format and a size that it does not allow, `NotFound` for a video without
    /// `ffmpeg`, `Io` if the place takes no file.
    pub fn create(path: &Path, rate: f64, size: (usize, usize)) -> Result<Self> {
        let Some(format) = Format::of(path) else {
            bail!(Argument, "{}: use .gif, .mp4, .mov, .mkv, .webm or .avi", path.display());
        };
        ensure!(rate.is_finite() && rate > 0.0, Argument, "{rate} frames a second");
        let file = Growing::create(path)?;
        let sink = match format {
            Format::Gif => Self::gif(&file, size),
            Format::Video(format) => Self::video(&file, rate, size, format),
        };
        Ok(Self { sink: sink.context(|| cannot(path))?, file, path: path.into(), rate, size, frames: 0 })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// `Input` for a frame of another size, `Io`, and what `ffmpeg` says.
    pub fn add(&mut self, frame: &Picture) -> Result<()> {
        let (w, h) = (frame.width(), frame.height());
        ensure!((w, h) == self.size, Input, "a frame of {w}x{h} in a film of {}x{}", self.size.0, self.size.1);
        self.frames += 1;
        let cannot = || cannot(&self.path);
        match &mut self.sink {
            Sink::Gif(encoder) => {
                let alpha = |p: &[u8]| [p[0], p[1], p[2], 255];
                let rgba = frame.rgb().chunks_exact(3).flat_map(alpha).collect();
                let Some(rgba) = ::image::RgbaImage::from_raw(w as u32, h as u32, rgba) else {
                    bail!(Internal, "a frame of other bytes");
                };
                // In hundredths of a second, of which a viewer takes no fewer than two.
                let hundredths = (100.0 / self.rate).round().max(2.0) as u32;
                let frame = Frame::from_parts(rgba, 0, 0, Delay::from_numer_denom_ms(hundredths * 10, 1));
                encoder.encode_frame(frame).error(ErrorKind::Io, cannot)
            }
            Sink::Video { process, to } => match to.write_all(frame.rgb()) {
                Ok(()) => Ok(()),
                // It is gone, and says why.
                Err(e) => process.finish().and(Err(Error::with_source(ErrorKind::Io, "ffmpeg ended", e))),
            }
            .context(cannot),
        }
    }

    fn gif(file: &Growing, (width, height): (usize, usize)) -> Result<Sink> {
        ensure!(
            width.max(height) <= 65535,
            Argument,
            "a GIF has at most 65535 pixels a side, this has {width}x{height}"
        );
        let opened = File::options().write(true).open(file.temporary()).error(ErrorKind::Io, || "cannot be opened")?;
        // Colours are found from every tenth pixel: ten times faster, and no worse to the eye.
        let mut encoder = GifEncoder::new_with_speed(opened, 10);
        encoder.set_repeat(::image::codecs::gif::Repeat::Infinite).error(ErrorKind::Io, || "cannot be begun")?;
        Ok(Sink::Gif(Box::new(encoder)))
    }

    fn video(file: &Growing, rate: f64, (width, height): (usize, usize), format: &str) -> Result<Sink> {
        let mut command = ffmpeg::command("ffmpeg");
        let (size, rate) = (format!("{width}x{height}"), rate.to_string());
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &rate, "-i", "pipe:0"]);
        // Codecs and players want colours at half the size, and so even sides.
        command.args(["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-f", format, "-y"]);
        command.arg(ffmpeg::file(file.temporary())).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut process = Process::start(&mut command, "writing a video")?;
        let Some(to) = process.child.stdin.take() else { bail!(Internal, "ffmpeg without an input") };
        Ok(Sink::Video { process, to })
    }

    /// Ends the file and gives it its name. Of no frame there is no file.
    ///
    /// # Errors
    /// `Io`, and what `ffmpeg` says.
    pub fn finish(self) -> Result<()> {
        let Self { mut file, sink, path, frames, .. } = self;
        if frames == 0 {
            return Ok(());
        }
        let cannot = || cannot(&path);
        match sink {
            Sink::Gif(encoder) => {
                // The end mark is written here, by a function that cannot fail.
                drop(encoder);
                let mut end = [0];
                let read = file.file().seek(SeekFrom::End(-1)).and_then(|_| file.file().read_exact(&mut end));
                read.error(ErrorKind::Io, cannot)?;
                ensure!(end == *b";", Io, "{}: its end could not be written", cannot());
            }
            Sink::Video { mut process, to } => {
                drop(to);
                process.finish().context(cannot)?;
            }
        }
        file.finish()
    }
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
