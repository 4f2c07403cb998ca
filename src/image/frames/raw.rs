//! Raw frames of a pipe.

use crate::{
    error::{Error, ErrorKind, Result, bail},
    image::Picture,
};
use std::io::{self, Read};

/// Reads `width * height * 3` bytes a frame until the end.
pub(super) struct Raw {
    from: Box<dyn Read + Send>,
    width: usize,
    height: usize,
    bytes: usize,
}

impl Raw {
    /// # Errors
    /// `Input` for a size that no picture has.
    pub(super) fn new(from: Box<dyn Read + Send>, width: usize, height: usize) -> Result<Self> {
        let bytes = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        let Some(bytes) = bytes.filter(|n| (1..=super::MAX_FRAME).contains(n)) else {
            bail!(Input, "frames of {width}x{height} cannot be read");
        };
        Ok(Self { from, width, height, bytes })
    }

    fn read(&mut self) -> Result<Option<Picture>> {
        let mut rgb = vec![0; self.bytes];
        let read = fill(&mut self.from, &mut rgb)
            .map_err(|e| Error::with_source(ErrorKind::Io, "cannot read raw frames", e))?;
        if read == 0 {
            return Ok(None);
        }
        if read < self.bytes {
            let Self { width, height, bytes, .. } = self;
            bail!(
                Input,
                "it is cut short: a raw frame of {width}x{height} has {bytes} bytes (8-bit RGB), and {read} came"
            );
        }
        Picture::new(self.width, self.height, rgb).map(Some)
    }
}

impl Iterator for Raw {
    type Item = Result<Picture>;

    fn next(&mut self) -> Option<Result<Picture>> {
        self.read().transpose()
    }
}

/// Reads until `to` is full or there is no more. Gives the number of bytes.
///
/// # Errors
/// Those of `from`.
pub(super) fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < to.len() {
        match from.read(&mut to[read..]) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}
