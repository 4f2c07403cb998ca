//! Writing files whole or not at all.
//!
//! A file is made under a temporary name in the folder where it belongs and renamed when it is complete, so that a
//! reader never sees half of it, and a full disk or a Ctrl-C leaves what was there before.

mod pictures;

pub use pictures::{Format, png, save_mask, save_picture, save_rgba};

use crate::error::{Error, ErrorKind, IntoError, Result, bail, ensure};
use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Finds out before the work whether `path` could be written: its folder is there and takes files, and it is no folder
/// itself.
///
/// # Errors
/// `Io`, with what is in the way.
pub fn check(path: &Path) -> Result<()> {
    match destination(path)? {
        Destination::Device(path) => {
            fs::OpenOptions::new().write(true).open(&path).error(ErrorKind::Io, || cannot(&path))?;
        }
        Destination::File(path) => drop(Temporary::beside(&path)?),
    }
    Ok(())
}

/// Writes `bytes` to `path`, whole or not at all. What exists there is replaced; a symbolic link is followed; devices
/// and pipes (`/dev/stdout`) are written to directly.
///
/// # Errors
/// `Io` with the path: the folder is missing or does not take files, the disk is full, `path` is a folder. Nothing of
/// the file is then left.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |to| to.write_all(bytes))
}

/// As [`write()`], from a function that writes piece by piece.
///
/// # Errors
/// As [`write()`]; `Io` also if the function fails.
pub fn write_with(path: &Path, f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    match destination(path)? {
        Destination::Device(path) => {
            let file = fs::OpenOptions::new().write(true).open(&path).error(ErrorKind::Io, || cannot(&path))?;
            run(file, f).error(ErrorKind::Io, || cannot(&path))?;
        }
        Destination::File(path) => {
            let temporary = Temporary::beside(&path)?;
            run(temporary.file.as_file(), f).error(ErrorKind::Io, || cannot(&path))?;
            temporary.rename_to(&path)?;
        }
    }
    Ok(())
}

/// A file that grows piece by piece, and appears under its name when it is complete.
pub struct Growing {
    temporary: Temporary,
    path: PathBuf,
}

impl Growing {
    /// Begins a file that is to become `path`; devices and pipes cannot.
    ///
    /// # Errors
    /// As [`write()`].
    pub fn create(path: &Path) -> Result<Self> {
        match destination(path)? {
            Destination::Device(path) => bail!(Io, "{} is no file: this needs one", path.display()),
            Destination::File(path) => Ok(Self { temporary: Temporary::beside(&path)?, path }),
        }
    }

    /// The file as it grows.
    pub fn file(&mut self) -> &mut fs::File {
        self.temporary.file.as_file_mut()
    }

    /// Where it is until it is complete.
    pub fn temporary(&self) -> &Path {
        self.temporary.file.path()
    }

    /// It is complete: what had the name is replaced.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(self) -> Result<()> {
        self.temporary.rename_to(&self.path)
    }
}

fn run(file: impl Write, f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = io::BufWriter::new(file);
    f(&mut buffered)?;
    buffered.flush()
}

/// Writes `value` as JSON text, with a newline at its end.
///
/// # Errors
/// As [`write()`].
pub fn save_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    write_with(path, |to| {
        serde_json::to_writer(&mut *to, value)?;
        to.write_all(b"\n")
    })
}

enum Destination {
    /// A file to replace or to make; symbolic links are resolved.
    File(PathBuf),
    /// Something that is written to and not replaced.
    Device(PathBuf),
}

fn destination(path: &Path) -> Result<Destination> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => bail!(Io, "cannot write {}: it is a folder", path.display()),
        Ok(meta) if meta.is_file() => {
            ensure!(!meta.permissions().readonly(), Io, "cannot write {}: it is read-only", path.display());
            Ok(Destination::File(fs::canonicalize(path).error(ErrorKind::Io, || cannot(path))?))
        }
        Ok(_) => Ok(Destination::Device(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            ensure!(path.file_name().is_some(), Io, "cannot write {}: it names no file", path.display());
            let folder = folder_of(path);
            ensure!(folder.is_dir(), Io, "cannot write {}: there is no folder {}", path.display(), folder.display());
            Ok(Destination::File(path.to_owned()))
        }
        Err(e) => Err(e).error(ErrorKind::Io, || cannot(path)),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// The temporary files that exist now.
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes all temporary files of this process: for a handler that ends the process at once. Whoever unwinds, by an
/// error or a panic, removes its own.
pub fn remove_temporaries() {
    for path in temporaries().drain(..) {
        // There is nobody left to tell.
        let _ = fs::remove_file(path);
    }
}

fn temporaries() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A file that is removed when dropped, unless renamed.
struct Temporary {
    // Dropped in this order: the file goes before its name is forgotten.
    file: tempfile::NamedTempFile,
    _listed: Listed,
}

/// A path in [`TEMPORARIES`] as long as this lives.
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        temporaries().retain(|p| *p != self.0);
    }
}

