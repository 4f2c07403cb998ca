//! One picture or many: read ahead on other threads, worked one after the other, failures told as they come.

use super::{
    failure::{Failure, Outcome, complain, print_json},
    progress::Progress,
    signal,
};
use impasto::{
    ErrorKind, Result,
    image::{Picture, batch::Ahead},
};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// Pictures that are read and not yet worked on, at most: what bounds the memory of a batch.
const AHEAD: usize = 4;

/// Where a picture comes from.
pub(super) enum Source {
    Path(PathBuf),
    /// It was read already, in so many milliseconds.
    Read(PathBuf, Picture, f64),
}

impl Source {
    /// A picture alone is read at once, so that what is wrong with it is known before a model is loaded.
    pub(super) fn of(paths: Vec<PathBuf>) -> Result<Vec<Self>> {
        match <[PathBuf; 1]>::try_from(paths) {
            Ok([path]) => {
                let start = Instant::now();
                let picture = Picture::load(&path)?;
                Ok(vec![Self::Read(path, picture, milliseconds(start))])
            }
            Err(paths) => Ok(paths.into_iter().map(Self::Path).collect()),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Path(path) | Self::Read(path, ..) => path,
        }
    }
}

/// A picture, as it was prepared on another thread.
pub(super) struct Loaded<T> {
    pub(super) path: PathBuf,
    pub(super) content: T,
    /// Milliseconds to read and prepare it.
    pub(super) read: f64,
}

/// Reads and works on every picture, `prepare` on other threads. With one picture, or an error that the next picture
/// would meet too, that error is the result; any other is told, and the rest goes on.
pub(super) fn run<T: Send + 'static>(
    pictures: Vec<Source>,
    json: bool,
    progress: &Progress,
    prepare: impl Fn(Picture) -> Result<T> + Send + Sync + 'static,
    mut work: impl FnMut(Loaded<T>) -> Outcome,
) -> Outcome {
    let paths: Vec<PathBuf> = pictures.iter().map(|p| p.path().to_path_buf()).collect();
    let load = move |source: Source| -> Result<Loaded<T>> {
        let start = Instant::now();
        let (path, picture, before) = match source {
            Source::Path(path) => (path.clone(), Picture::load(path)?, 0.0),
            Source::Read(path, picture, milliseconds) => (path, picture, milliseconds),
        };
        Ok(Loaded { path, content: prepare(picture)?, read: before + milliseconds(start) })
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(AHEAD);
    let mut failed = 0;
    for (n, (loaded, path)) in Ahead::new(pictures, threads, AHEAD, load)?.zip(&paths).enumerate() {
        signal::check()?;
        progress.item(n + 1, paths.len());
        let (error, of_this_one) = match loaded {
            Err(e) => (e, true),
            Ok(loaded) => match work(loaded) {
                Ok(()) => continue,
                Err(Failure::Error(e)) => {
                    let bad = matches!(e.kind(), ErrorKind::Argument | ErrorKind::Input | ErrorKind::Numeric);
                    (e.context(path.display().to_string()), bad)
                }
                Err(other) => return Err(other),
            },
        };
        if paths.len() == 1 || !of_this_one {
            return Err(error.into());
        }
        failed += 1;
        progress.beside(|| complain(&error.to_string()));
        if json {
            print_json(&serde_json::json!({ "picture": path.to_string_lossy(), "error": error.to_string() }))?;
        }
    }
    if failed == 0 {
        return Ok(());
    }
    progress.beside(|| complain(&format!("{failed} of {} pictures failed", paths.len())));
    Err(Failure::Told)
}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
