//! A pickle of arbitrary bytes in a sound archive.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| impasto_fuzz::read_all(impasto_fuzz::archive(input)));