impl Temporary {
    fn beside(path: &Path) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".impasto-").suffix(".tmp");
        // Temporary files are private by default. This one gets the rights of the file that it replaces, or those that
        // the user's umask leaves.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(path).map_or(0o666, |m| m.permissions().mode() & 0o777);
            builder.permissions(fs::Permissions::from_mode(mode));
        }
        let mut all = temporaries();
        let file = builder.tempfile_in(folder_of(path)).error(ErrorKind::Io, || cannot(path))?;
        let own = file.path().to_owned();
        all.push(own.clone());
        Ok(Self { file, _listed: Listed(own) })
    }

    fn rename_to(self, path: &Path) -> Result<()> {
        // Some file systems tell only now that the disk was full.
        self.file.as_file().sync_data().error(ErrorKind::Io, || cannot(path))?;
        self.file.persist(path).map_err(|e| Error::with_source(ErrorKind::Io, cannot(path), e.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        for before in [None, Some("old")] {
            if let Some(text) = before {
                fs::write(&path, text).unwrap();
            }
            let e = write_with(&path, |to| {
                to.write_all(&[b'x'; 100_000])?;
                assert!(names(dir.path()).iter().any(|n| n.starts_with(".impasto-")));
                Err(io::ErrorKind::StorageFull.into())
            });
            let e = e.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Io);
            assert!(e.to_string().starts_with(&format!("cannot write {}: ", path.display())), "{e}");
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), before);
            assert_eq!(names(dir.path()).len(), before.iter().len());
        }
    }

    #[test]
    fn json_ends_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        save_json(&dir.path().join("j.json"), &[1, 2]).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("j.json")).unwrap(), "[1,2]\n");
        assert_eq!(names(dir.path()), ["j.json"]);
    }

    #[test]
    fn places_that_cannot_be_written_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no/such/out.png");
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").unwrap();
        for (path, what) in [
            (missing.as_path(), "there is no folder"),
            (dir.path(), "it is a folder"),
            (Path::new("/"), "it is a folder"),
            (Path::new(""), "it names no file"),
            (&blocked.join("out.png"), "cannot write"),
        ] {
            for e in [check(path).unwrap_err(), write(path, b"x").unwrap_err()] {
                assert_eq!(e.kind(), ErrorKind::Io);
                assert!(e.to_string().contains(what), "{e}");
            }
        }
        check(&dir.path().join("new.png")).unwrap();
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_devices_stay() {
        let e = write(Path::new("/dev/full"), &[0; 4096]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
        assert!(e.to_string().starts_with("cannot write /dev/full: No space left"), "{e}");
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_rights_kept() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let (real, link, plain) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("plain"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!((fs::read_to_string(&real).unwrap().as_str(), mode(&real)), ("new", 0o640));
        // The rights of a file that any other program makes.
        fs::write(&plain, "").unwrap();
        let new = dir.path().join("new");
        write(&new, b"").unwrap();
        assert_eq!(mode(&new), mode(&plain));
    }

    #[test]
    fn temporaries_are_listed_while_they_live() {
        let dir = tempfile::tempdir().unwrap();
        let listed = || temporaries().iter().filter(|p| p.starts_with(dir.path())).count();
        let one = Temporary::beside(&dir.path().join("a")).unwrap();
        let two = Temporary::beside(&dir.path().join("b")).unwrap();
        assert_eq!(listed(), 2);
        one.rename_to(&dir.path().join("a")).unwrap();
        assert_eq!(listed(), 1);
        drop(two);
        assert_eq!(listed(), 0);
        assert_eq!(names(dir.path()), ["a"]);
    }
}
