//! [`Cursor`]: reading a GGUF header front to back, and its metadata.

use crate::{
    error::{Result, bail, ensure},
    weights::store::printable,
};
use std::fmt;

/// The longest key or tensor name: what the format allows a key.
const MAX_NAME: u64 = 65_535;

/// A value of a file's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Meta {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A float of either width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A string.
    Text(String),
    /// An array, by its length. The elements are not kept: they are vocabularies.
    Array(u64),
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(n) => n.fmt(f),
            Self::Signed(n) => n.fmt(f),
            Self::Float(x) => x.fmt(f),
            Self::Bool(b) => b.fmt(f),
            Self::Text(text) => f.write_str(&printable(text)),
            Self::Array(count) => write!(f, "an array of {count}"),
        }
    }
}

/// A place in the header. Whatever is taken is there; nothing is allocated from a length that was not checked.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let count = usize::try_from(count).ok().filter(|n| *n <= rest.len());
        let Some(count) = count else {
            bail!(Weights, "the header ends after {} bytes: truncated, or not a GGUF file", self.bytes.len());
        };
        self.at += count;
        Ok(&rest[..count])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length and as many bytes.
    fn text_bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.u64()?;
        self.take(length)
    }

    /// A metadata key or the name of a tensor.
    pub(super) fn name(&mut self) -> Result<String> {
        let at = self.at;
        let length = self.u64()?;
        ensure!(length <= MAX_NAME, Weights, "a name of {length} bytes at byte {at}: damaged?");
        match std::str::from_utf8(self.take(length)?) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => bail!(Weights, "the name at byte {at} is not UTF-8"),
        }
    }

    /// A value of metadata type `kind`.
    pub(super) fn value(&mut self, kind: u32) -> Result<Meta> {
        Ok(match kind {
            0 => Meta::Unsigned(self.array::<1>()?[0].into()),
            1 => Meta::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Meta::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Meta::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Meta::Unsigned(self.u32()?.into()),
            5 => Meta::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Meta::Float(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array::<1>()? {
                [0] => Meta::Bool(false),
                [1] => Meta::Bool(true),
                [other] => bail!(Weights, "a boolean of value {other}"),
            },
            8 => match std::str::from_utf8(self.text_bytes()?) {
                Ok(text) => Meta::Text(text.to_owned()),
                Err(_) => bail!(Weights, "a string that is not UTF-8"),
            },
            9 => self.skip_array()?,
            10 => Meta::Unsigned(self.u64()?),
            11 => Meta::Signed(i64::from_le_bytes(self.array()?)),
            12 => Meta::Float(f64::from_le_bytes(self.array()?)),
            other => bail!(Weights, "a value of the unknown type {other}"),
        })
    }

    fn skip_array(&mut self) -> Result<Meta> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                // Each takes the eight bytes of its length at least, so the header's end ends the loop.
                for _ in 0..count {
                    self.text_bytes()?;
                }
                return Ok(Meta::Array(count));
            }
            9 => bail!(Weights, "an array of arrays"),
            other => bail!(Weights, "an array of the unknown type {other}"),
        };
        self.take(count.saturating_mul(size))?;
        Ok(Meta::Array(count))
    }
}
