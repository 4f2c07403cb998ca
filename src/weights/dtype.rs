//! [`HostDType`]: how weight files store elements.

use crate::quant::BlockFormat;
use std::fmt;

/// The element types that weight files hold, under the names that safetensors and ggml give them.
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
    /// Quantised blocks, of GGUF files only.
    Block(BlockFormat),
}

impl HostDType {
    /// Every element type that a safetensors file can have.
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

    /// The name in a safetensors header, or ggml's of a block format.
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
            Self::Block(format) => format.name(),
        }
    }

    /// The type with this name in a safetensors header.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Elements that only come together, along the last axis: 1 for what is not quantised.
    pub const fn block(self) -> usize {
        if let Self::Block(format) = self { format.elements() } else { 1 }
    }

    /// Bytes that an element takes, or a [`block`](Self::block) of them.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Block(format) => format.bytes(),
        }
    }

    /// Whether [`HostTensor::read_f32`](super::HostTensor::read_f32) takes it.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64 | Self::F8E4M3 | Self::F8E5M2 | Self::Block(_))
    }
}

impl fmt::Display for HostDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that a tensor takes, unless that overflows or its rows are no whole blocks.
pub(crate) fn byte_count(shape: &[usize], dtype: HostDType) -> Option<usize> {
    let (row, rows) = shape.split_last().unwrap_or((&1, &[]));
    let blocks = row.is_multiple_of(dtype.block()).then(|| row / dtype.block())?;
    rows.iter().try_fold(blocks.checked_mul(dtype.size())?, |n, &d| n.checked_mul(d))
}

/// The values of the 256 codes of the E4M3 `fn` format (OCP 8-bit floating point specification, table 1).
pub(super) const E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (sign, exponent, mantissa) = (code as u32 >> 7, code as u32 >> 3 & 15, code as u32 & 7);
        let magnitude = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa as f32 / 512.0,
            _ => f32::from_bits((exponent + 120) << 23 | mantissa << 20),
        };
        values[code] = if sign == 0 { magnitude } else { -magnitude };
        code += 1;
    }
    values
};
