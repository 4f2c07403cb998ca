//! SAM 2 on video: objects followed through frames by memories of them.

mod bank;
mod choice;
#[cfg(not(target_arch = "wasm32"))]
pub mod clip;
mod device;
mod directions;
mod graphs;
mod model;
mod object;
mod options;
mod prompting;
mod recall;
mod saved;
mod session;
#[cfg(test)]
mod tests;
mod tracked;
mod workload;

pub use options::{MaskPrompts, Options};
pub use session::Session;
pub use tracked::Tracked;
pub use workload::recordings;
