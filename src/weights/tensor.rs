//! [`HostTensor`]: one tensor of a weight file, borrowed from the map, and its conversions.

use super::{
    Bytes, HostDType,
    dtype::{E4M3, byte_count},
};
use crate::{
    error::{Context, Result, bail, ensure},
    quant,
    shape::DType,
};
use half::{bf16, f16};
use std::ops::Range;

/// A tensor in host memory: shape, element type and little-endian row-major bytes, usually inside a memory map.
#[derive(Debug, Clone)]
pub struct HostTensor {
    name: String,
    shape: Vec<usize>,
    dtype: HostDType,
    bytes: Bytes,
    /// Factors of the elements: none, one for all, or one for each row.
    scales: Vec<f32>,
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
        Ok(Self { name, shape: shape.to_vec(), dtype, bytes, scales: Vec::new() })
    }

    /// The same with factors, which all conversions apply: one for all elements, or one for each row, the first axis.
    ///
    /// # Errors
    /// `Weights` if there is another number of them, `Numeric` if one is NaN or infinite.
    pub fn scaled(mut self, scales: Vec<f32>) -> Result<Self> {
        let rows = self.shape.first().copied().unwrap_or(1);
        ensure!(
            scales.len() == 1 || scales.len() == rows,
            Weights,
            "tensor '{}' of {rows} rows has {} scales, not one or one for each",
            self.name,
            scales.len()
        );
        if let Some((i, scale)) = scales.iter().enumerate().find(|(_, s)| !s.is_finite()) {
            bail!(Numeric, "tensor '{}': its scale {i} is {scale}", self.name);
        }
        self.scales = scales;
        Ok(self)
    }

    /// Whether the elements are those of [`bytes`](Self::bytes) times factors.
    pub fn has_scales(&self) -> bool {
        !self.scales.is_empty()
    }

    /// Some of the rows, along the first axis, which is kept: no copy.
    ///
    /// # Errors
    /// `Internal` if the range reaches beyond the tensor, `Weights` if it cuts a block.
    pub fn rows(&self, range: Range<usize>) -> Result<Self> {
        let all = self.shape.first().copied().unwrap_or(0);
        ensure!(
            range.start < range.end && range.end <= all,
            Internal,
            "tensor '{}': rows {range:?} of {all}",
            self.name
        );
        let size = self.bytes.len() / all;
        let Some(bytes) = self.bytes.slice(range.start * size..range.end * size) else {
            bail!(Internal, "tensor '{}': rows {range:?} leave its bytes", self.name);
        };
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        let part = Self::new(self.name.clone(), &shape, self.dtype, bytes)?;
        match self.scales.len() {
            0 => Ok(part),
            1 => part.scaled(self.scales.clone()),
            _ => part.scaled(self.scales[range].to_vec()),
        }
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

    /// The elements, little-endian, row-major, before any factors of theirs.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.bytes.len() / self.dtype.size() * self.dtype.block()
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
    /// `Weights` if the elements are integers, `Numeric` for the E4M3 code that stands for NaN, `Internal` if the range
    /// reaches beyond the tensor.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        ensure!(
            self.dtype.is_float(),
            Weights,
            "tensor '{}' holds {}, not floating point numbers: is the file quantised?",
            self.name,
            self.dtype
        );
        let end = start.checked_add(out.len()).filter(|end| *end <= self.count());
        ensure!(end.is_some(), Internal, "tensor '{}': elements {start}+{} of {}", self.name, out.len(), self.count());
        let size = self.dtype.size();
        let bytes = match self.dtype {
            HostDType::Block(_) => &[][..],
            _ => &self.bytes[start * size..(start + out.len()) * size],
        };
        match self.dtype {
            HostDType::Block(format) => self.decode(format, start, out),
            HostDType::F32 => convert(bytes, out, f32::from_le_bytes),
            HostDType::F16 => convert(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            HostDType::BF16 => convert(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            HostDType::F64 => convert(bytes, out, |b| f64::from_le_bytes(b) as f32),
            HostDType::F8E4M3 => {
                convert(bytes, out, |[b]: [u8; 1]| E4M3[b as usize]);
                if let Some(i) = out.iter().position(|x| x.is_nan()) {
                    bail!(Numeric, "tensor '{}': element {} is NaN (code {:#04x})", self.name, start + i, bytes[i]);
                }
            }
            // E5M2 is the upper byte of a half.
            HostDType::F8E5M2 => convert(bytes, out, |[b]: [u8; 1]| f16::from_bits(u16::from(b) << 8).to_f32()),
            _ => {}
        }
        match &self.scales[..] {
            [] => {}
            [scale] => out.iter_mut().for_each(|x| *x *= scale),
            scales => {
                let row = self.count() / scales.len();
                out.iter_mut().enumerate().for_each(|(i, x)| *x *= scales[(start + i) / row]);
            }
        }
        Ok(())
    }

    /// Blocks to f32, from any element on.
    fn decode(&self, format: quant::BlockFormat, start: usize, out: &mut [f32]) {
        let (elements, size) = (format.elements(), format.bytes());
        let (mut block, mut done) = ([0.0; quant::SUPER_BLOCK], 0);
        while done < out.len() {
            let at = start + done;
            format.decode(&self.bytes[at / elements * size..][..size], &mut block[..elements]);
            let part = &block[at % elements..elements];
            let count = part.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&part[..count]);
            done += count;
        }
    }

    /// The smallest device type that holds every element unchanged: blocks as blocks, f16 and 8-bit floats as f16,
    /// the others as f32.
    pub fn device_dtype(&self) -> DType {
        match self.dtype {
            HostDType::Block(format) if self.scales.is_empty() => format.device(),
            HostDType::F16 | HostDType::F8E4M3 | HostDType::F8E5M2 if self.scales.is_empty() => DType::F16,
            _ => DType::F32,
        }
    }

    /// The elements in the layout of [`device_dtype`](Self::device_dtype), of the same values.
    ///
    /// # Errors
    /// Those of [`read_f32`](Self::read_f32); `Numeric` if a block has scales that are NaN or infinite.
    pub fn packed(&self) -> Result<Vec<u32>> {
        match (self.dtype, self.device_dtype()) {
            (HostDType::Block(format), device) if device != DType::F32 => {
                format.repack(&self.bytes).context(|| format!("tensor '{}'", self.name))
            }
            (_, DType::F16) => Ok(quant::pack_f16(&self.to_f32()?)),
            _ => Ok(self.to_f32()?.into_iter().map(f32::to_bits).collect()),
        }
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

/// A shape for messages, as `(4, 256)`.
pub(crate) fn dims(shape: &[usize]) -> String {
    format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}
