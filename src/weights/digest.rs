//! What tells checkpoints apart at a glance: a hash of all bytes of a large one takes a minute.

use super::Weights;
use crate::error::Result;
use std::fmt;

/// Bytes that are looked at in three places of a tensor.
const PIECE: usize = 256;

/// FNV-1a of 64 bits: short, and the same on every machine and in every release.
#[derive(Debug)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3));
    }
}

impl fmt::Display for Fnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Weights {
    /// A digest of all tensors below this place: of their names here, types and shapes, and of the beginning, the middle and
    /// the end of each. 16 hexadecimal digits, the same on every machine. It is no proof that files are equal, as other bytes
    /// may differ, and no defence against somebody who wants them to look so.
    ///
    /// # Errors
    /// `Weights` if a tensor cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut hash = Fnv::default();
        for name in self.names() {
            let tensor = self.tensor(&name)?;
            let bytes = tensor.bytes();
            hash.add(format!("{name} {} {:?}\n", tensor.dtype(), tensor.shape()).as_bytes());
            for start in [0, bytes.len() / 2, bytes.len().saturating_sub(PIECE)] {
                hash.add(&bytes[start..bytes.len().min(start + PIECE)]);
            }
        }
        Ok(hash.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{Dtype, tensor::TensorView};

    fn digest(name: &str, shape: Vec<usize>, bytes: &[u8]) -> String {
        let view = TensorView::new(Dtype::U8, shape, bytes).unwrap();
        Weights::from_bytes(safetensors::serialize([(name, view)], None).unwrap()).unwrap().digest().unwrap()
    }

    #[test]
    fn a_digest_tells_checkpoints_apart() {
        // Written down: it has to be the same in every release.
        assert_eq!(digest("a", vec![3], b"abc"), "9363704542bce0bb");
        let bytes: Vec<u8> = (0..2000).map(|i| (i * 7 % 251) as u8).collect();
        let of = |bytes: &[u8]| digest("a", vec![2, 1000], bytes);
        for at in [0, 1000, 1255, 1999] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(of(&other), of(&bytes), "byte {at}");
        }
        assert_ne!(digest("b", vec![2, 1000], &bytes), of(&bytes));
        assert_ne!(digest("a", vec![1000, 2], &bytes), of(&bytes));
    }
}
