//! Models, each in its own module; they do not know each other.

pub mod sam2;
