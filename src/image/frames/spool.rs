//! Frames of a stream on disk, to be had in any order.

use super::Sequence;
use crate::{
    error::{Error, ErrorKind, Result, bail},
    image::Picture,
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};

/// Frames as raw bytes, one after the other, and the stream of those that were not asked for yet.
pub(super) struct Spool {
    stream: Sequence,
    file: File,
    /// Width and height of each.
    sizes: Vec<(usize, usize)>,
}

impl Spool {
    /// `first`: what the stream gave already.
    ///
    /// # Errors
    /// `Io`; `Argument` for a stream that is further on.
    pub(super) fn new(stream: Sequence, first: Option<&Picture>) -> Result<Self> {
        let mut spool = Self { stream, file: tempfile::tempfile().map_err(cannot)?, sizes: Vec::new() };
        first.into_iter().try_for_each(|frame| spool.keep(frame))?;
        match spool.stream.next == spool.sizes.len() {
            true => Ok(spool),
            false => bail!(Argument, "frames of the stream have gone by"),
        }
    }

    pub(super) fn frame(&mut self, index: usize) -> Result<Option<Picture>> {
        while self.sizes.len() <= index {
            match self.stream.read()? {
                Some(frame) => self.keep(&frame)?,
                None => return Ok(None),
            }
        }
        let bytes = |&(width, height): &(usize, usize)| width * height * 3;
        let start: usize = self.sizes[..index].iter().map(bytes).sum();
        let (width, height) = self.sizes[index];
        let mut rgb = vec![0; width * height * 3];
        let read = self.file.seek(SeekFrom::Start(start as u64)).and_then(|_| self.file.read_exact(&mut rgb));
        read.map_err(cannot)?;
        Picture::new(width, height, rgb).map(Some)
    }

    fn keep(&mut self, frame: &Picture) -> Result<()> {
        let written = self.file.seek(SeekFrom::End(0)).and_then(|_| self.file.write_all(frame.rgb()));
        written.map_err(cannot)?;
        self.sizes.push((frame.width(), frame.height()));
        Ok(())
    }
}

fn cannot(e: io::Error) -> Error {
    let folder = std::env::temp_dir();
    Error::with_source(ErrorKind::Io, format!("cannot keep frames in {} (TMPDIR)", folder.display()), e)
}
