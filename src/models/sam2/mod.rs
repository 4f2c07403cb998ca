//! Segment Anything 2 and 2.1.

pub mod grid;
