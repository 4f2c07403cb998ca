//! PyTorch's `torch.save` files, read without Python: a zip archive with a pickle and one entry a storage.
//!
//! Layout: `torch/serialization.py` (`_save`): `NAME/data.pkl`, `NAME/byteorder`, `NAME/data/KEY`.

mod pickle;
mod rebuild;
mod zip;

use super::{
    Bytes, Entry,
    store::{MAX_TENSORS, Tensors, printable},
};
use crate::error::{Context, Result, bail, ensure};
use pickle::{Pickle, Value};
use rebuild::TensorRef;
use zip::Archive;

/// The keys under which training scripts put the state dict; the official SAM 2 release uses the first.
const WRAPPERS: [&str; 2] = ["model", "state_dict"];

/// The tensors of a `torch.save` file, each a slice of `file`.
///
/// # Errors
/// `Weights` for a damaged archive, for a pickle that asks for anything but tensors, and for one that has none.
pub(super) fn read(file: &Bytes) -> Result<Tensors> {
    let archive = Archive::read(file)?;
    let root = archive.root()?.to_owned();
    if let Some(order) = archive.get(file, &format!("{root}/byteorder")) {
        ensure!(
            &*order == b"little",
            Weights,
            "the tensors are not little-endian but {:?}",
            String::from_utf8_lossy(order.get(..16).unwrap_or(&order))
        );
    }
    let Some(pickled) = archive.get(file, &format!("{root}/data.pkl")) else {
        bail!(Internal, "data.pkl was there a moment ago");
    };
    let pickle = Pickle::load(&pickled)?;
    let mut tensors = Tensors::new();
    for (key, value) in state_dict(&pickle)? {
        let (Value::Str(name), Some(tensor)) = (*key, pickle.tensor(*value)) else { continue };
        ensure!(tensors.len() < MAX_TENSORS, Weights, "more than {MAX_TENSORS} tensors");
        let entry = entry(file, &archive, &root, tensor).context(|| format!("tensor {}", printable(name)))?;
        if tensors.insert(name.to_owned(), entry).is_some() {
            bail!(Weights, "two tensors are called {}", printable(name));
        }
    }
    Ok(tensors)
}

/// The dict that holds the tensors: the outermost one, or the one under a key of [`WRAPPERS`] in it.
fn state_dict<'a, 'p>(pickle: &'a Pickle<'p>) -> Result<&'a [(Value<'p>, Value<'p>)]> {
    let Some(outer) = pickle.dict(pickle.root) else {
        bail!(Weights, "the file holds something other than a dict: no state dict");
    };
    let has_tensors = |pairs: &[(Value<'p>, Value<'p>)]| pairs.iter().any(|(_, v)| pickle.tensor(*v).is_some());
    for wrapper in WRAPPERS {
        let inner = outer.iter().find(|(key, _)| *key == Value::Str(wrapper)).and_then(|(_, v)| pickle.dict(*v));
        if let Some(inner) = inner.filter(|inner| has_tensors(inner)) {
            return Ok(inner);
        }
    }
    if has_tensors(outer) {
        return Ok(outer);
    }
    let keys: Vec<String> = outer
        .iter()
        .take(8)
        .map(|(key, _)| if let Value::Str(key) = key { printable(key) } else { "?".to_owned() })
        .collect();
    bail!(Weights, "no tensors in the dict, nor under \"model\" or \"state_dict\" in it; its keys: {}", keys.join(", "))
}

fn entry(file: &Bytes, archive: &Archive, root: &str, tensor: &TensorRef<'_>) -> Result<Entry> {
    let storage = &tensor.storage;
    let Some(bytes) = archive.get(file, &format!("{root}/data/{}", storage.key)) else {
        bail!(Weights, "its storage {} is not in the archive", printable(storage.key));
    };
    let size = storage.dtype.size();
    ensure!(
        storage.count.checked_mul(size) == Some(bytes.len()),
        Weights,
        "its storage is said to hold {} {} but has {} bytes",
        storage.count,
        storage.dtype,
        bytes.len()
    );
    // `rebuild` has checked that every element is inside the storage, so neither product overflows.
    let start = tensor.offset * size;
    let end = match tensor.strides {
        None => start + size * tensor.shape.iter().product::<usize>(),
        Some(_) => bytes.len(),
    };
    match bytes.slice(start..end) {
        Some(data) => {
            Ok(Entry { dtype: storage.dtype, shape: tensor.shape.clone(), data, strides: tensor.strides.clone() })
        }
        None => bail!(Weights, "it leaves its storage"),
    }
}
