//! Segment Anything 2 on any GPU, from hand-written WGSL compute shaders through wgpu.

pub mod error;
pub mod image;
pub mod models;
pub mod shape;

pub use error::{Error, ErrorKind, Result};
