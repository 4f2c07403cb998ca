//! Tests of the readers. Files that only Python can make are in `tests/fixtures`; damaged ones are made here.

mod conversions;
mod folders;
mod gguf;
mod safetensors;
mod scaled;
mod torch;
mod walking;

use super::Weights;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A safetensors file with this header and this many zero bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// The message of the error that these bytes must give.
#[track_caller]
fn refused(bytes: Vec<u8>) -> String {
    match Weights::from_bytes(bytes) {
        Err(e) => {
            assert_eq!(e.kind(), crate::ErrorKind::Weights, "{e}");
            e.to_string()
        }
        Ok(weights) => panic!("accepted: {weights:?}"),
    }
}
