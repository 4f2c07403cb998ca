//! Embeddings on disk: the encoders of a prompt that was encoded before need not run, nor be read.
//!
//! An entry is a safetensors file of `prompt_embeds` and `pooled_prompt_embeds`, with the whole key in its metadata: the
//! prompt, what the encoders' files are, and whatever else the values depend on.

use super::{Clip, Embeddings, Encoder, LanguageModel, Run, T5};
use crate::{
    error::{ErrorKind, IntoError, Result},
    weights::{Fnv, Weights},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::Metadata,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Entries that are kept: at 16 MB for a prompt of FLUX.2 klein, half a gigabyte.
const MOST_ENTRIES: usize = 32;

/// A folder of entries.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in `folder`, which is made when the first entry is.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// `embeddings` in `IMPASTO_CACHE`, or in `impasto` in the user's cache folder. `None` if there is no such folder.
    pub fn of_user() -> Option<Self> {
        let folder = match std::env::var_os("IMPASTO_CACHE").filter(|v| !v.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => dirs::cache_dir()?.join("impasto"),
        };
        Some(Self::new(folder.join("embeddings")))
    }

    /// The entry for `key`. One that is damaged counts as none.
    pub fn get(&self, key: &str) -> Option<Embeddings> {
        let path = self.path(key);
        let bytes = std::fs::read(&path).ok()?;
        let entry = decode(&bytes, key);
        if entry.is_none() {
            tracing::debug!("{} is ignored: damaged, or of another key", path.display());
        }
        entry
    }

    /// Writes an entry: to a temporary file, then by rename. The oldest entries make room.
    ///
    /// # Errors
    /// `Io`.
    pub fn put(&self, key: &str, e: &Embeddings) -> Result<()> {
        let path = self.path(key);
        let told = || format!("cannot write '{}'", path.display());
        let prompt: &[u8] = bytemuck::cast_slice(&e.prompt);
        let pooled: &[u8] = e.pooled.as_deref().map_or(&[], bytemuck::cast_slice);
        let view = |shape: Vec<usize>, data| TensorView::new(Dtype::F32, shape, data).error(ErrorKind::Internal, told);
        let mut tensors = vec![("prompt_embeds", view(vec![1, e.tokens, e.width], prompt)?)];
        if let Some(values) = &e.pooled {
            tensors.push(("pooled_prompt_embeds", view(vec![1, values.len()], pooled)?));
        }
        let sum = checksum(&[1, e.tokens, e.width], prompt, pooled);
        let metadata = HashMap::from([("key".to_owned(), key.to_owned()), ("crc32".to_owned(), sum)]);
        let bytes = safetensors::serialize(tensors, Some(metadata)).error(ErrorKind::Internal, told)?;
        std::fs::create_dir_all(&self.folder).error(ErrorKind::Io, told)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).error(ErrorKind::Io, told)?;
        file.write_all(&bytes).error(ErrorKind::Io, told)?;
        file.persist(&path).error(ErrorKind::Io, told)?;
        self.prune();
        Ok(())
    }

    fn path(&self, key: &str) -> PathBuf {
        let mut hash = Fnv::default();
        hash.add(key.as_bytes());
        self.folder.join(format!("{hash}.safetensors"))
    }

    /// Another run may do the same at the same time: what is gone already is as well.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        let aged = |path: PathBuf| Some((path.metadata().and_then(|m| m.modified()).ok()?, path));
        let paths = entries.flatten().map(|e| e.path());
        let mut all: Vec<_> =
            paths.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).filter_map(aged).collect();
        all.sort();
        let excess = all.len().saturating_sub(MOST_ENTRIES);
        for (_, path) in &all[..excess] {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn checksum(shape: &[usize], prompt: &[u8], pooled: &[u8]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("{shape:?}").as_bytes());
    hasher.update(prompt);
    hasher.update(pooled);
    hasher.finalize().to_string()
}

fn decode(bytes: &[u8], key: &str) -> Option<Embeddings> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let said = header.metadata().as_ref()?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let prompt = tensors.tensor("prompt_embeds").ok()?;
    let pooled = tensors.tensor("pooled_prompt_embeds").ok();
    let sum = checksum(prompt.shape(), prompt.data(), pooled.as_ref().map_or(&[], |t| t.data()));
    if said.get("key")? != key || *said.get("crc32")? != sum {
        return None;
    }
    let &[1, tokens, width] = prompt.shape() else { return None };
    let values = |t: &TensorView<'_>| bytemuck::pod_collect_to_vec::<u8, f32>(t.data());
    Some(Embeddings { prompt: values(&prompt), tokens, width, pooled: pooled.as_ref().map(values) })
}

/// The key of a prompt of FLUX.1.
///
/// # Errors
/// `Io` if the weights' files cannot be looked at.
pub fn flux1_key(run: &Run<'_>, clip: &Encoder<Clip>, t5: &Encoder<T5>, prompt: &str, tokens: usize) -> Result<String> {
    let ids = [clip.tokenizer.encode(prompt, clip.model.config.positions)?, t5.tokenizer.encode(prompt, tokens)?];
    let configs = format!("{:?} {:?}", clip.model.config, t5.model.config);
    key(run, &[clip.model.weights(), t5.model.weights()], &configs, &ids.map(|t| t.ids))
}

