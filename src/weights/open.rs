//! From a path to tensors: one file, or a folder with a file or shards.

use super::{
    Bytes, Format, Store, Weights, read_any,
    store::{MAX_TENSORS, Tensors, printable},
};
use crate::error::{Context, ErrorKind, IntoError, Result, bail, ensure};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Component, Path, PathBuf},
};

/// The file names, without their endings, that transformers and diffusers give to a model's weights.
const STEMS: [&str; 2] = ["model", "diffusion_pytorch_model"];

pub(super) fn open(path: &Path) -> Result<Weights> {
    if !path.is_dir() {
        // An index may be named too, in place of its folder.
        if path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(".safetensors.index.json")) {
            return sharded(path);
        }
        return Weights::read(&Bytes::map(path)?, path.display().to_string());
    }
    for stem in STEMS {
        let (file, index) =
            (path.join(format!("{stem}.safetensors")), path.join(format!("{stem}.safetensors.index.json")));
        if file.exists() {
            return open(&file);
        }
        if index.exists() {
            return sharded(&index);
        }
    }
    for ending in ["safetensors", "gguf", "pt"] {
        let files = files_with_ending(path, ending)?;
        match &files[..] {
            [] => {}
            [file] => return open(file),
            _ => bail!(
                Argument,
                "'{}' holds {} .{ending} files; name one of them: {}",
                path.display(),
                files.len(),
                files.iter().map(|f| f.display().to_string()).take(8).collect::<Vec<_>>().join(", ")
            ),
        }
    }
    bail!(
        NotFound,
        "'{}' holds no weights: neither model.safetensors, nor model.safetensors.index.json, nor a .gguf or .pt file",
        path.display()
    )
}

fn files_with_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).error(ErrorKind::Io, || format!("cannot list '{}'", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|e| e == ending) && file.is_file())
        .collect();
    files.sort();
    Ok(files)
}

/// Opens the shards that an index names, and checks that the index and the shards agree.
fn sharded(index: &Path) -> Result<Weights> {
    let origin = index.display().to_string();
    let json = Bytes::map(index)?;
    ensure!(json.len() <= 100_000_000, Weights, "{origin}: an index of {} bytes", json.len());
    let parsed: Index = serde_json::from_slice(&json).error(ErrorKind::Weights, || format!("{origin}: no index"))?;

    let folder = index.parent().unwrap_or(Path::new(""));
    let files: BTreeSet<&str> = parsed.weight_map.0.values().map(String::as_str).collect();
    ensure!(!files.is_empty(), Weights, "{origin}: names no shards");
    // Only files beside the index: a path could lead anywhere on this machine.
    if let Some(outside) = files.iter().find(|name| !is_plain(name)) {
        bail!(Weights, "{origin}: the shard {} is not a file beside it", printable(outside));
    }
    let missing: Vec<String> = files.iter().filter(|n| !folder.join(n).is_file()).map(|n| printable(n)).collect();
    if !missing.is_empty() {
        let shown = missing.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        bail!(NotFound, "{origin}: {} of {} shards are missing: {shown}", missing.len(), files.len());
    }

    let (mut tensors, mut bytes) = (Tensors::new(), json.len() as u64);
    for name in files {
        let path = folder.join(name);
        let file = Bytes::map(&path)?;
        bytes += file.len() as u64;
        let shard = read_any(&file).context(|| path.display().to_string())?;
        for (tensor, entry) in shard.tensors {
            let said = parsed.weight_map.0.get(&tensor);
            if said.is_none_or(|said| said != name) {
                let said = said.map_or("no shard".to_owned(), |s| printable(s));
                bail!(Weights, "{origin}: tensor {} is in '{name}', but the index says {said}", printable(&tensor));
            }
            tensors.insert(tensor, entry);
        }
    }
    if let Some((tensor, file)) = parsed.weight_map.0.iter().find(|(name, _)| !tensors.contains_key(*name)) {
        bail!(Weights, "{origin}: tensor {} should be in {}, but is not", printable(tensor), printable(file));
    }
    Ok(Weights::from_store(Store { origin, format: Format::Sharded, bytes, tensors, metadata: BTreeMap::new() }))
}

fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    // The backslash and the colon are ordinary characters here, but not on Windows.
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(['\\', ':', '/', '\0'])
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor name to shard. A name given twice is an error, where a plain map would keep the last.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to files")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if out.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    if out.contains_key(&name) {
                        return Err(A::Error::custom(format!("the tensor {} twice", printable(&name))));
                    }
                    out.insert(name, file);
                }
                Ok(WeightMap(out))
            }
        }
        d.deserialize_map(V)
    }
}
