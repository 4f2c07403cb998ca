//! The GGUF format, versions 2 and 3: a header of metadata and tensor infos, then the tensors, aligned.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Axes are stored innermost first, as ggml
//! counts them; [`Entry`] has them outermost first, like everything else here.

mod cursor;

pub use cursor::Meta;

use super::{
    Bytes, Entry, HostDType,
    dtype::byte_count,
    store::{MAX_TENSORS, Tensors, printable},
    tensor::dims,
};
use crate::{
    error::{Context, Result, bail, ensure},
    quant::BlockFormat,
};
use cursor::Cursor;
use std::collections::BTreeMap;

/// As ggml's `GGML_MAX_DIMS`.
const MAX_AXES: u32 = 4;
/// Where `general.alignment` is not given.
const ALIGNMENT: u64 = 32;

/// The tensors of a GGUF file, each a slice of `file`, and its metadata.
///
/// # Errors
/// `Weights` for whatever is wrong with the header, and for element types that are not read, with the tensor's name.
pub(super) fn read(file: &Bytes) -> Result<(Tensors, BTreeMap<String, Meta>)> {
    let mut cursor = Cursor { bytes: file, at: 4 };
    match cursor.u32()? {
        2 | 3 => {}
        1 => bail!(Weights, "GGUF version 1, of before August 2023: convert the model again"),
        version if (1..=3).contains(&version.swap_bytes()) => {
            bail!(Weights, "a big-endian GGUF file; impasto reads little-endian")
        }
        version => bail!(Weights, "GGUF version {version}; impasto reads 2 and 3"),
    }
    let (tensor_count, meta_count) = (cursor.u64()?, cursor.u64()?);
    for (count, what) in [(tensor_count, "tensors"), (meta_count, "metadata entries")] {
        ensure!(count <= MAX_TENSORS as u64, Weights, "{count} {what}: damaged, or no model");
    }

    let mut metadata = BTreeMap::new();
    for i in 0..meta_count {
        let key = cursor.name().context(|| format!("metadata entry {i}"))?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind).context(|| format!("metadata {}", printable(&key)))?;
        if metadata.contains_key(&key) {
            bail!(Weights, "the metadata has {} twice", printable(&key));
        }
        metadata.insert(key, value);
    }
    check_split(&metadata)?;
    let infos = (0..tensor_count).map(|i| Info::read(&mut cursor).context(|| format!("tensor {i}")));
    let infos = infos.collect::<Result<Vec<Info>>>()?;
    Ok((tensors(file, cursor.at, alignment(&metadata)?, infos)?, metadata))
}

fn alignment(metadata: &BTreeMap<String, Meta>) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(Meta::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 30 => Ok(*n),
        Some(other) => bail!(Weights, "an alignment of {other}, which is no power of two"),
    }
}

fn check_split(metadata: &BTreeMap<String, Meta>) -> Result<()> {
    match metadata.get("split.count") {
        Some(Meta::Unsigned(count)) if *count > 1 => {
            bail!(Weights, "one of {count} parts of a model; join them with 'llama-gguf-split --merge'")
        }
        _ => Ok(()),
    }
}

/// What the header tells of a tensor.
struct Info {
    name: String,
    dtype: HostDType,
    shape: Vec<usize>,
    offset: u64,
}

impl Info {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let name = cursor.name()?;
        let shown = printable(&name);
        let rank = cursor.u32()?;
        ensure!(rank <= MAX_AXES, Weights, "{shown} has {rank} axes; the format allows {MAX_AXES}");
        let axes = (0..rank).map(|_| cursor.u64()).collect::<Result<Vec<u64>>>()?;
        let Ok(shape) = axes.iter().rev().map(|n| usize::try_from(*n)).collect::<std::result::Result<Vec<_>, _>>()
        else {
            bail!(Weights, "{shown}: an axis of {axes:?} is beyond this machine's memory");
        };
        let (code, offset) = (cursor.u32()?, cursor.u64()?);
        let dtype = match element_type(code) {
            Ok(dtype) => dtype,
            Err(what) => bail!(
                Weights,
                "{shown} is of the type {what}, which impasto does not read; it reads F32, F16, BF16, {}",
                BlockFormat::ALL.map(|f| f.to_string()).join(", ")
            ),
        };
        let row = shape.last().copied().unwrap_or(1);
        ensure!(
            row.is_multiple_of(dtype.block()),
            Weights,
            "{shown}: rows of {row} are no whole blocks of {dtype}, which have {} elements",
            dtype.block()
        );
        Ok(Self { name, dtype, shape, offset })
    }
}

