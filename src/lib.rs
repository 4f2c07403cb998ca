//! Segment Anything 2 on any GPU, from hand-written WGSL compute shaders through wgpu.
//!
//! Layers, each using only what is to its right:
//!
//! ```text
//! frontends -> models -> nn -> kernels -> graph -> gpu -> wgpu
//!                 \______\_____\-> weights
//! ```
//!
//! [`error`], [`shape`], [`kernel`] (what a kernel is, as plain data) and [`wgsl`] (the shader preprocessor) serve all.

pub mod bench;
pub mod error;
pub mod gpu;
pub mod graph;
pub mod image;
pub mod kernel;
pub mod kernels;
pub mod models;
pub mod nn;
pub mod quant;
pub mod selftest;
pub mod shape;
pub mod text;
pub mod trace;
pub mod weights;
pub mod wgsl;

pub use error::{Error, ErrorKind, Result};

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
