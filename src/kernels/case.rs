//! A [`Case`] is one call of a kernel with inputs that can fail it, and its CPU twin's answer.

use crate::{
    error::Result,
    graph::{Graph, Value},
    quant,
    shape::{DType, Shape},
};
use std::fmt;

/// An input of a case: the bytes that the device gets, and the values that the twin sees.
#[derive(Debug, Clone)]
pub struct Input {
    /// Shape.
    pub shape: Shape,
    /// Storage.
    pub dtype: DType,
    /// What the device gets.
    pub bytes: Vec<u8>,
    /// What the twin gets: for f16 and quantised storage the values after the rounding.
    pub values: Vec<f32>,
}

impl Input {
    /// f32 values.
    pub fn f32(shape: impl Into<Shape>, values: Vec<f32>) -> Self {
        let bytes = bytemuck::cast_slice(&values).to_vec();
        Self::new(shape.into(), DType::F32, bytes, values)
    }

    /// Values stored as `dtype` (not `U32`), rounded from f32.
    pub fn stored(dtype: DType, shape: impl Into<Shape>, values: Vec<f32>) -> Self {
        let (pack, unpack): (Pack, Unpack) = match dtype {
            DType::F16 => (quant::pack_f16, quant::unpack_f16),
            DType::Q8 => (quant::pack_q8, quant::unpack_q8),
            DType::Q4 => (quant::pack_q4, quant::unpack_q4),
            DType::Q4K => (quant::pack_q4k, quant::unpack_q4k),
            DType::Q5 => (quant::pack_q5, quant::unpack_q5),
            DType::Q5K => (quant::pack_q5k, quant::unpack_q5k),
            DType::Q6K => (quant::pack_q6k, quant::unpack_q6k),
            DType::F32 | DType::U32 => return Self::f32(shape, values),
        };
        let words = pack(&values);
        let rounded = unpack(&words, values.len());
        Self::new(shape.into(), dtype, bytemuck::cast_slice(&words).to_vec(), rounded)
    }

    fn new(shape: Shape, dtype: DType, bytes: Vec<u8>, values: Vec<f32>) -> Self {
        assert_eq!(shape.count(), values.len(), "values for {shape}");
        assert_eq!(bytes.len(), dtype.bytes(values.len()), "bytes of {shape} as {dtype:?}");
        Self { shape, dtype, bytes, values }
    }
}

type Pack = fn(&[f32]) -> Vec<u32>;
type Unpack = fn(&[u32], usize) -> Vec<f32>;
type Record = dyn Fn(&mut Graph, &[Value]) -> Result<Vec<Value>> + Send + Sync;
type Twin = dyn Fn(&[Input]) -> Vec<Vec<f32>> + Send + Sync;

/// One call of a kernel, its inputs and its twin.
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// Inputs in the order that `record` takes them.
    pub inputs: Vec<Input>,
    /// Records the call and returns its outputs.
    pub record: Box<Record>,
    /// The same in plain loops, accumulating in f64. Integers come as their values.
    pub twin: Box<Twin>,
    /// The largest normalised mean square error against the twin; 0 asks for equality.
    pub nmse: f64,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    /// A case.
    pub fn new(
        name: impl Into<String>,
        inputs: Vec<Input>,
        nmse: f64,
        record: impl Fn(&mut Graph, &[Value]) -> Result<Vec<Value>> + Send + Sync + 'static,
        twin: impl Fn(&[Input]) -> Vec<Vec<f32>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), inputs, nmse, record: Box::new(record), twin: Box::new(twin) }
    }

    /// Records the call with its inputs as graph inputs: `(inputs, outputs)`.
    ///
    /// # Errors
    /// What the kernel function reports.
    pub fn graph(&self, g: &mut Graph) -> Result<(Vec<Value>, Vec<Value>)> {
        let inputs: Vec<Value> =
            self.inputs.iter().enumerate().map(|(i, x)| g.input(&format!("input {i}"), x.shape, x.dtype)).collect();
        let outputs = (self.record)(g, &inputs)?;
        for (i, &v) in outputs.iter().enumerate() {
            g.output(v, &format!("output {i}"));
        }
        Ok((inputs, outputs))
    }
}

/// `(normalised mean square error, largest absolute difference)` of `found` against `expected`.
/// A NaN or a different length is infinitely far away.
pub fn deviation(found: &[f32], expected: &[f32]) -> (f64, f64) {
    if found.len() != expected.len() || found.iter().chain(expected).any(|v| !v.is_finite()) {
        return (f64::INFINITY, f64::INFINITY);
    }
    let (mut error, mut power, mut largest) = (0.0, 0.0, 0f64);
    for (a, b) in found.iter().zip(expected) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        error += (a - b) * (a - b);
        power += b * b;
        largest = largest.max((a - b).abs());
    }
    (if error == 0.0 { 0.0 } else { error / power.max(f64::MIN_POSITIVE) }, largest)
}

/// Deterministic numbers for inputs (splitmix64): the same on every machine and in every run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A stream.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in `-1..1`.
    pub fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `count` values, uniform in `-1..1`.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.uniform()).collect()
    }

    /// The same with one value in 61 up to 6e4: what breaks f16 accumulation and naive variances.
    pub fn outliers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|i| self.uniform() * if i % 61 == 17 { 6e4 } else { 1.0 }).collect()
    }
}
