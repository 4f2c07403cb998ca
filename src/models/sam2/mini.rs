//! The miniature that is part of the program.

use super::{Config, from_parts};
use crate::{error::Result, weights::Weights};

const WEIGHTS: &[u8] = include_bytes!("../../../assets/sam2-mini/model.safetensors");
const CONFIG: &str = include_str!("../../../assets/sam2-mini/config.json");

/// A SAM 2.1 of 3.7 M parameters for pictures of 256 x 256, trained for this project on synthetic pictures: for demos
/// and tests without a network, no substitute for the real ones.
///
/// # Errors
/// None, unless the program was built from damaged files.
pub fn mini() -> Result<(Config, Weights)> {
    from_parts(&Weights::from_bytes(WEIGHTS)?, Some(CONFIG))
}
