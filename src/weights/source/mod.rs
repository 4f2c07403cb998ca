//! From what a person calls a model to files on this machine: a path, a short name, or an id on the Hugging Face Hub.

mod catalog;
#[cfg(feature = "hub")]
mod hub;
#[cfg(all(test, feature = "hub"))]
mod tests;

pub use catalog::{MODELS, Model};

use crate::error::{Result, bail, ensure};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file, by its name in the repository.
    pub file: &'a str,
    /// Bytes on this machine, with those of an earlier, cut download.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What is called with every piece of a download.
pub type OnProgress = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// Where and how models are looked for. [`Options::from_env`] follows the environment as `huggingface_hub` does.
#[derive(Clone)]
pub struct Options {
    /// The Hub, or a mirror of it.
    pub endpoint: String,
    /// What identifies the user to the Hub.
    pub token: Option<String>,
    /// The folder of the on-disk cache, laid out as `huggingface_hub` does (`models--ORG--NAME/snapshots/...`).
    pub cache: PathBuf,
    /// Use the cache only.
    pub offline: bool,
    /// Ask the Hub for a newer revision even if one is in the cache.
    pub refresh: bool,
    /// Is told of downloads.
    pub progress: Option<OnProgress>,
}

impl Options {
    /// The environment's: `HF_ENDPOINT`, `HF_TOKEN` (or `HF_TOKEN_PATH`, or the file `token` that `hf auth login`
    /// writes, unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`), `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// [`from_env`](Self::from_env) with the environment given as a function.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let flag = |name: &str| {
            get(name).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
        };
        let home = get("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
                let home = get("HOME").or_else(|| get("USERPROFILE"))?;
                Some(PathBuf::from(home).join(".cache"))
            });
            cache.unwrap_or_else(std::env::temp_dir).join("huggingface")
        });
        let token_file = || {
            let path = get("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| home.join("token"));
            std::fs::read_to_string(path).ok()
        };
        let implicit = |token: Option<String>| token.filter(|_| !flag("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let token = get("HF_TOKEN").or_else(|| implicit(token_file()));
        let cache = get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        Self {
            endpoint: get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            offline: flag("HF_HUB_OFFLINE"),
            refresh: false,
            progress: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .field("refresh", &self.refresh)
            .finish_non_exhaustive()
    }
}

/// What a name means, before anything is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Path(PathBuf),
    Hub { id: String, revision: String },
}

/// The file or folder that `name` stands for: an existing path, a short name of [`MODELS`], or a Hub id
/// `ORG/NAME[@REVISION]`, which is downloaded unless it is in the cache. [`Weights::open`](super::Weights::open)
/// takes the result.
///
/// # Errors
/// `NotFound` if there is no such file, model or revision, or offline none in the cache; `Gated` if the Hub wants a
/// token or an accepted licence; `Network`; `Io`. The messages say what to do.
pub fn resolve(name: &str, options: &Options) -> Result<PathBuf> {
    find(name, options, false)
}

/// [`resolve`] for a pipeline as diffusers saves one, with `model_index.json`: of a repository that is one, the files of
/// FLUX's parts are fetched, and the result is the folder of them all.
///
/// # Errors
/// Those of [`resolve`].
pub fn resolve_pipeline(name: &str, options: &Options) -> Result<PathBuf> {
    find(name, options, true)
}

fn find(name: &str, options: &Options, pipeline: bool) -> Result<PathBuf> {
    match parse(name)? {
        Named::Path(path) => Ok(path),
        #[cfg(feature = "hub")]
        Named::Hub { id, revision } => hub::resolve(&id, &revision, options, pipeline),
        #[cfg(not(feature = "hub"))]
        Named::Hub { id, .. } => {
            let _ = (options, pipeline);
            bail!(NotFound, "no file '{name}', and this build cannot fetch '{id}' (it lacks the feature `hub`)")
        }
    }
}

/// Where the model `name` is on this machine, without asking the network.
///
/// # Errors
/// `NotFound` if it is not there.
pub fn path(name: &str, options: &Options) -> Result<PathBuf> {
    resolve(name, &Options { offline: true, ..options.clone() })
}

fn parse(name: &str) -> Result<Named> {
    ensure!(!name.is_empty(), Argument, "the model's name is empty");
    if Path::new(name).exists() {
        return Ok(Named::Path(PathBuf::from(name)));
    }
    ensure!(name != "mini", Argument, "the model 'mini' is part of the program and has no file");
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    if let Some(model) = Model::find(id) {
        return hub_name(model.id, revision);
    }
    let looks_like_file = name.starts_with(['.', '/', '~', '\\'])
        || name.contains('\\')
        || [".safetensors", ".gguf", ".pt", ".pth", ".json"].iter().any(|ending| name.ends_with(ending));
    let parts: Vec<&str> = id.split('/').collect();
    if looks_like_file || parts.len() != 2 || !parts.iter().all(|part| is_id_part(part)) {
        let known: Vec<&str> = MODELS.iter().filter_map(|m| m.short.first().copied()).collect();
        bail!(
            NotFound,
            "there is no file or folder '{name}', nor is it the name of a model (mini, {}) or a Hub id (ORG/NAME)",
            known.join(", ")
        );
    }
    hub_name(id, revision)
}

fn hub_name(id: &str, revision: &str) -> Result<Named> {
    // Revisions become parts of a URL and of a path in the cache.
    let fine = !revision.is_empty() && revision.split('/').all(is_id_part) && revision.len() <= 256;
    ensure!(fine, Argument, "'{revision}' is not a revision: expected a branch, a tag or a commit");
    Ok(Named::Hub { id: id.to_owned(), revision: revision.to_owned() })
}

/// A part of an id as the Hub allows it, which is also harmless as the name of a folder.
fn is_id_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && part.len() <= 96 && part.chars().all(allowed) && !part.starts_with('.') && !part.contains("..")
}
