//! The frames of a clip, decoded when they are asked for: of a folder of pictures, an animation, a video, a stream of raw
//! bytes, or an iterator.

mod animation;
pub(super) mod ffmpeg;
mod raw;
mod spool;
mod video;

use super::{Picture, batch};
use crate::error::{Context, ErrorKind, IntoError, Result, bail, ensure};
use spool::Spool;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// The most bytes of a frame.
const MAX_FRAME: usize = 1 << 30;

/// Frames that come one after the other.
pub type Stream = Box<dyn Iterator<Item = Result<Picture>> + Send>;

/// A clip: frames counted from 0, of which at most a few are in memory.
pub struct Clip {
    source: Source,
    length: Length,
    rate: Option<f64>,
    size: (usize, usize),
    /// Frame 0, which was read for its size.
    first: Option<Picture>,
}

/// How many frames there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many.
    Exact(usize),
    /// As the file says, which may be a few off.
    About(usize),
    /// Known when the last one has come.
    Unknown,
}

enum Source {
    Folder(Vec<PathBuf>),
    Stream(Sequence),
    Spool(Spool),
}

/// A stream, and where it is.
struct Sequence {
    frames: std::iter::Fuse<Stream>,
    next: usize,
}

impl Sequence {
    /// The next frame. After an error there is none.
    fn read(&mut self) -> Result<Option<Picture>> {
        let frame = self.frames.next().transpose().context(|| format!("frame {}", self.next));
        match &frame {
            Ok(Some(_)) => self.next += 1,
            Ok(None) => {}
            Err(_) => self.frames = (Box::new(std::iter::empty()) as Stream).fuse(),
        }
        frame
    }
}

impl Clip {
    /// Opens a folder of pictures (PNG, JPEG, WebP, in natural order of their names), an animation (GIF, WebP), or a video
    /// through `ffmpeg`, which has to be installed. Files are told apart by content. The first frame is read.
    ///
    /// # Errors
    /// `NotFound` for what is not there, a folder without pictures, and a video without `ffmpeg`; `Input` for what cannot be
    /// decoded, and for a single picture; `Io`.
    pub fn open(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let meta = match fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => bail!(NotFound, "{}: no such file", path.display()),
            meta => meta.error(ErrorKind::Io, || format!("cannot read {}", path.display()))?,
        };
        if meta.is_dir() {
            return Self::folder(pictures_in(path)?);
        }
        let mut start = Vec::new();
        let read = fs::File::open(path).and_then(|file| file.take(12).read_to_end(&mut start));
        read.error(ErrorKind::Io, || format!("cannot read {}", path.display()))?;
        match start[..] {
            [b'G', b'I', b'F', b'8', ..] | [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => {
                let found = animation::open(path).context(named)?;
                Self::new(Source::stream(found.frames), Length::Exact(found.frames_in_all), found.rate).context(named)
            }
            [0x89, b'P', b'N', b'G', ..] | [0xFF, 0xD8, 0xFF, ..] => {
                bail!(Input, "{}: a single picture is no clip: give the folder of its frames", path.display())
            }
            [] => bail!(Input, "{}: the file is empty", path.display()),
            _ => {
                let (length, rate) = video::probe(path);
                Self::new(Source::stream(Box::new(video::Video::open(path)?)), length, rate)
            }
        }
    }

    /// The pictures at `paths`, in this order.
    ///
    /// # Errors
    /// Those of [`Picture::load`] for the first one; `NotFound` if there is none.
    pub fn folder(paths: Vec<PathBuf>) -> Result<Self> {
        ensure!(!paths.is_empty(), NotFound, "no PNG, JPEG or WebP picture in the clip");
        let length = Length::Exact(paths.len());
        Self::new(Source::Folder(paths), length, None)
    }

    /// Raw frames of 8-bit RGB, `width * height * 3` bytes each, without anything between them.
    ///
    /// # Errors
    /// `Input` for a size of no pixels, and if not even the first frame is there.
    pub fn raw(from: Box<dyn Read + Send>, width: usize, height: usize) -> Result<Self> {
        Self::stream(Box::new(raw::Raw::new(from, width, height)?), None)
    }