/// Slices of the file, after the checks that all are inside it, in order, and apart only by the padding that the
/// alignment asks for (as ggml checks it).
fn tensors(file: &Bytes, header: usize, alignment: u64, mut infos: Vec<Info>) -> Result<Tensors> {
    // All sums are of a position in the file and less than 2^31 more, or checked.
    let padded = |at: u64| at.next_multiple_of(alignment);
    let data = padded(header as u64);
    let mut sized = Vec::with_capacity(infos.len());
    for info in infos.drain(..) {
        let (shown, at) = (printable(&info.name), info.offset);
        ensure!(at.is_multiple_of(alignment), Weights, "tensor {shown}: the offset {at} is not aligned to {alignment}");
        let Some(size) = byte_count(&info.shape, info.dtype) else {
            bail!(Weights, "tensor {shown}: the size of {} {} overflows", dims(&info.shape), info.dtype);
        };
        let end = data.checked_add(at).and_then(|start| start.checked_add(size as u64));
        let Some(end) = end.filter(|end| *end <= file.len() as u64) else {
            bail!(Weights, "tensor {shown}: {size} bytes at {at} leave the file of {} bytes: truncated?", file.len());
        };
        sized.push((end - size as u64..end, info));
    }
    sized.sort_by_key(|(range, _)| (range.start, range.end));
    let (mut tensors, mut next) = (Tensors::new(), data);
    for (range, info) in sized {
        let (shown, start) = (printable(&info.name), range.start);
        ensure!(start >= next, Weights, "tensor {shown} at byte {start} overlaps the one before, which ends at {next}");
        ensure!(start == next, Weights, "a gap of {} bytes before tensor {shown}", start - next);
        next = padded(range.end);
        let slice = file.slice(range.start as usize..range.end as usize);
        let Some(slice) = slice else { bail!(Internal, "tensor {shown} leaves the file") };
        if tensors.contains_key(&info.name) {
            bail!(Weights, "the header names the tensor {shown} twice");
        }
        tensors.insert(info.name, Entry { dtype: info.dtype, shape: info.shape, data: slice, strides: None });
    }
    Ok(tensors)
}

/// The type with ggml's number `code` (`enum ggml_type`), or the name of one that is not read.
fn element_type(code: u32) -> std::result::Result<HostDType, String> {
    Ok(match code {
        0 => HostDType::F32,
        1 => HostDType::F16,
        2 => HostDType::Block(BlockFormat::Q4_0),
        3 => HostDType::Block(BlockFormat::Q4_1),
        6 => HostDType::Block(BlockFormat::Q5_0),
        7 => HostDType::Block(BlockFormat::Q5_1),
        8 => HostDType::Block(BlockFormat::Q8_0),
        12 => HostDType::Block(BlockFormat::Q4_K),
        13 => HostDType::Block(BlockFormat::Q5_K),
        14 => HostDType::Block(BlockFormat::Q6_K),
        24 => HostDType::I8,
        25 => HostDType::I16,
        26 => HostDType::I32,
        27 => HostDType::I64,
        28 => HostDType::F64,
        30 => HostDType::BF16,
        other => return Err(OTHERS.iter().find(|(n, _)| *n == other).map_or(format!("{other}"), |o| o.1.to_owned())),
    })
}

const OTHERS: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];
