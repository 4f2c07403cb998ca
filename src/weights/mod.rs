//! Weight files: a path you walk, asked for a tensor by name with the shape you expect.
//!
//! ```no_run
//! # fn main() -> impasto::Result<()> {
//! let weights = impasto::weights::Weights::open("sam2.1-hiera-tiny".as_ref())?;
//! let attn = weights.at("image_encoder.trunk.blocks").at(3).at("attn");
//! let qkv = attn.get("qkv.weight", &[576, 192])?;
//! # Ok(()) }
//! ```
//!
//! Formats: safetensors (one file, or shards with their index; fp8 with scales too), GGUF, and `torch.save` files (a
//! restricted reader that runs no code). Tensors are slices of a memory map; [`HostTensor`] converts them a bounded
//! piece at a time.
//! Foreign names are translated by a [`Names`] table, one per model, by name and never by order.

mod bytes;
mod digest;
mod dtype;
mod expect;
mod gguf;
mod names;
#[cfg(not(target_arch = "wasm32"))]
mod open;
mod quantize;
mod safetensors;
mod scaled;
#[cfg(not(target_arch = "wasm32"))]
pub mod source;
mod store;
mod tensor;
#[cfg(test)]
mod tests;
mod torch;

pub use bytes::Bytes;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use digest::Fnv;
pub use dtype::HostDType;
pub use gguf::Meta;
pub use names::{Alias, Names, Rule};
pub use quantize::{quantize_f16, quantize_q4, quantize_q8};
pub use store::Format;
pub use tensor::HostTensor;

use crate::error::{Context, Result, bail, ensure};
use std::{collections::BTreeMap, fmt, sync::Arc};
use store::{Entry, Tensors, nearest, printable};

/// A set of tensors and a place in the tree of their names. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Weights {
    store: Arc<Store>,
    names: Names,
    prefix: String,
}

struct Store {
    /// Where the tensors came from, for messages.
    origin: String,
    format: Format,
    /// Bytes of the files.
    bytes: u64,
    tensors: Tensors,
    metadata: BTreeMap<String, Meta>,
}

/// What [`Weights::summary`] tells.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The file format.
    pub format: Format,
    /// Bytes of the files.
    pub bytes: u64,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Tensors and elements by type.
    pub dtypes: BTreeMap<HostDType, (usize, u64)>,
    /// Name, type and shape of every tensor, under the file's own names.
    pub tensors: Vec<(String, HostDType, Vec<usize>)>,
    /// What a GGUF or safetensors file says about itself; empty for the others.
    pub metadata: BTreeMap<String, Meta>,
}

