//! GGUF files: one from `tests/fixtures/gguf/make.py`, and headers that lie.

use super::{super::*, fixture, refused};
use crate::{quant, shape::DType};

fn kinds() -> Weights {
    Weights::open(&fixture("gguf/kinds.gguf")).unwrap()
}

/// Every type, bit for bit as the `gguf` Python package reads it.
#[test]
fn the_values_of_the_reference() {
    let (ours, theirs) = (kinds(), Weights::open(&fixture("gguf/kinds.safetensors")).unwrap());
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(theirs.names().len(), 12);
    for name in theirs.names() {
        let shape = theirs.shape(&name).unwrap();
        let tensor = ours.get(&name, &shape).unwrap();
        let expected = bits(theirs.get(&name, &shape).unwrap().to_f32().unwrap());
        assert_eq!(bits(tensor.to_f32().unwrap()), expected, "{name}");
        // From the middle of one block to the middle of another.
        if tensor.count() > 1 {
            let mut some = vec![0.0; 300];
            tensor.read_f32(71, &mut some).unwrap();
            assert_eq!(bits(some), expected[71..371], "{name}");
            let mut row = tensor.rows(1..2).unwrap();
            assert_eq!((row.shape(), bits(row.to_f32().unwrap())), (&[1, 256][..], expected[256..].to_vec()), "{name}");
            row = tensor.rows(0..2).unwrap();
            assert_eq!(bits(row.to_f32().unwrap()), expected, "{name}");
        }
    }
    assert_eq!(ours.get("ids", &[1, 2, 3]).unwrap().bytes()[20..], [5, 0, 0, 0]);
}

/// What goes to the device has the same values, in as many bytes as its type says.
#[test]
fn packed_tensors_keep_their_values() {
    let weights = kinds();
    let expected = [
        ("F32", DType::F32),
        ("F16", DType::F16),
        ("BF16", DType::F32),
        ("Q8_0", DType::Q8),
        ("Q4_0", DType::Q4),
        ("Q4_1", DType::Q5),
        ("Q5_0", DType::Q5),
        ("Q5_1", DType::Q5),
        ("Q4_K", DType::Q4K),
        ("Q5_K", DType::Q5K),
        ("Q6_K", DType::Q6K),
    ];
    for (name, dtype) in expected {
        let tensor = weights.get(name, &[2, 256]).unwrap();
        let words = tensor.packed().unwrap();
        assert_eq!((tensor.device_dtype(), words.len() * 4), (dtype, dtype.bytes(512)), "{name}");
        let back = match dtype {
            DType::F16 => quant::unpack_f16(&words, 512),
            DType::Q8 => quant::unpack_q8(&words, 512),
            DType::Q4 => quant::unpack_q4(&words, 512),
            DType::Q4K => quant::unpack_q4k(&words, 512),
            DType::Q5 => quant::unpack_q5(&words, 512),
            DType::Q5K => quant::unpack_q5k(&words, 512),
            DType::Q6K => quant::unpack_q6k(&words, 512),
            _ => words.into_iter().map(f32::from_bits).collect(),
        };
        assert_eq!(back, tensor.to_f32().unwrap(), "{name}");
    }
}

#[test]
fn metadata() {
    let weights = kinds();
    let says = |key: &str| weights.metadata(key).unwrap().clone();
    assert_eq!(says("general.architecture"), Meta::Text("flux".into()));
    for key in ["test.u8", "test.u16", "test.u32", "test.u64"] {
        assert_eq!(says(key), Meta::Unsigned(200), "{key}");
    }
    for key in ["test.i8", "test.i16", "test.i32", "test.i64"] {
        assert_eq!(says(key), Meta::Signed(-100), "{key}");
    }
    assert_eq!((says("test.f32"), says("test.f64")), (Meta::Float(0.5), Meta::Float(0.1)));
    assert_eq!((says("test.bool"), says("test.string")), (Meta::Bool(true), Meta::Text("Grüße".into())));
    assert_eq!((says("test.numbers"), says("test.strings")), (Meta::Array(3), Meta::Array(3)));
    assert_eq!(weights.metadata("test.none"), None);
    let summary = weights.summary();
    assert_eq!((summary.format, summary.metadata.len()), (Format::Gguf, 15));
    assert_eq!(summary.dtypes[&HostDType::Block(quant::BlockFormat::Q6_K)], (1, 512));
}

