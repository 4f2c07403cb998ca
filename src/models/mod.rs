//! The models, each in the words of its paper and its reference implementation.

pub mod sam2;
