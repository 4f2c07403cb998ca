//! SAM 2 on video: objects followed through frames by memories of them.

mod model;
mod recall;
#[cfg(test)]
mod tests;
