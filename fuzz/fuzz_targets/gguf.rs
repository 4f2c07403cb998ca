//! A GGUF file of arbitrary bytes after the magic. A good seed: tests/fixtures/gguf/kinds.gguf without its first four.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| impasto_fuzz::read_all([b"GGUF", input].concat()));
