//! Paths: files, folders, shards, and what else can stand where a model is expected.

use super::{super::*, file, fixture};
use crate::ErrorKind;
use std::{fs, path::Path};

fn one(name: &str) -> Vec<u8> {
    file(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#), 2)
}

#[track_caller]
fn fails(path: &Path, kind: ErrorKind, expected: &str) {
    let error = Weights::open(path).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(expected), "expected {expected:?} in {error}");
}

#[test]
fn what_a_folder_may_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fails(path, ErrorKind::NotFound, "holds no weights");
    let names = |w: Weights| w.names();
    fs::copy(fixture("torch/wrapped.pt"), path.join("sam.pt")).unwrap();
    assert_eq!(Weights::open(path).unwrap().names().len(), 4);
    fs::copy(fixture("torch/kinds.pt"), path.join("more.pt")).unwrap();
    fails(path, ErrorKind::Argument, "more.pt, ");
    fs::write(path.join("any.safetensors"), one("any")).unwrap();
    assert_eq!(names(Weights::open(path).unwrap()), ["any"]);
    fs::write(path.join("diffusion_pytorch_model.safetensors"), one("diffusers")).unwrap();
    assert_eq!(names(Weights::open(path).unwrap()), ["diffusers"]);
    fs::write(path.join("model.safetensors"), one("model")).unwrap();
    let weights = Weights::open(path).unwrap();
    assert_eq!(names(weights.clone()), ["model"]);
    assert_eq!(weights.summary().bytes, one("model").len() as u64);
}

#[test]
fn what_is_not_a_weight_file() {
    let folder = tempfile::tempdir().unwrap();
    fails(&folder.path().join("absent.safetensors"), ErrorKind::NotFound, "absent.safetensors");
    let empty = folder.path().join("empty.pt");
    fs::write(&empty, b"").unwrap();
    fails(&empty, ErrorKind::Weights, "empty.pt: the file is empty");
    #[cfg(unix)]
    fails(Path::new("/dev/null"), ErrorKind::Input, "not a file");
}

/// A folder with two shards and this index.
fn shards(index: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("s1.safetensors"), one("a")).unwrap();
    fs::write(folder.path().join("s2.safetensors"), one("b")).unwrap();
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    folder
}

#[test]
fn shards_are_one_set_of_tensors() {
    let folder = shards(r#"{"metadata":{"total_size":4},"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}"#);
    for path in [folder.path().to_owned(), folder.path().join("model.safetensors.index.json")] {
        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.names(), ["a", "b"]);
        assert_eq!(weights.summary().format, Format::Sharded);
        assert_eq!(weights.get("b", &[2]).unwrap().bytes()[..], [0, 0]);
    }
}

#[test]
fn an_index_and_its_shards_must_agree() {
    for (map, kind, expected) in [
        (
            r#""a":"s1.safetensors","b":"s3.safetensors","c":"s4.safetensors""#,
            ErrorKind::NotFound,
            "2 of 3 shards are missing: \"s3.safetensors\", \"s4.safetensors\"",
        ),
        (
            r#""a":"s1.safetensors","b":"s1.safetensors""#,
            ErrorKind::Weights,
            "tensor \"b\" should be in \"s1.safetensors\", but is not",
        ),
        (
            r#""a":"s1.safetensors","c":"s2.safetensors""#,
            ErrorKind::Weights,
            "tensor \"b\" is in 's2.safetensors', but the index says no shard",
        ),
        (r#""a":"s2.safetensors","b":"s1.safetensors""#, ErrorKind::Weights, "but the index says \"s2.safetensors\""),
        (r#""a":"s1.safetensors","a":"s2.safetensors""#, ErrorKind::Weights, "the tensor \"a\" twice"),
        (r#""a":"../s1.safetensors""#, ErrorKind::Weights, "not a file beside it"),
        (r#""a":"/etc/passwd""#, ErrorKind::Weights, "not a file beside it"),
        (r#""a":"x/s1.safetensors""#, ErrorKind::Weights, "not a file beside it"),
        (r#""a":"..\\s1.safetensors""#, ErrorKind::Weights, "not a file beside it"),
        (r#""a":"..""#, ErrorKind::Weights, "not a file beside it"),
        (r#""a":"""#, ErrorKind::Weights, "not a file beside it"),
        ("", ErrorKind::Weights, "names no shards"),
        (r#""a":5"#, ErrorKind::Weights, "no index"),
    ] {
        fails(shards(&format!("{{\"weight_map\":{{{map}}}}}")).path(), kind, expected);
    }
    fails(shards("{}").path(), ErrorKind::Weights, "weight_map");
    fails(shards("").path(), ErrorKind::Weights, "no index");
}

#[test]
fn a_damaged_shard_is_named() {
    let folder = shards(r#"{"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}"#);
    fs::write(folder.path().join("s2.safetensors"), &one("b")[..20]).unwrap();
    fails(folder.path(), ErrorKind::Weights, "s2.safetensors: the header would be");
}
