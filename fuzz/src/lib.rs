//! The readers of weight files, by their sources: without wgpu, a build with sanitizers takes a minute, not half an hour.
//!
//!     cargo +nightly fuzz run safetensors -- -max_total_time=120
//!     cargo +nightly fuzz run pickle      -- -max_total_time=120
//!     cargo +nightly fuzz run archive     -- -max_total_time=120
//!     cargo +nightly fuzz run gguf        -- -max_total_time=120

#![allow(dead_code, reason = "parts of the crate stand here without their users")]

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/quant/mod.rs"]
pub mod quant;
#[path = "../../src/shape.rs"]
pub mod shape;
#[path = "../../src/weights/mod.rs"]
pub mod weights;

pub use error::{Error, ErrorKind, Result};

/// Opens the bytes and reads every tensor there is.
pub fn read_all(bytes: Vec<u8>) {
    let Ok(weights) = weights::Weights::from_bytes(bytes) else { return };
    let mut staging = [0.0; 64];
    for name in weights.names() {
        // A name that was listed is found, whatever it is.
        let tensor = weights.tensor(&name).expect("a listed tensor");
        let _ = tensor.for_each_f32(&mut staging, |_, _| Ok(()));
    }
}

/// An archive as `torch.save` makes it, with this pickle and a storage of 16 bytes.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in [("a/data.pkl", pickle), ("a/data/0", &[0; 16])] {
        let (size, at) = ((data.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
        let lengths = [name.len() as u8, 0, 0, 0];
        file.extend([b"PK\x03\x04".as_slice(), &[0; 14], &size, &size, &lengths, name.as_bytes(), data].concat());
        let head = [b"PK\x01\x02".as_slice(), &[0; 16], &size, &size, &lengths, &[0; 10], &at, name.as_bytes()];
        directory.extend(head.concat());
    }
    let (at, size) = ((file.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    file.extend(directory);
    file.extend([b"PK\x05\x06\0\0\0\0\x02\0\x02\0".as_slice(), &size, &at, &[0, 0]].concat());
    file
}
