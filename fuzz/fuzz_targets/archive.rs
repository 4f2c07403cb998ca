//! A whole file of arbitrary bytes. Good seeds: the .pt files in tests/fixtures/torch.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| impasto_fuzz::read_all(input.to_vec()));
