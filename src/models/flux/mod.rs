//! FLUX.1 and FLUX.2 (Black Forest Labs, <https://github.com/black-forest-labs/flux2>): text to picture by flow matching.

pub mod lora;
pub mod sampling;