impl Weights {
    /// Opens a weight file or a folder with a model, whatever the format: it is told by the content, not the name.
    ///
    /// In a folder, in this order: `model.safetensors`, `model.safetensors.index.json` and the shards it names, the
    /// same under diffusers' name `diffusion_pytorch_model`, the only `.safetensors` file, the only `.gguf` file, the
    /// only `.pt` file.
    ///
    /// # Errors
    /// `NotFound` if there is nothing of the kind, `Weights` if it is damaged, hostile or incomplete, `Io`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &std::path::Path) -> Result<Self> {
        open::open(path)
    }

    /// The weights in `bytes`: the content of a safetensors, GGUF or `.pt` file, embedded in the program or fetched.
    ///
    /// # Errors
    /// `Weights` if the bytes are no such file, or a damaged or hostile one.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        Self::read(&bytes.into(), "embedded weights".to_owned())
    }

    fn read(file: &Bytes, origin: String) -> Result<Self> {
        let Read { format, tensors, metadata } = read_any(file).context(|| origin.clone())?;
        Ok(Self::from_store(Store { origin, format, bytes: file.len() as u64, tensors, metadata }))
    }

    /// Zeros under these names, of these shapes: a model to record and to measure, not one to use. They share memory.
    ///
    /// # Errors
    /// `Weights` if a size overflows.
    pub fn blank(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Result<Self> {
        let tensors: Vec<(String, Vec<usize>)> = tensors.into_iter().collect();
        let sizes = tensors.iter().map(|(_, shape)| dtype::byte_count(shape, HostDType::F32));
        let Some(sizes) = sizes.collect::<Option<Vec<usize>>>() else { bail!(Weights, "a tensor's size overflows") };
        let zeros = Bytes::from(vec![0u8; sizes.iter().copied().max().unwrap_or(0)]);
        let entry = |shape, size| {
            let data = zeros.slice(0..size).unwrap_or_else(|| zeros.clone());
            Entry { dtype: HostDType::F32, shape, data, strides: None }
        };
        let tensors = tensors.into_iter().zip(sizes).map(|((name, shape), size)| (name, entry(shape, size))).collect();
        let (origin, format) = ("blank weights".to_owned(), Format::SafeTensors);
        Ok(Self::from_store(Store { origin, format, bytes: 0, tensors, metadata: BTreeMap::new() }))
    }

    fn from_store(store: Store) -> Self {
        Self { store: Arc::new(store), names: Names::default(), prefix: String::new() }
    }

    /// The same tensors under other names: `names` translates ours to the file's.
    pub fn renamed(&self, names: Names) -> Self {
        Self { names, ..self.clone() }
    }

    /// The place `step` below this one: a name, several joined by dots, or an index.
    pub fn at(&self, step: impl fmt::Display) -> Self {
        Self { prefix: self.full(&step.to_string()), ..self.clone() }
    }

    /// The path walked so far, empty at the top.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where the tensors came from: the path that was opened.
    pub fn origin(&self) -> &str {
        &self.store.origin
    }

    /// The tensor `name` below this place, which must have exactly this `shape`.
    ///
    /// # Errors
    /// `Weights` if there is no such tensor (with the nearest names) or its shape is another; both messages give our
    /// name and the file's.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let tensor = self.tensor(name)?;
        if tensor.shape() != shape {
            bail!(
                Weights,
                "{}: tensor {}: expected {}, found {} {}",
                self.store.origin,
                self.both_names(&self.full(name)),
                tensor::dims(shape),
                tensor::dims(tensor.shape()),
                tensor.dtype()
            );
        }
        Ok(tensor)
    }

    /// The tensor `name` below this place, whatever its shape.
    ///
    /// # Errors
    /// As [`get`](Self::get), but for the shape.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let full = self.full(name);
        let Some((alias, entry)) = self.find(&full) else { return Err(self.missing(&full)) };
        let mut tensor = HostTensor::new(full, &entry.shape, entry.dtype, entry.contiguous()?)?;
        let scales = scaled::scales(&self.store.tensors, &alias.name, entry)?;
        if !scales.is_empty() {
            tensor = tensor.scaled(scales)?;
        }
        match alias.row {
            Some(row) => tensor.rows(row..row + 1),
            None => Ok(tensor),
        }
    }

    /// Whether there is a tensor `name` below this place.
    pub fn has(&self, name: &str) -> bool {
        self.find(&self.full(name)).is_some()
    }

    /// The shape of the tensor `name` below this place, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (alias, entry) = self.find(&self.full(name))?;
        let mut shape = entry.shape.clone();
        if alias.row.is_some() {
            shape[0] = 1;
        }
        Some(shape)
    }

    /// The names of all tensors below this place, relative to it, sorted.
    pub fn names(&self) -> Vec<String> {
        let below = |full: &str| -> Option<String> {
            let rest = full.strip_prefix(&self.prefix)?;
            if self.prefix.is_empty() { Some(rest.to_owned()) } else { rest.strip_prefix('.').map(str::to_owned) }
        };
        let mut names: Vec<String> = self.all_names().iter().filter_map(|n| below(n)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// What a file says of itself under `key`, like `general.architecture` (GGUF) or `format` (safetensors, texts only);
    /// other formats say nothing, nor do shards.
    pub fn metadata(&self, key: &str) -> Option<&Meta> {
        self.store.metadata.get(key)
    }

    /// Format, size, types and the list of tensors, under the file's own names.
    pub fn summary(&self) -> Summary {
        let mut dtypes = BTreeMap::new();
        let mut tensors = Vec::new();
        let mut parameters = 0;
        for (name, entry) in &self.store.tensors {
            let count = entry.shape.iter().product::<usize>() as u64;
            let of_type: &mut (usize, u64) = dtypes.entry(entry.dtype).or_default();
            *of_type = (of_type.0 + 1, of_type.1 + count);
            parameters += count;
            tensors.push((name.clone(), entry.dtype, entry.shape.clone()));
        }
        let (format, bytes, metadata) = (self.store.format, self.store.bytes, self.store.metadata.clone());
        Summary { format, bytes, parameters, dtypes, tensors, metadata }
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn find(&self, full: &str) -> Option<(Alias, &Entry)> {
        self.names.to_file(full).into_iter().find_map(|alias| {
            let entry = self.store.tensors.get(&alias.name)?;
            let row_exists = alias.row.is_none_or(|row| entry.shape.first().is_some_and(|rows| row < *rows));
            row_exists.then_some((alias, entry))
        })
    }

    fn all_names(&self) -> Vec<String> {
        let entries = self.store.tensors.iter();
        entries.flat_map(|(name, e)| self.names.to_ours(name, e.shape.first().copied().unwrap_or(0))).collect()
    }

    /// `'ours' ('theirs' in the file)`, or only one where they agree.
    fn both_names(&self, full: &str) -> String {
        let aliases = self.names.to_file(full);
        let alias = aliases.iter().find(|a| self.store.tensors.contains_key(&a.name)).or(aliases.first());
        match alias {
            Some(Alias { name, row: None }) if name == full => format!("'{full}'"),
            Some(Alias { name, row: None }) => format!("'{full}' ('{name}' in the file)"),
            Some(Alias { name, row: Some(row) }) => format!("'{full}' (row {row} of '{name}' in the file)"),
            None => format!("'{full}'"),
        }
    }

    #[cold]
    fn missing(&self, full: &str) -> crate::Error {
        let all = self.all_names();
        let near = nearest(full, all.iter().map(String::as_str));
        let near = match near.is_empty() {
            true => format!("none of its {} names is like it", all.len()),
            false => {
                format!("the nearest names are {}", near.iter().map(|n| printable(n)).collect::<Vec<_>>().join(", "))
            }
        };
        let message = format!("{}: no tensor {}; {near}", self.store.origin, self.both_names(full));
        crate::Error::new(crate::ErrorKind::Weights, message)
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({}, {} tensors, at '{}')", self.store.origin, self.store.tensors.len(), self.prefix)
    }
}

/// What a reader makes of a file.
struct Read {
    format: Format,
    tensors: Tensors,
    metadata: BTreeMap<String, Meta>,
}

/// Reads a file by what it is, and says what it is where that is nothing we read.
fn read_any(file: &Bytes) -> Result<Read> {
    ensure!(!file.is_empty(), Weights, "the file is empty");
    // Before all else: a safetensors file begins with a length, whose bytes can spell the magic of any other format.
    if file.get(4..9) == Some(b"\0\0\0\0{") {
        return read_safetensors(file);
    }
    if file.starts_with(b"GGUF") {
        let (tensors, metadata) = gguf::read(file)?;
        return Ok(Read { format: Format::Gguf, tensors, metadata });
    }
    if file.starts_with(b"PK") {
        return Ok(Read { format: Format::Torch, tensors: torch::read(file)?, metadata: BTreeMap::new() });
    }
    // torch.save before 1.6: a pickle of a magic number, without an archive.
    if file.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") {
        bail!(Weights, "the format of PyTorch before 1.6; load it there and torch.save it again, or use safetensors");
    }
    if file.starts_with(b"version https://git-lfs") {
        bail!(Weights, "a Git LFS pointer, not the file that it stands for: fetch that with 'git lfs pull'");
    }
    if file.starts_with(b"<") {
        bail!(Weights, "a web page, not a weight file: was a download answered with an error?");
    }
    read_safetensors(file)
}

fn read_safetensors(file: &Bytes) -> Result<Read> {
    let (tensors, metadata) = safetensors::read(file)?;
    Ok(Read { format: Format::SafeTensors, tensors, metadata })
}
