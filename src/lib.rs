//! Segment Anything 2 on any GPU, from hand-written WGSL compute shaders through wgpu.

pub mod error;
pub mod models;
pub mod shape;
pub mod weights;

pub use error::{Error, ErrorKind, Result};
