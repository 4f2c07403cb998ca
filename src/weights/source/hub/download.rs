//! One file from the Hub into the cache. A cut download goes on where it ended, in this run or the next.

use super::{
    super::{Options, Progress},
    client::{Client, File},
    home, io_error,
};
use crate::error::{Error, ErrorKind, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// Requests in a row that bring no new byte, before we give up.
const FRUITLESS: u32 = 4;

/// The file in the snapshot of commit `sha`, downloaded unless its content is in the cache.
pub(super) fn fetch(client: &Client, options: &Options, id: &str, sha: &str, file: &str) -> Result<PathBuf> {
    let home = home(options, id);
    let pointer = home.join("snapshots").join(sha).join(file);
    if pointer.is_file() {
        return Ok(pointer);
    }
    let meta = client.file(id, sha, file)?;
    let blob = home.join("blobs").join(&meta.etag);
    create_folder_of(&blob)?;
    let _lock = lock(options, &home, &meta.etag)?;
    if pointer.is_file() {
        // Whoever had the lock before has done it.
        return Ok(pointer);
    }
    if fs::metadata(&blob).map(|m| m.len()).ok() != Some(meta.size) {
        download(client, options, &Source { id, sha, file }, &meta, &blob)?;
    }
    create_folder_of(&pointer)?;
    link(&blob, &pointer, file.matches('/').count()).map_err(|e| io_error(&pointer, e))?;
    Ok(pointer)
}

struct Source<'a> {
    id: &'a str,
    sha: &'a str,
    file: &'a str,
}

/// Fills `blob`, by way of a file beside it that keeps what has arrived.
fn download(client: &Client, options: &Options, source: &Source<'_>, meta: &File, blob: &Path) -> Result<()> {
    let part = blob.with_file_name(format!("{}.incomplete", meta.etag));
    let (mut fruitless, mut last) = (0, None);
    loop {
        let before = fs::metadata(&part).map_or(0, |m| m.len());
        if before == meta.size {
            // An empty file has nothing to fetch, but must be there to be renamed.
            fs::OpenOptions::new().create(true).append(true).open(&part).map_err(|e| io_error(&part, e))?;
            break;
        }
        if before > meta.size {
            // Not ours, or not of this file.
            fs::remove_file(&part).map_err(|e| io_error(&part, e))?;
            continue;
        }
        // Only what another request can mend is tried again: a full disk or a refusal is not.
        match stream(client, options, source, meta, &part, before) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Network => last = Some(e),
            Err(e) => return Err(e),
        }
        if fs::metadata(&part).map_or(0, |m| m.len()) > before {
            fruitless = 0;
            continue;
        }
        fruitless += 1;
        if fruitless == FRUITLESS {
            let error = last.unwrap_or_else(|| Error::new(ErrorKind::Network, "the server sends no bytes"));
            let so_far = format!("{before} of {} bytes are here, and the next try goes on from there", meta.size);
            return Err(error.context(format!("'{}': {so_far}", source.file)));
        }
        std::thread::sleep(Duration::from_millis(250 << fruitless));
    }
    if let Some(found) = other_sha256(&part, &meta.etag).map_err(|e| io_error(&part, e))? {
        // Nothing to go on from: it is not known where it is wrong.
        fs::remove_file(&part).map_err(|e| io_error(&part, e))?;
        bail!(
            Network,
            "'{}' arrived damaged: its SHA-256 is {found}, the Hub says {}; try again",
            source.file,
            meta.etag
        );
    }
    fs::rename(&part, blob).map_err(|e| io_error(blob, e))
}

/// The SHA-256 of a file if it is not `etag`. The Hub names large files (LFS, Xet) by it, small ones by a git hash of
/// 40 digits, which is not checked.
fn other_sha256(file: &Path, etag: &str) -> std::io::Result<Option<String>> {
    if etag.len() != 64 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let (mut hash, mut file, mut buffer) = (Sha256::new(), fs::File::open(file)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((!found.eq_ignore_ascii_case(etag)).then_some(found))
}

/// One request: appends to `part`, which has `before` bytes.
fn stream(
    client: &Client,
    options: &Options,
    source: &Source<'_>,
    meta: &File,
    part: &Path,
    before: u64,
) -> Result<()> {
    let Source { id, sha, file } = *source;
    let response = client.open(id, sha, file, before)?;
    let status = response.status().as_u16();
    // Only 206 with the right start continues; any other success is the whole file.
    let range = response.headers().get("content-range").and_then(|r| r.to_str().ok()).unwrap_or("");
    let continues = status == 206 && range.starts_with(&format!("bytes {before}-"));
    ensure!(continues || status == 200, Network, "'{file}': asked for bytes from {before} on, got {status} {range:?}");
    let mut done = if continues { before } else { 0 };

    let mut out = fs::OpenOptions::new()
        .create(true)
        .append(continues)
        .write(true)
        .truncate(!continues)
        .open(part)
        .map_err(|e| io_error(part, e))?;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 128 * 1024];
    let report = |done| {
        if let Some(progress) = &options.progress {
            progress(Progress { file, done, total: meta.size });
        }
    };
    report(done);
    while done < meta.size {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) => return Err(Error::with_source(ErrorKind::Network, "the connection was cut", e)),
        };
        done += read as u64;
        ensure!(done <= meta.size, Network, "'{file}': the server sends more than the {} bytes it promised", meta.size);
        out.write_all(&buffer[..read]).map_err(|e| io_error(part, e))?;
        report(done);
    }
    out.sync_all().map_err(|e| io_error(part, e))
}

/// Waits until no other process fetches the same content. `huggingface_hub` uses the same lock files.
fn lock(options: &Options, home: &Path, etag: &str) -> Result<fs::File> {
    let name = home.file_name().unwrap_or_default();
    let path = options.cache.join(".locks").join(name).join(format!("{etag}.lock"));
    create_folder_of(&path)?;
    let file = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(|e| io_error(&path, e))?;
    match file.lock() {
        Ok(()) => Ok(file),
        // A network file system without locks: two downloads at once are a waste, not a danger we could avert.
        Err(e) if e.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(e) => Err(io_error(&path, e)),
    }
}

fn create_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|e| io_error(folder, e))
}

/// Makes `snapshots/SHA/FILE` stand for `blobs/ETAG`, as `huggingface_hub` does: by a relative link, so that the
/// cache can be moved; on Windows, where links need a privilege, by a hard link or a copy. `FILE` is in so many folders.
fn link(blob: &Path, pointer: &Path, folders: usize) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let target = PathBuf::from("../".repeat(folders + 2)).join("blobs").join(blob.file_name().unwrap_or_default());
        match std::os::unix::fs::symlink(&target, pointer) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                // It did not lead to a file, or we would not be here.
                fs::remove_file(pointer)?;
                std::os::unix::fs::symlink(&target, pointer)
            }
            done => done,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = folders;
        fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(drop))
    }
}
