//! A header of arbitrary bytes whose length is right, and as much data as the input's first byte says.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((data, header)) = input.split_first() else { return };
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + *data as usize, 7);
    impasto_fuzz::read_all(file);
});
