//! Helpers of the tests in this folder.

use super::Picture;
use safetensors::{SafeTensors, tensor::Dtype};

/// A file of `tests/fixtures`, which `tests/fixtures/image/make.py` and the oracle's scripts made.
pub(crate) struct Fixture(Vec<u8>);

impl Fixture {
    pub(crate) fn open(name: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        Self(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap()
    }

    fn raw(&self, name: &str, dtype: Dtype) -> (Vec<usize>, Vec<u8>) {
        let all = SafeTensors::deserialize(&self.0).unwrap();
        let t = all.tensor(name).unwrap();
        assert_eq!(t.dtype(), dtype, "{name}");
        (t.shape().to_vec(), t.data().to_vec())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            SafeTensors::deserialize(&self.0).unwrap().names().into_iter().map(String::from).collect();
        names.sort();
        names
    }

    pub(crate) fn u8(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        self.raw(name, Dtype::U8)
    }

    pub(crate) fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, data) = self.raw(name, Dtype::F32);
        (shape, data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    }

    pub(crate) fn u32(&self, name: &str) -> Vec<u32> {
        self.raw(name, Dtype::U32).1.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        self.raw(name, Dtype::I64).1.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub(crate) fn f64(&self, name: &str) -> Vec<f64> {
        self.raw(name, Dtype::F64).1.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// The picture that `make.py` calls `noise(w, h)`.
pub(crate) fn noise(w: usize, h: usize) -> Picture {
    let rgb = (0..(w * h * 3) as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Picture::new(w, h, rgb).unwrap()
}

/// The largest absolute difference; infinite where one side is NaN or the lengths differ.
pub(crate) fn max_abs_diff(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let diff = |(a, b): (&f32, &f32)| if a.is_nan() || b.is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(diff).fold(0.0, f32::max)
}