/// The key of a prompt of FLUX.2.
///
/// # Errors
/// `Io` if the weights' files cannot be looked at.
pub fn flux2_key(run: &Run<'_>, encoder: &Encoder<LanguageModel>, prompt: &str, tokens: usize) -> Result<String> {
    let ids = encoder.tokenizer.encode(prompt, tokens)?;
    let configs = format!("{:?} {:?} {:?}", encoder.model.config, encoder.model.outputs, ids.real);
    key(run, &[encoder.model.weights()], &configs, &[ids.ids])
}

/// Whatever the embeddings depend on: version and adapter (rounding), storage, configs, weights, and the tokens (so the
/// prompt with its template and tokenizer).
///
/// A digest of all weights would take longer than encoding does. Instead, each file is known by path, size, and the times
/// of its last writing and its last change, to the nanosecond; the latter no tool can set back, where the system has it.
/// For the systems that do not, and for copies that keep their times, a piece of every tensor is digested, too.
fn key(run: &Run<'_>, weights: &[&Weights], configs: &str, ids: &[Vec<u32>]) -> Result<String> {
    let info = run.gpu.info();
    let mut key = format!("impasto {}\n{} {} {}\n", env!("CARGO_PKG_VERSION"), info.name, info.backend, info.driver);
    let _ = writeln!(key, "{:?}\n{configs}", run.storage);
    for w in weights {
        for file in files(Path::new(w.origin()))? {
            let told = || format!("cannot look at '{}'", file.display());
            let meta = file.metadata().error(ErrorKind::Io, told)?;
            let absolute = file.canonicalize().error(ErrorKind::Io, told)?;
            let _ = writeln!(key, "{} {} {}", absolute.display(), meta.len(), times(&meta));
        }
        let _ = writeln!(key, "{}", w.digest()?);
    }
    for ids in ids {
        let _ = writeln!(key, "{ids:?}");
    }
    Ok(key)
}

/// The file, or what a folder holds of weights and configs.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(if path.is_file() { vec![path.to_owned()] } else { Vec::new() });
    }
    let entries = std::fs::read_dir(path).error(ErrorKind::Io, || format!("cannot look into '{}'", path.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    Ok(files)
}

#[cfg(unix)]
fn times(meta: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    format!("{}.{:09} {}.{:09} {}", meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec(), meta.ino())
}

#[cfg(not(unix))]
fn times(meta: &Metadata) -> String {
    format!("{:?} {:?}", meta.modified().ok(), meta.created().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fill: f32) -> Embeddings {
        Embeddings { prompt: vec![fill; 24], tokens: 4, width: 6, pooled: Some(vec![0.5; 3]) }
    }

    #[test]
    fn an_entry_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("deep/er"));
        assert_eq!(cache.get("a cat"), None);
        cache.put("a cat", &entry(1.0)).unwrap();
        cache.put("a dog", &Embeddings { pooled: None, ..entry(2.0) }).unwrap();
        assert_eq!(cache.get("a cat"), Some(entry(1.0)));
        assert_eq!(cache.get("a dog"), Some(Embeddings { pooled: None, ..entry(2.0) }));
        // Damaged in any byte or cut anywhere: ignored, and written again.
        let path = cache.path("a cat");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert!(cache.get("a cat").is_none_or(|e| e == entry(1.0)), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(cache.get("a cat"), None, "cut at {at}");
        }
        // The entry of another key under this one's name.
        std::fs::copy(cache.path("a dog"), &path).unwrap();
        assert_eq!(cache.get("a cat"), None);
        cache.put("a cat", &entry(3.0)).unwrap();
        assert_eq!(cache.get("a cat"), Some(entry(3.0)));
        // Only the two files are left.
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    }

    #[test]
    fn old_entries_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        (0..MOST_ENTRIES + 3).for_each(|i| cache.put(&format!("prompt {i}"), &entry(i as f32)).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), MOST_ENTRIES);
        let last = MOST_ENTRIES + 2;
        assert_eq!(cache.get(&format!("prompt {last}")), Some(entry(last as f32)));
    }

    #[test]
    fn weights_of_the_same_size_and_time_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let time = std::time::SystemTime::UNIX_EPOCH;
        let mut samples = Vec::new();
        for fill in [1.0f32, 2.0] {
            let values = [fill; 600];
            let view = TensorView::new(Dtype::F32, vec![600], bytemuck::cast_slice(&values)).unwrap();
            std::fs::write(&path, safetensors::serialize([("a", view)], None).unwrap()).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            samples.push((Weights::open(&path).unwrap().digest().unwrap(), times(&path.metadata().unwrap())));
        }
        assert_ne!(samples[0].0, samples[1].0);
        #[cfg(unix)]
        assert_ne!(samples[0].1, samples[1].1, "the time of the last change");
    }
}
