//! The safetensors format: eight bytes of header length, a JSON header, the tensors.
//!
//! The checks go further than the `safetensors` crate's, and nothing is allocated from a length that was not
//! checked against the bytes there are. Format: <https://github.com/huggingface/safetensors#format>.

use super::{
    Bytes, Entry, HostDType, Meta,
    dtype::byte_count,
    store::{MAX_RANK, MAX_TENSORS, Tensors, printable},
    tensor::dims,
};
use crate::error::{ErrorKind, IntoError, Result, bail, ensure};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::{collections::BTreeMap, fmt};

/// The largest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// The tensors of a safetensors file, each a slice of `file`, and the texts of its metadata.
///
/// # Errors
/// `Weights` for whatever is wrong with the header, with the names and figures.
pub(super) fn read(file: &Bytes) -> Result<(Tensors, BTreeMap<String, Meta>)> {
    let Some((length, _)) = file.split_first_chunk::<8>() else {
        bail!(Weights, "{} bytes are too few for a safetensors file", file.len());
    };
    let length = u64::from_le_bytes(*length);
    ensure!(length <= MAX_HEADER, Weights, "the header would be {length} bytes: damaged, or not a safetensors file");
    let data_start = 8 + length as usize;
    ensure!(
        data_start <= file.len(),
        Weights,
        "the header would be {length} bytes, but the file ends after {}: truncated, or not a safetensors file",
        file.len()
    );
    let json = &file[8..data_start];
    ensure!(json.first() == Some(&b'{'), Weights, "the header is not a JSON object: not a safetensors file");
    let Header { infos, metadata } =
        serde_json::from_slice(json).error(ErrorKind::Weights, || "the safetensors header cannot be read")?;
    check_layout(&infos, file.len() - data_start)?;

    let mut tensors = BTreeMap::new();
    for (name, info) in infos {
        let range = data_start + info.offsets.0..data_start + info.offsets.1;
        let Some(data) = file.slice(range) else { bail!(Weights, "tensor {} leaves the file", printable(&name)) };
        let entry = Entry { dtype: info.dtype, shape: info.shape, data, strides: None };
        if tensors.contains_key(&name) {
            bail!(Weights, "the header names the tensor {} twice", printable(&name));
        }
        tensors.insert(name, entry);
    }
    Ok((tensors, metadata))
}

/// Every tensor has the size of its shape, and together they cover the data exactly: no overlap, gap or rest.
fn check_layout(infos: &[(String, Info)], data_len: usize) -> Result<()> {
    for (name, info) in infos {
        let (start, end) = info.offsets;
        let name = printable(name);
        ensure!(start <= end, Weights, "tensor {name}: the offsets {start}..{end} run backwards");
        ensure!(
            end <= data_len,
            Weights,
            "tensor {name}: the offsets {start}..{end} leave the {data_len} bytes of data: truncated?"
        );
        let Some(size) = byte_count(&info.shape, info.dtype) else {
            bail!(Weights, "tensor {name}: the size of {} {} overflows", dims(&info.shape), info.dtype);
        };
        ensure!(
            size == end - start,
            Weights,
            "tensor {name}: {} {} takes {size} bytes, the offsets {start}..{end} give {}",
            dims(&info.shape),
            info.dtype,
            end - start
        );
    }
    let mut order: Vec<usize> = (0..infos.len()).collect();
    order.sort_unstable_by_key(|&i| infos[i].1.offsets);
    let mut at = 0;
    for i in order {
        let (name, info) = &infos[i];
        let (start, end) = info.offsets;
        ensure!(
            start >= at,
            Weights,
            "tensor {} at {start} overlaps the one before, which ends at {at}",
            printable(name)
        );
        ensure!(start == at, Weights, "a gap of {} bytes before tensor {}", start - at, printable(name));
        at = end;
    }
    ensure!(at == data_len, Weights, "{} bytes after the last tensor belong to none", data_len - at);
    Ok(())
}

struct Header {
    /// In the order of the file; duplicate names are found later.
    infos: Vec<(String, Info)>,
    metadata: BTreeMap<String, Meta>,
}

struct Info {
    dtype: HostDType,
    shape: Vec<usize>,
    offsets: (usize, usize),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut tensors, mut metadata) = (Vec::new(), None);
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let texts = map.next_value::<Texts>()?;
                        if metadata.replace(texts.0).is_some() {
                            return Err(A::Error::custom("two entries '__metadata__'"));
                        }
                        continue;
                    }
                    if tensors.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    let info = map.next_value::<RawInfo>()?;
                    let info =
                        info.check().map_err(|e| A::Error::custom(format!("tensor {}: {e}", printable(&name))))?;
                    tensors.push((name, info));
                }
                Ok(Header { infos: tensors, metadata: metadata.unwrap_or_default() })
            }
        }
        d.deserialize_map(V)
    }
}

/// The entries of the metadata that are texts, as the format wants all of them.
struct Texts(BTreeMap<String, Meta>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<String, serde_json::Value>::deserialize(d)?;
        let text = |(key, value): (_, _)| match value {
            serde_json::Value::String(text) => Some((key, Meta::Text(text))),
            _ => None,
        };
        Ok(Self(all.into_iter().filter_map(text).collect()))
    }
}

#[derive(serde::Deserialize)]
struct RawInfo {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl RawInfo {
    fn check(self) -> Result<Info, String> {
        let dtype = HostDType::from_name(&self.dtype)
            .ok_or_else(|| format!("the element type {} is not one that impasto reads", printable(&self.dtype)))?;
        let (start, end) = self.data_offsets;
        let offset = |x: u64| usize::try_from(x).map_err(|_| format!("the offset {x} is beyond this machine's memory"));
        Ok(Info { dtype, shape: self.shape.0, offsets: (offset(start)?, offset(end)?) })
    }
}

/// A shape that stops reading at the ninth axis instead of collecting however many there are.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {MAX_RANK} axes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(axis) = seq.next_element()? {
                    if shape.len() == MAX_RANK {
                        return Err(A::Error::custom(format!("a shape of more than {MAX_RANK} axes")));
                    }
                    shape.push(axis);
                }
                Ok(Shape(shape))
            }
        }
        d.deserialize_seq(V)
    }
}