    /// Any frames, so many a second if that is known.
    ///
    /// # Errors
    /// That of the first frame; `Input` if there is none.
    pub fn stream(frames: Stream, rate: Option<f64>) -> Result<Self> {
        Self::new(Source::stream(frames), Length::Unknown, rate)
    }

    fn new(source: Source, length: Length, rate: Option<f64>) -> Result<Self> {
        let mut clip = Self { source, length, rate, size: (0, 0), first: None };
        let Some(first) = clip.read(0)? else { bail!(Input, "the clip has no frame") };
        clip.size = (first.width(), first.height());
        clip.first = Some(first);
        Ok(clip)
    }

    /// How many frames there are.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Frames a second, if the file says it.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Width and height of the first frame.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Frame 0, as long as no other was asked for.
    pub fn first(&self) -> Option<&Picture> {
        self.first.as_ref()
    }

    /// What the frame's files are called: in a folder the picture's name without its extension, else its number.
    pub fn name(&self, index: usize) -> String {
        match &self.source {
            Source::Folder(paths) => match paths.get(index).and_then(|p| p.file_stem()) {
                Some(stem) => stem.to_string_lossy().into_owned(),
                None => number(index),
            },
            Source::Stream(_) | Source::Spool(_) => number(index),
        }
    }

    /// Whether frames can be had in any order.
    pub fn seeks(&self) -> bool {
        !matches!(self.source, Source::Stream(_))
    }

    /// The same clip with frames in any order: those of a stream are kept, undecoded to raw bytes, in a file without a name in
    /// the system's temporary folder (`TMPDIR`), which goes away with the clip.
    ///
    /// # Errors
    /// `Io`.
    pub fn seekable(self) -> Result<Self> {
        let Self { source, length, rate, size, first } = self;
        let source = match source {
            Source::Stream(stream) => Source::Spool(Spool::new(stream, first.as_ref())?),
            other => other,
        };
        Ok(Self { source, length, rate, size, first })
    }

    /// A frame; `None` behind the last one.
    ///
    /// # Errors
    /// `Input` and `Io` for a frame that cannot be read, `Argument` for one that a stream has left behind.
    pub fn frame(&mut self, index: usize) -> Result<Option<Picture>> {
        if index == 0 && self.first.is_some() {
            // A stream gives it once; of the others it can be had again.
            return Ok(self.first.take());
        }
        self.first = None;
        self.read(index)
    }

    fn read(&mut self, index: usize) -> Result<Option<Picture>> {
        match &mut self.source {
            Source::Folder(paths) => {
                paths.get(index).map(Picture::load).transpose().context(|| format!("frame {index}"))
            }
            Source::Stream(stream) => {
                ensure!(index >= stream.next, Argument, "frame {index} of a stream has gone by");
                while stream.next < index {
                    if stream.read()?.is_none() {
                        return Ok(None);
                    }
                }
                stream.read()
            }
            Source::Spool(spool) => spool.frame(index),
        }
    }
}

impl Source {
    fn stream(frames: Stream) -> Self {
        Self::Stream(Sequence { frames: frames.fuse(), next: 0 })
    }
}

impl std::fmt::Debug for Clip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clip({}x{}, {:?})", self.size.0, self.size.1, self.length)
    }
}

fn number(index: usize) -> String {
    format!("{index:05}")
}

/// The pictures of a folder in natural order. Of other files there is a warning that names the first few.
fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut pictures, others) = batch::pictures_in(folder)?;
    if !others.is_empty() {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut names: Vec<String> = others.iter().map(name).collect();
        names.sort();
        let (count, more) = (names.len(), if names.len() > 3 { ", .." } else { "" });
        names.truncate(3);
        let names = names.join(", ");
        tracing::warn!("{}: of its files {count} are no frames by their names: {names}{more}", folder.display());
    }
    pictures.sort_by(|a, b| batch::natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(pictures)
}

#[cfg(test)]
mod tests;
