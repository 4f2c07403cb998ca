//! [`Shape`] (at most four axes) and [`DType`].

use crate::error::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Deref};

/// The sizes of at most four axes, outermost first. Images are `(n, y, x, c)`, tokens `(n, t, d)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<usize>", try_from = "Vec<usize>")]
pub struct Shape {
    rank: u8,
    dims: [usize; 4],
}

impl Shape {
    /// A shape from its axes.
    ///
    /// # Panics
    /// With more than four axes: no tensor of these models has them.
    pub fn new(axes: &[usize]) -> Self {
        assert!(axes.len() <= 4, "a Shape has at most four axes, not {axes:?}");
        let mut dims = [1; 4];
        dims[..axes.len()].copy_from_slice(axes);
        Self { rank: axes.len() as u8, dims }
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// All axes but the last, multiplied, and the last: how most kernels see a tensor.
    pub fn rows_cols(&self) -> (usize, usize) {
        match self.split_last() {
            Some((&cols, rows)) => (rows.iter().product(), cols),
            None => (1, 1),
        }
    }

    /// The axes as an array, or an error that names `what`.
    ///
    /// # Errors
    /// `Shape` if the rank is not `N`.
    pub fn axes<const N: usize>(&self, what: &str) -> Result<[usize; N]> {
        ensure!(self.len() == N, Shape, "{what}: expected {N} axes, found {self}");
        let mut axes = [0; N];
        axes.copy_from_slice(self);
        Ok(axes)
    }
}

impl From<Shape> for Vec<usize> {
    fn from(shape: Shape) -> Self {
        shape.to_vec()
    }
}

impl TryFrom<Vec<usize>> for Shape {
    type Error = String;
    fn try_from(axes: Vec<usize>) -> Result<Self, String> {
        if axes.len() > 4 { Err(format!("{} axes; there are at most four", axes.len())) } else { Ok(Self::new(&axes)) }
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(axes: [usize; N]) -> Self {
        Self::new(&axes)
    }
}

impl From<&[usize]> for Shape {
    fn from(axes: &[usize]) -> Self {
        Self::new(axes)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, d) in self.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the elements of a GPU tensor are stored. Arithmetic is f32 whatever the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float, two to a `u32`, unpacked in the shader: needs no adapter feature. An odd count is padded.
    F16,
    /// Blocks of 32 along the last axis: all quants (four to a `u32`, row-major), then one f16 scale a block
    /// (two to a `u32`). The values are those of ggml's Q8_0; only the layout differs, for aligned loads.
    Q8,
    /// Blocks of 32 of 4-bit quants `q`, of value `(q - 8) d`: all quants (eight to a `u32`), then one f16 scale `d`
    /// a block (two to a `u32`). The values are those of ggml's Q4_0.
    ///
    /// Byte `b` of a word has element `b` in its low and element `b + 4` in its high half: one shift and one mask
    /// make four bytes of four neighbours, for conversion or for a packed dot product.
    Q4,
    /// Blocks of 256 in eight parts of 32: 4-bit quants of value `d s q - e t`, with 6-bit `s` and `t` for each part
    /// and f16 `d` and `e` for each block. All quants as in `Q4`; then `s | t << 8` for each part, two to a `u32`;
    /// then `d | e << 16` for each block. The values are those of ggml's Q4_K.
    Q4K,
    /// Blocks of 32 of 5-bit quants `q`, of value `d q + m`: the low 4 bits of all quants as in `Q4`; then their
    /// fifth bits, 32 to a `u32`; then `d | m << 16` for each block, both f16. The values are those of ggml's Q5_1,
    /// and of Q5_0 and Q4_1, which are its cases `m = -16 d` and `q < 16`.
    ///
    /// Byte `b` of a word of fifth bits has elements `b`, `b + 4`, ... `b + 28` from its low end up: one shift and one
    /// mask make four bytes of four neighbours here too.
    Q5,
    /// As `Q4K` with 5-bit quants: the low 4 bits of all, their fifth bits as in `Q5`, then the scales as in `Q4K`.
    /// The values are those of ggml's Q5_K.
    Q5K,
    /// Blocks of 256 in sixteen parts of 16: 6-bit quants of value `d s (q - 32)`, with a signed 8-bit `s` for each
    /// part and an f16 `d` for each block. The low 4 bits of all quants as in `Q4`; then their upper 2 bits, 16 to a
    /// `u32`, in the order of `Q5`'s fifth bits; then `s`, four to a `u32`; then `d`, two to a `u32`. The values are
    /// those of ggml's Q6_K.
    Q6K,
    /// 32-bit unsigned integer.
    U32,
}

impl DType {
    /// Bytes that `count` elements take in a buffer, a multiple of 4.
    pub const fn bytes(self, count: usize) -> usize {
        match self {
            DType::F32 | DType::U32 => count * 4,
            DType::F16 => count.div_ceil(2) * 4,
            DType::Q8 => count.div_ceil(4) * 4 + count.div_ceil(32).div_ceil(2) * 4,
            DType::Q4 => count.div_ceil(8) * 4 + count.div_ceil(32).div_ceil(2) * 4,
            DType::Q4K => count.div_ceil(256) * (256 / 8 + 256 / 64 + 1) * 4,
            DType::Q5 => count.div_ceil(32) * (32 / 8 + 1 + 1) * 4,
            DType::Q5K => count.div_ceil(256) * (256 / 8 + 256 / 32 + 256 / 64 + 1) * 4,
            DType::Q6K => count.div_ceil(256) * (256 / 8 + 256 / 16 + 16 / 4) * 4 + count.div_ceil(256).div_ceil(2) * 4,
        }
    }

    /// Elements that only come together, along the last axis: 1 for what is not quantised.
    pub const fn block(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::U32 => 1,
            DType::Q8 | DType::Q4 | DType::Q5 => 32,
            DType::Q4K | DType::Q5K | DType::Q6K => 256,
        }
    }
}
