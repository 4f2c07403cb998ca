//! [`Bytes`]: immutable bytes that are cheap to clone and to slice, whoever owns them.

use std::{ops::Deref, ops::Range, sync::Arc};

/// A range of a memory map, of a static slice, or of shared memory. Clones and slices copy nothing.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Static(&'static [u8]),
    Shared(Arc<[u8]>),
    Vector(Arc<Vec<u8>>),
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(Arc<memmap2::Mmap>),
}

impl Bytes {
    /// Maps a file into memory. An empty file gives empty bytes.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `Input` if it is not a regular file, `Io` if it cannot be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn map(path: &std::path::Path) -> crate::Result<Self> {
        use crate::error::{ErrorKind, IntoError, ensure};
        let kind = |e: &std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        // `metadata` first: opening a named pipe would wait for a writer.
        let meta = std::fs::metadata(path)
            .map_err(|e| crate::Error::with_source(kind(&e), format!("cannot open '{}'", path.display()), e))?;
        ensure!(meta.is_file(), Input, "'{}' is not a file", path.display());
        let file = std::fs::File::open(path)
            .map_err(|e| crate::Error::with_source(kind(&e), format!("cannot open '{}'", path.display()), e))?;
        if meta.len() == 0 {
            return Ok(Self::from(&[][..]));
        }
        // SAFETY: the map is private and read-only. As with every memory-mapped reader, another process that
        // truncates the file while it is mapped would end this one with a bus error; weight files are written
        // once, by rename, and the alternative is to hold every file in memory twice.
        let map = unsafe { memmap2::Mmap::map(&file) }
            .error(ErrorKind::Io, || format!("cannot map '{}' into memory", path.display()))?;
        let range = 0..map.len();
        Ok(Self { owner: Owner::Mapped(Arc::new(map)), range })
    }

    /// The part `range`, counted from the start of these bytes; `None` if it reaches beyond them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: self.owner.clone(), range: start..self.range.start + range.end })
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.owner {
            Owner::Static(bytes) => bytes,
            Owner::Shared(bytes) => bytes,
            Owner::Vector(bytes) => bytes,
            #[cfg(not(target_arch = "wasm32"))]
            Owner::Mapped(map) => map,
        };
        &whole[self.range.clone()]
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self { owner: Owner::Static(bytes), range: 0..bytes.len() }
    }
}

impl<const N: usize> From<&'static [u8; N]> for Bytes {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self::from(&bytes[..])
    }
}

impl From<Arc<[u8]>> for Bytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Owner::Shared(bytes), range }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        // Not `Arc<[u8]>`, which would copy them.
        let range = 0..bytes.len();
        Self { owner: Owner::Vector(Arc::new(bytes)), range }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
