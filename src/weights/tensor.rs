//! [`HostTensor`]: one tensor of a weight file, borrowed from the map, and its conversions.

use super::Bytes;
use crate::error::{Result, ensure};
use half::{bf16, f16};
use std::fmt;

/// The element types that weight files hold, under the names that safetensors gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostDType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// IEEE double.
    F64,
    /// 8-bit float, 4 exponent and 3 mantissa bits, no infinity (the `fn` variant).
    F8E4M3,
    /// 8-bit float, the upper half of an IEEE half.
    F8E5M2,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
    /// A byte that is 0 or 1.
    Bool,
}

impl HostDType {
    /// Every element type that can be read.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F64,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::I8,
        Self::U8,
        Self::I16,
        Self::U16,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::U64,
        Self::Bool,
    ];

    /// The name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F64 => "F64",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::I64 => "I64",
            Self::U64 => "U64",
            Self::Bool => "BOOL",
        }
    }

    /// The type with this name in a safetensors header.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Bytes an element takes.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether [`HostTensor::read_f32`] takes it.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64 | Self::F8E4M3 | Self::F8E5M2)
    }
}

impl fmt::Display for HostDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor in host memory: shape, element type and little-endian row-major bytes, usually inside a memory map.
#[derive(Debug, Clone)]
pub struct HostTensor {
    name: String,
    shape: Vec<usize>,
    dtype: HostDType,
    bytes: Bytes,
}

impl HostTensor {
    /// A tensor from its parts. `name` serves error messages.
    ///
    /// # Errors
    /// `Weights` unless the bytes are exactly the elements of `shape`.
    pub fn new(name: impl Into<String>, shape: &[usize], dtype: HostDType, bytes: impl Into<Bytes>) -> Result<Self> {
        let (name, bytes) = (name.into(), bytes.into());
        let expected = byte_count(shape, dtype);
        ensure!(
            expected == Some(bytes.len()),
            Weights,
            "tensor '{name}': {} bytes are not the elements of {} {dtype}",
            bytes.len(),
            dims(shape)
        );
        Ok(Self { name, shape: shape.to_vec(), dtype, bytes })
    }

    /// The full name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes of the axes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> HostDType {
        self.dtype
    }

    /// The elements, little-endian, row-major.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// All elements as f32, in one new vector. For large tensors prefer [`for_each_f32`](Self::for_each_f32).
    ///
    /// # Errors
    /// `Weights` if the elements are integers: they would be the codes of a quantised file, not weights.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.count()];
        self.read_f32(0, &mut out)?;
        Ok(out)
    }

    /// Writes the elements from `start` on into `out`, as f32.
    ///
    /// # Errors
    /// `Weights` if the elements are integers, `Internal` if the range reaches beyond the tensor.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        ensure!(
            self.dtype.is_float(),
            Weights,
            "tensor '{}' holds {}, not floating point numbers: is the file quantised?",
            self.name,
            self.dtype
        );
        let size = self.dtype.size();
        let end = start.checked_add(out.len()).filter(|end| *end <= self.count());
        ensure!(end.is_some(), Internal, "tensor '{}': elements {start}+{} of {}", self.name, out.len(), self.count());
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        match self.dtype {
            HostDType::F32 => convert(bytes, out, f32::from_le_bytes),
            HostDType::F16 => convert(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            HostDType::BF16 => convert(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            HostDType::F64 => convert(bytes, out, |b| f64::from_le_bytes(b) as f32),
            HostDType::F8E4M3 => convert(bytes, out, |[b]: [u8; 1]| f8_e4m3(b)),
            // E5M2 is the upper byte of a half.
            HostDType::F8E5M2 => convert(bytes, out, |[b]: [u8; 1]| f16::from_bits(u16::from(b) << 8).to_f32()),
            _ => {}
        }
        Ok(())
    }

    /// Calls `each(start, elements)` for consecutive runs of elements, converted into `staging`, so that only
    /// `staging.len()` elements exist twice at any time.
    ///
    /// # Errors
    /// Those of [`read_f32`](Self::read_f32) and of `each`; `Internal` for an empty `staging`.
    pub fn for_each_f32(&self, staging: &mut [f32], mut each: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        ensure!(!staging.is_empty(), Internal, "an empty staging slice");
        let mut start = 0;
        while start < self.count() {
            let len = staging.len().min(self.count() - start);
            self.read_f32(start, &mut staging[..len])?;
            each(start, &staging[..len])?;
            start += len;
        }
        Ok(())
    }

    /// Writes the elements from `start` on into `out` as the bits of f16, rounded to nearest even.
    ///
    /// # Errors
    /// Those of [`read_f32`](Self::read_f32); `Numeric` if an element is NaN, infinite, or beyond what f16 holds.
    pub fn read_f16(&self, start: usize, out: &mut [u16]) -> Result<()> {
        let mut staging = [0.0f32; 256];
        for (i, out) in out.chunks_mut(staging.len()).enumerate() {
            let (start, staging) = (start + i * 256, &mut staging[..out.len()]);
            self.read_f32(start, staging)?;
            for (k, (out, x)) in out.iter_mut().zip(staging).enumerate() {
                let y = f16::from_f32(*x);
                ensure!(
                    y.is_finite(),
                    Numeric,
                    "tensor '{}': element {} is {x}, which f16 cannot hold",
                    self.name,
                    start + k
                );
                *out = y.to_bits();
            }
        }
        Ok(())
    }
}

/// Reads little-endian elements of `N` bytes. Without regard to alignment, which files do not promise.
fn convert<const N: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = one(*bytes);
    }
}

/// The value of an 8-bit float in the E4M3 `fn` format (OCP 8-bit floating point specification, table 1).
fn f8_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Bytes that a tensor takes, unless that overflows.
pub(crate) fn byte_count(shape: &[usize], dtype: HostDType) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d))
}

/// A shape for messages, as `(4, 256)`.
pub(crate) fn dims(shape: &[usize]) -> String {
    format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}
