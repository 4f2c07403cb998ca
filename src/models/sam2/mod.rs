//! Segment Anything 2 and 2.1 on pictures: [`Predictor`] answers prompts, [`amg`] finds every mask.
//!
//! File and type names follow facebookresearch/sam2; so do weight paths, which are also the scopes of the graph.

pub mod amg;
mod decoders;
mod embedding;
pub mod grid;
mod hiera;
mod image_encoder;
mod judge;
mod mask_decoder;
mod model;
mod predictor;
mod prompt;
mod prompt_encoder;
mod result;
mod two_way;

pub use embedding::Embedding;
pub use predictor::{Ask, Behaviour, Options, Predictor};
pub use prompt::{MaskPrompt, Point, Prompt};
pub use result::{Candidate, Prediction, Statistics};