/// A file of these metadata entries and tensors, each (name, axes, type, offset), and `data` bytes after the header.
fn file(meta: &[&[u8]], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut bytes = [&b"GGUF\x03\0\0\0"[..], &(tensors.len() as u64).to_le_bytes()].concat();
    bytes.extend((meta.len() as u64).to_le_bytes());
    meta.iter().for_each(|entry| bytes.extend(*entry));
    for (name, axes, kind, offset) in tensors {
        bytes.extend([text(name), (axes.len() as u32).to_le_bytes().to_vec()].concat());
        axes.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend([&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat());
    }
    let header = bytes.len().next_multiple_of(32);
    bytes.resize(header + data, 0);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A metadata entry: key, type and the bytes of the value.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

#[track_caller]
fn says(bytes: Vec<u8>, expected: &str) {
    let message = refused(bytes);
    assert!(message.contains(expected), "expected {expected:?} in {message:?}");
}

const A: (&str, &[u64], u32, u64) = ("a", &[8, 2], 0, 0);
const B: (&str, &[u64], u32, u64) = ("b", &[32], 8, 64);

#[test]
fn a_good_file() {
    let weights = Weights::from_bytes(file(&[], &[A, B], 64 + 34)).unwrap();
    assert_eq!((weights.shape("a"), weights.shape("b")), (Some(vec![2, 8]), Some(vec![32])));
    // The order of the infos need not be that of the data, and padding may follow.
    Weights::from_bytes(file(&[], &[B, A], 128)).unwrap();
    Weights::from_bytes(file(&[], &[], 0)).unwrap();
    // Version 2 is the same; an alignment of 8 moves the data of this header.
    let mut two = file(&[], &[A], 64);
    two[4] = 2;
    Weights::from_bytes(two).unwrap();
    let narrow = file(&[&entry("general.alignment", 4, &[8, 0, 0, 0])], &[A], 64);
    Weights::from_bytes(narrow).unwrap();
}

#[test]
fn every_truncation_is_refused() {
    let whole =
        file(&[&entry("k", 9, &[8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])], &[A, B], 64 + 34);
    for length in 0..whole.len() {
        refused(whole[..length].to_vec());
    }
    Weights::from_bytes(whole).unwrap();
}

#[test]
fn versions_and_counts() {
    let version = |v: [u8; 4]| [&file(&[], &[], 0)[..4], &v, &[0; 16]].concat();
    says(version([1, 0, 0, 0]), "version 1");
    says(version([4, 0, 0, 0]), "version 4");
    says(version([0, 0, 0, 0]), "version 0");
    says(version([0, 0, 0, 3]), "big-endian");
    let counts =
        |tensors: u64, meta: u64| [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &meta.to_le_bytes()].concat();
    says(counts(u64::MAX, 0), "18446744073709551615 tensors");
    says(counts(0, 1 << 32), "4294967296 metadata entries");
    says(counts(100_000, 0), "truncated");
    says(counts(0, 100_000), "truncated");
}

#[test]
fn lying_metadata() {
    let one = |kind: u32, value: &[u8]| file(&[&entry("k", kind, value)], &[], 0);
    says(one(13, &[]), "metadata \"k\": a value of the unknown type 13");
    says(one(7, &[2]), "a boolean of value 2");
    says(one(8, &u64::MAX.to_le_bytes()), "truncated");
    says(one(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "not UTF-8");
    let array = |kind: u32, count: u64| one(9, &[&kind.to_le_bytes()[..], &count.to_le_bytes()].concat());
    for kind in [0, 4, 8, 12] {
        says(array(kind, u64::MAX), "truncated");
        says(array(kind, 1 << 61), "truncated");
    }
    says(array(9, 1), "an array of arrays");
    says(array(13, 1), "an array of the unknown type 13");
    says(file(&[&entry("k", 0, &[1]), &entry("k", 0, &[1])], &[], 0), "\"k\" twice");
    says(file(&[&entry(&"k".repeat(65_536), 0, &[1])], &[], 0), "a name of 65536 bytes");
    for (kind, value) in [(4, &[24, 0, 0, 0][..]), (4, &[0; 4]), (10, &[0, 0, 0, 0, 0, 0, 0, 0x80]), (8, &[0; 8])] {
        says(file(&[&entry("general.alignment", kind, value)], &[], 0), "no power of two");
    }
    says(file(&[&entry("split.count", 2, &[3, 0])], &[], 0), "one of 3 parts");
}

#[test]
fn lying_tensors() {
    let one = |axes: &[u64], kind: u32, offset: u64| file(&[], &[("t", axes, kind, offset)], 64);
    says(one(&[1; 5], 0, 0), "\"t\" has 5 axes");
    says(one(&[u64::MAX, 2], 0, 0), "overflows");
    says(one(&[1 << 32, 1 << 32], 0, 0), "overflows");
    says(one(&[1 << 62], 0, 0), "overflows");
    says(one(&[1 << 62], 24, 0), "leave the file");
    says(one(&[17], 0, 0), "68 bytes at 0 leave the file");
    says(one(&[16], 0, 32), "leave the file");
    says(one(&[4], 0, 8), "the offset 8 is not aligned to 32");
    says(one(&[4], 0, 32), "a gap of 32 bytes before tensor \"t\"");
    says(one(&[4], 0, u64::MAX - 31), "leave the file");
    says(one(&[33], 8, 0), "rows of 33 are no whole blocks of Q8_0, which have 32");
    says(one(&[32, 8], 14, 0), "no whole blocks of Q6_K");
    says(one(&[], 8, 0), "rows of 1");
    says(file(&[], &[A, ("b", &[8], 0, 32)], 128), "tensor \"b\" at byte");
    says(file(&[], &[A, ("b", &[8], 0, 0)], 128), "overlaps the one before");
    says(file(&[], &[A, ("a", &[8], 0, 64)], 128), "names the tensor \"a\" twice");
    says(file(&[], &[A, ("b\u{1b}[2J", &[8], 0, 96)], 128), "\\u{1b}[2J");
}

/// The types that are not read are named, with the tensor.
#[test]
fn other_types() {
    for (code, name) in
        [(10, "Q2_K"), (11, "Q3_K"), (20, "IQ4_NL"), (23, "IQ4_XS"), (39, "MXFP4"), (4, "4"), (999, "999")]
    {
        let message = refused(file(&[], &[A, ("w", &[256], code, 64)], 512));
        assert!(message.contains(&format!("\"w\" is of the type {name}, which")), "{message}");
        assert!(message.contains("Q6_K"), "{message}");
    }
}
