//! Headers that lie. Each test names the lie and what the message must say of it.

use super::{super::*, file, refused};

const TWO: &str =
    r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[8,12]}}"#;

#[track_caller]
fn says(bytes: Vec<u8>, expected: &str) {
    let message = refused(bytes);
    assert!(message.contains(expected), "expected {expected:?} in {message:?}");
}

#[test]
fn a_good_file() {
    let mut bytes = file(TWO, 12);
    let data = bytes.len() - 12;
    bytes[data..data + 8].copy_from_slice(bytemuck::cast_slice(&[1.5f32, -2.0]));
    let weights = Weights::from_bytes(bytes).unwrap();
    assert_eq!(weights.names(), ["a", "b"]);
    assert_eq!(weights.get("a", &[2]).unwrap().to_f32().unwrap(), [1.5, -2.0]);
    assert_eq!(weights.shape("b"), Some(vec![2, 1]));
}

#[test]
fn metadata_padding_scalars_and_empty_tensors_are_fine() {
    let header = r#"{"__metadata__":{"format":"pt","n":1},"e":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}      "#;
    let weights = Weights::from_bytes(file(header, 8)).unwrap();
    assert_eq!(weights.get("s", &[]).unwrap().to_f32().unwrap(), [0.0]);
    assert_eq!(weights.get("e", &[0, 4]).unwrap().count(), 0);
    // Of the metadata what the format allows: texts.
    assert_eq!(weights.metadata("format"), Some(&Meta::Text("pt".into())));
    assert_eq!(weights.metadata("n"), None);
}

#[test]
fn no_file_at_all() {
    says(vec![], "the file is empty");
    says(vec![1, 2, 3], "too few");
    says(b"<!DOCTYPE html><html>404</html>".to_vec(), "a web page");
    says(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec(), "git lfs pull");
}

#[test]
fn header_length() {
    says(file("{}", 0)[..9].to_vec(), "truncated");
    says([&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "18446744073709551615 bytes");
    says([&100_000_001u64.to_le_bytes()[..], b"{}"].concat(), "100000001 bytes");
    says([&1000u64.to_le_bytes()[..], b"{}"].concat(), "the file ends after 10");
    says(file("[1]", 0), "not a JSON object");
    says(file(" {}", 0), "not a JSON object");
    says(file("{", 0), "cannot be read");
    says(file(&format!("{{\"a\":{}", "[".repeat(10_000)), 0), "cannot be read");
}

#[test]
fn every_truncation_is_refused() {
    let whole = file(TWO, 12);
    for length in 0..whole.len() {
        refused(whole[..length].to_vec());
    }
    Weights::from_bytes(whole).unwrap();
}

#[test]
fn element_types() {
    says(file(&TWO.replace("F16", "F4"), 12), "tensor \"b\": the element type \"F4\" is not one that impasto reads");
    says(file(&TWO.replace("F16", "C64"), 12), "\"C64\"");
}

#[test]
fn sizes() {
    says(file(&TWO.replace("[2,1]", "[3,1]"), 12), "tensor \"b\": (3, 1) F16 takes 6 bytes, the offsets 8..12 give 4");
    says(file(&TWO.replace("[2,1]", "[4294967296,4294967296]"), 12), "overflows");
    // 2^63 elements of two bytes: the count fits, the bytes do not.
    says(file(&TWO.replace("[2,1]", "[9223372036854775808]"), 12), "overflows");
    says(file(&TWO.replace("[2,1]", "[-2]"), 12), "cannot be read");
    says(file(&TWO.replace("[2,1]", "[2.5]"), 12), "cannot be read");
    says(file(&TWO.replace("[2,1]", "[1,1,1,1,1,1,1,2,1]"), 12), "more than 8 axes");
    Weights::from_bytes(file(&TWO.replace("[2,1]", "[1,1,1,1,1,1,2,1]"), 12)).unwrap();
}

#[test]
fn offsets() {
    says(file(&TWO.replace("[8,12]", "[12,8]"), 12), "run backwards");
    says(file(&TWO.replace("[8,12]", "[12,16]"), 12), "leave the 12 bytes");
    says(file(&TWO.replace("[8,12]", "[12,16]"), 16), "a gap of 4 bytes before tensor \"b\"");
    says(file(&TWO.replace("[8,12]", "[4,8]"), 12), "overlaps");
    says(file(&TWO.replace("[8,12]", "[18446744073709551612,18446744073709551615]"), 12), "leave the 12 bytes");
    says(file(TWO, 13), "1 bytes after the last tensor");
    says(file(&TWO.replace("[8,12]", "[8]"), 12), "cannot be read");
    says(file("{}", 4), "4 bytes after the last tensor");
}

#[test]
fn names() {
    says(file(&TWO.replace("\"b\"", "\"a\""), 12), "names the tensor \"a\" twice");
    // The same name, spelt with an escape.
    says(file(&TWO.replace("\"b\"", "\"\\u0061\""), 12), "names the tensor \"a\" twice");
    says(file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "two entries");
    // Control characters do not reach the terminal.
    let message = refused(file(&TWO.replace("\"b\"", "\"\\u001b[2J\"").replace("[8,12]", "[12,8]"), 12));
    assert!(!message.contains('\u{1b}') && message.contains("\\u{1b}[2J"), "{message}");
}

/// The header's length stands first, and its bytes can spell any magic number.
#[test]
fn lengths_that_look_like_other_formats() {
    for magic in [*b"<\0", *b"<!", *b"PK"] {
        let length = u16::from_le_bytes(magic) as usize;
        Weights::from_bytes(file(&format!("{{{:1$}}}", "", length - 2), 0)).unwrap();
    }
}
