//! Prompts: what the text encoders of FLUX read.

#[cfg(test)]
mod tests;
pub mod tokenizer;

pub use tokenizer::{Kind, Tokenizer, Tokens};
