//! SAM 2 on video: objects followed through frames by memories of them.

mod bank;
mod choice;
mod device;
mod graphs;
mod model;
mod object;
mod options;
mod recall;
mod session;
#[cfg(test)]
mod tests;
mod workload;

pub use options::{MaskPrompts, Options, Tracked};
pub use session::Session;
pub use workload::recordings;
