//! What `impasto bench tune` has found, in a file for each adapter: loaded silently, ignored when stale or damaged.

use super::AdapterInfo;
use crate::{
    error::{ErrorKind, IntoError, Result},
    kernel::Tuning,
};
use serde::{Deserialize, Serialize};
use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The file. The driver and impasto's version are part of it: another compiler, or other kernels, have other winners.
#[derive(Serialize, Deserialize)]
struct File {
    version: String,
    adapter: String,
    backend: String,
    driver: String,
    variants: serde_json::Value,
    /// CRC-32 of all else.
    checksum: u32,
}

impl File {
    fn new(info: &AdapterInfo, variants: serde_json::Value) -> Self {
        let mut file = Self {
            version: env!("CARGO_PKG_VERSION").into(),
            adapter: info.name.clone(),
            backend: info.backend.clone(),
            driver: info.driver.clone(),
            variants,
            checksum: 0,
        };
        file.checksum = file.sum();
        file
    }

    fn sum(&self) -> u32 {
        let all = [&self.version, &self.adapter, &self.backend, &self.driver, &self.variants.to_string()];
        crc32fast::hash(all.map(|s| s.replace('\n', " ")).join("\n").as_bytes())
    }
}

/// Where the file of an adapter is: in `IMPASTO_CACHE`, or in `impasto` in the user's cache folder. `None` if there is
/// no such folder.
pub fn path(info: &AdapterInfo) -> Option<PathBuf> {
    let folder = match std::env::var_os("IMPASTO_CACHE").filter(|v| !v.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => dirs::cache_dir()?.join("impasto"),
    };
    Some(folder.join(name(info)))
}

/// Readable, and distinct by its checksum where it had to be cut.
fn name(info: &AdapterInfo) -> String {
    let words: String =
        info.name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let key = format!("{}\n{}", info.name, info.backend);
    format!("tuning-{:.40}-{:08x}.json", words, crc32fast::hash(key.as_bytes()))
}

/// What the file says, if it is there, whole, and of this adapter, driver and version.
pub fn load(path: &Path, info: &AdapterInfo) -> Option<Tuning> {
    let text = std::fs::read_to_string(path).ok()?;
    let ignored = |why: &str| tracing::debug!("{} is ignored: {why}", path.display());
    let file: File = serde_json::from_str(&text).map_err(|e| ignored(&e.to_string())).ok()?;
    if file.sum() != file.checksum {
        ignored("its checksum is another");
        return None;
    }
    if File::new(info, file.variants.clone()).checksum != file.checksum {
        ignored("it is of another driver or version");
        return None;
    }
    serde_json::from_value(file.variants).map(|v| Tuning(Arc::new(v))).map_err(|e| ignored(&e.to_string())).ok()
}

/// Writes the file: to a temporary one, then by rename, so that what is there is always whole.
///
/// # Errors
/// `Io`.
pub fn save(path: &Path, info: &AdapterInfo, tuning: &Tuning) -> Result<()> {
    let told = || format!("cannot write '{}'", path.display());
    let variants = serde_json::to_value(&*tuning.0).error(ErrorKind::Internal, told)?;
    let text = serde_json::to_string_pretty(&File::new(info, variants)).error(ErrorKind::Internal, told)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).error(ErrorKind::Io, told)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).error(ErrorKind::Io, told)?;
    file.write_all(text.as_bytes()).error(ErrorKind::Io, told)?;
    file.persist(path).error(ErrorKind::Io, told)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_what_is_whole_and_fresh_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let info = AdapterInfo { name: "An Adapter (X)".into(), driver: "1.0".into(), ..AdapterInfo::default() };
        let path = folder.path().join("deep").join(name(&info));
        assert!(load(&path, &info).is_none());
        let classes = BTreeMap::from([("8x8xf32".to_string(), "tile32".to_string())]);
        let tuning = Tuning(Arc::new(BTreeMap::from([("matmul".to_string(), classes)])));
        save(&path, &info, &tuning).unwrap();
        assert_eq!(load(&path, &info), Some(tuning.clone()));
        // Another driver; another byte; a part.
        assert!(load(&path, &AdapterInfo { driver: "1.1".into(), ..info.clone() }).is_none());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("tile32", "tile64")).unwrap();
        assert!(load(&path, &info).is_none());
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(load(&path, &info).is_none());
        // Nothing but the file is left.
        save(&path, &info, &tuning).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
