//! Models on the Hugging Face Hub: which files, from the cache or the network.
//!
//! The cache is the one that `huggingface_hub` keeps (`models--ORG--NAME/{refs,blobs,snapshots}`), so that what one
//! program has fetched the others find. Protocol: <https://huggingface.co/docs/hub/api> and `huggingface_hub`'s
//! `file_download.py`.

mod client;
mod download;
mod pipeline;

use super::{Options, is_id_part};
use crate::error::{Context, Error, ErrorKind, IntoError, Result, bail, ensure};
use client::Client;
use hf_hub::{Cache, Repo, RepoType};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The folder with the files of a model, or of a pipeline if it may be one: the cached one, or after a download.
pub(super) fn resolve(id: &str, revision: &str, options: &Options, pipeline: bool) -> Result<PathBuf> {
    match cached(options, id, revision, pipeline) {
        Some(Cached { folder, whole }) if options.offline || (whole && !options.refresh) => return Ok(folder),
        _ => {}
    }
    if options.offline {
        bail!(
            NotFound,
            "'{id}' is not in the cache ({}), and the network is not to be used (HF_HUB_OFFLINE or --offline). Fetch it \
             first with 'impasto models pull {id}', or use '--model mini', which needs no network",
            options.cache.display()
        );
    }
    pull(id, revision, options, pipeline).context(|| format!("cannot fetch '{id}'"))
}

fn pull(id: &str, revision: &str, options: &Options, pipeline: bool) -> Result<PathBuf> {
    let client = Client::new(options);
    let info = client.info(id, revision)?;
    // Everything comes from one commit, whatever is pushed to the branch meanwhile.
    let sha = info.sha.as_str();
    ensure!(is_id_part(sha), Network, "the Hub gave {sha:?} for a commit");
    let folder = home(options, id).join("snapshots").join(sha);
    let fetch = |file: &str| download::fetch(&client, options, id, sha, file);
    let is_pipeline = pipeline && info.files.iter().any(|file| file == pipeline::MODEL_INDEX);
    for file in if is_pipeline { pipeline::choose(&info.files) } else { choose(&info.files)? } {
        let path = fetch(file)?;
        if let Some(index) = file.strip_suffix(".safetensors.index.json") {
            let part = index.rfind('/').map_or("", |slash| &index[..=slash]);
            for shard in shards(&path)? {
                fetch(&format!("{part}{shard}"))?;
            }
        }
    }
    let repo = Cache::new(options.cache.clone()).repo(repo(id, revision));
    repo.create_ref(sha).map_err(|e| io_error(&options.cache, e))?;
    Ok(folder)
}

fn repo(id: &str, revision: &str) -> Repo {
    Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned())
}

/// The folder of a model in the cache.
fn home(options: &Options, id: &str) -> PathBuf {
    options.cache.join(repo(id, "main").folder_name())
}

/// The files to fetch of those a repository has: the config first, so that a snapshot with weights has it.
fn choose(files: &[String]) -> Result<Vec<&str>> {
    let has = |name: &str| files.iter().any(|f| f == name);
    let mut chosen: Vec<&str> = Vec::new();
    if has(CONFIG) {
        chosen.push(CONFIG);
    }
    if has(WEIGHTS) {
        chosen.push(WEIGHTS);
    } else if has(INDEX) {
        chosen.push(INDEX);
    } else {
        let at_top = |f: &&String| f.ends_with(".pt") && is_file_name(f);
        let mut checkpoints = files.iter().filter(at_top);
        match (checkpoints.next(), checkpoints.next()) {
            (Some(only), None) => chosen.push(only),
            (None, _) => bail!(
                NotFound,
                "the repository has neither {WEIGHTS} nor {INDEX} nor a .pt file, but {}",
                files.iter().take(12).cloned().collect::<Vec<_>>().join(", ")
            ),
            _ => bail!(NotFound, "the repository has several .pt files and no {WEIGHTS}; download one and name it"),
        }
    }
    Ok(chosen)
}

/// The shards that a downloaded index names.
fn shards(index: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let text = std::fs::read(index).error(ErrorKind::Io, || format!("cannot read '{}'", index.display()))?;
    let parsed: Index = serde_json::from_slice(&text).error(ErrorKind::Weights, || format!("{INDEX} is no index"))?;
    let mut files: Vec<String> = parsed.weight_map.into_values().collect();
    files.sort();
    files.dedup();
    match files.iter().find(|f| !is_file_name(f)) {
        Some(odd) => bail!(Weights, "{INDEX} names the shard {odd:?}, which is no file beside it"),
        None => Ok(files),
    }
}

fn is_file_name(name: &str) -> bool {
    is_id_part(name)
}

struct Cached {
    folder: PathBuf,
    /// The weights and what belongs to them.
    whole: bool,
}

/// The snapshot of a revision in the cache, if it has weights.
fn cached(options: &Options, id: &str, revision: &str, pipeline: bool) -> Option<Cached> {
    let home = home(options, id);
    let is_commit = revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    let sha = if is_commit { revision.to_owned() } else { last_commit(&home, revision)? };
    let folder = home.join("snapshots").join(sha);
    let has_file = |name: &str| folder.join(name).is_file();
    if pipeline && has_file(pipeline::MODEL_INDEX) {
        return pipeline::is_whole(&folder).then_some(Cached { folder, whole: true });
    }
    let config = has_file(CONFIG);
    if has_file(WEIGHTS) {
        return Some(Cached { folder, whole: config });
    }
    if has_file(INDEX) {
        let all = shards(&folder.join(INDEX)).is_ok_and(|files| files.iter().all(|f| has_file(f)));
        return all.then_some(Cached { folder, whole: config });
    }
    let files = std::fs::read_dir(&folder).ok()?;
    let checkpoints =
        files.filter_map(|f| Some(f.ok()?.path())).filter(|f| f.extension().is_some_and(|e| e == "pt") && f.is_file());
    (checkpoints.count() == 1).then_some(Cached { folder, whole: true })
}

/// The commit that a branch or tag stood for when it was last asked about.
fn last_commit(home: &Path, revision: &str) -> Option<String> {
    let sha = std::fs::read_to_string(home.join("refs").join(revision)).ok()?;
    let sha = sha.trim();
    is_id_part(sha).then(|| sha.to_owned())
}

/// A file system error, with what to do where the disk is full.
fn io_error(path: &Path, error: std::io::Error) -> Error {
    let advice = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            ": the disk is full. HF_HOME moves the cache to another"
        }
        std::io::ErrorKind::PermissionDenied => ": not allowed. HF_HOME moves the cache to another place",
        _ => "",
    };
    Error::with_source(ErrorKind::Io, format!("cannot write '{}'{advice}", path.display()), error)
}
