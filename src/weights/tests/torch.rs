//! `torch.save` files: real ones from `tests/fixtures/torch/make.py`, and hostile ones made byte by byte.

use super::{super::*, fixture, refused};

fn open(name: &str) -> crate::Result<Weights> {
    Weights::open(&fixture("torch").join(name))
}

#[track_caller]
fn fails(name: &str, expected: &[&str]) {
    let error = open(name).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Weights);
    for expected in expected {
        assert!(error.to_string().contains(expected), "expected {expected:?} in {error}");
    }
}

/// An archive like `torch.save`'s with these entries, stored.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (name, size, at) = (format!("archive/{name}"), (data.len() as u32).to_le_bytes(), file.len() as u32);
        let lengths = [name.len() as u8, 0, 0, 0];
        file.extend(
            [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0".as_slice(), &size, &size, &lengths, name.as_bytes(), data]
                .concat(),
        );
        directory
            .extend([b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0".as_slice(), &size, &size, &lengths].concat());
        directory.extend([&[0; 10][..], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let (at, size, count) = (file.len() as u32, directory.len() as u32, entries.len() as u8);
    file.extend(directory);
    file.extend(
        [b"PK\x05\x06\0\0\0\0".as_slice(), &[count, 0, count, 0], &size.to_le_bytes(), &at.to_le_bytes(), &[0, 0]]
            .concat(),
    );
    file
}

fn pickled(pickle: &[u8]) -> Vec<u8> {
    archive(&[("data.pkl", pickle), ("data/0", &[0; 16])])
}

/// A pickle of `{"w": tensor}` whose tensor is built by these opcodes between its storage and the call.
fn tensor(arguments: &[u8]) -> Vec<u8> {
    let storage = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    pickled(&[b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n", &storage[..], arguments, b"tRs."].concat())
}

#[track_caller]
fn says(bytes: Vec<u8>, expected: &str) {
    let message = refused(bytes);
    assert!(message.contains(expected), "expected {expected:?} in {message:?}");
}

#[test]
fn every_kind_of_tensor() {
    let weights = open("kinds.pt").unwrap();
    let values = |name: &str, shape: &[usize]| weights.get(name, shape).unwrap().to_f32().unwrap();
    let run = |from: usize, n: usize| (from..from + n).map(|i| i as f32).collect::<Vec<_>>();
    assert_eq!(values("plain", &[2, 3]), run(1, 6));
    assert_eq!(values("scalar", &[]), run(7, 1));
    assert!(values("empty", &[0, 4]).is_empty());
    assert_eq!(values("half", &[5]), run(2, 5));
    assert_eq!(values("bfloat", &[5]), run(3, 5));
    assert_eq!(values("double", &[2, 2]), run(4, 4));
    assert_eq!(values("view_a", &[3, 4]), run(100, 12));
    assert_eq!(values("view_b", &[3, 4]), run(112, 12));
    assert_eq!(values("parameter", &[2, 2]), run(40, 4));
    assert_eq!(values("no_grad", &[2]), run(50, 2));
    assert_eq!(weights.get("long", &[3]).unwrap().bytes()[..9], [5, 0, 0, 0, 0, 0, 0, 0, 6]);
    assert_eq!(weights.get("byte", &[3]).unwrap().bytes()[..], [6, 7, 8]);
    assert_eq!(weights.get("bool", &[3]).unwrap().bytes()[..], [1, 0, 1]);
    // Whatever is no tensor is not there.
    assert_eq!(weights.names().len(), 17);
}

#[test]
fn other_element_orders_are_put_in_ours() {
    let weights = open("kinds.pt").unwrap();
    let values = |name: &str, shape: &[usize]| weights.get(name, shape).unwrap().to_f32().unwrap();
    let transposed: Vec<f32> = (0..4).flat_map(|x| (0..3).map(move |y| (10 + 4 * y + x) as f32)).collect();
    assert_eq!(values("transposed", &[4, 3]), transposed);
    // (2, 3, 4) seen as (4, 2, 3)
    let permuted: Vec<f32> = (0..4).flat_map(|c| (0..6).map(move |ab| (20 + 4 * ab + c) as f32)).collect();
    assert_eq!(values("permuted", &[4, 2, 3]), permuted);
    assert_eq!(values("column", &[6]), [101.0, 105.0, 109.0, 113.0, 117.0, 121.0]);
    assert_eq!(values("channels_last", &[1, 2, 2, 2]), (30..38).map(|i| i as f32).collect::<Vec<_>>());
}

#[test]
fn state_dicts_wrapped_and_plain() {
    for name in ["wrapped.pt", "plain4.pt"] {
        let weights = open(name).unwrap();
        assert_eq!(weights.names(), ["0.bias", "0.weight", "1.bias", "1.weight"], "{name}");
        assert_eq!(weights.at(1).get("weight", &[2]).unwrap().to_f32().unwrap(), [1.0, 1.0]);
        assert_eq!(weights.summary().format, Format::Torch);
    }
}

#[test]
fn tensors_are_slices_of_the_file() {
    let bytes: std::sync::Arc<[u8]> = std::fs::read(fixture("torch/wrapped.pt")).unwrap().into();
    let weights = Weights::from_bytes(bytes.clone()).unwrap();
    let tensor = weights.get("0.weight", &[2, 3]).unwrap();
    assert!(bytes.as_ptr_range().contains(&tensor.bytes().as_ptr()));
}

#[test]
fn code_is_refused_by_name_and_not_run() {
    fails("system.pt", &["\"posix.system\"", "runs no code", "at byte"]);
    fails("module.pt", &["torch.nn.modules.linear.Linear"]);
    fails("legacy.pt", &["before 1.6"]);
    fails("expanded.pt", &["expanded", "(1000)"]);
    assert!(!std::path::Path::new("/tmp/impasto-was-here").exists());
    for global in [&b"c__builtin__\neval\n."[..], b"\x8c\x08builtins\x8c\x04eval\x93."] {
        says(pickled(global), "eval");
    }
    // The text is what counts: a name of an allowed function in another module is another function.
    says(pickled(b"cos\n_rebuild_tensor_v2\n."), "os._rebuild_tensor_v2");
    // INST, OBJ, NEWOBJ, EXT1, PERSID, NEXT_BUFFER, LONG: opcodes that no state dict needs.
    for op in [b'i', b'o', 0x81, 0x82, b'P', 0x97, b'L'] {
        says(pickled(&[0x80, 2, op]), "opcode");
    }
}

#[test]
fn every_truncation_is_refused() {
    for name in ["wrapped.pt", "plain4.pt", "expanded.pt", "system.pt"] {
        let whole = std::fs::read(fixture("torch").join(name)).unwrap();
        for length in 0..whole.len() {
            refused(whole[..length].to_vec());
        }
    }
}

#[test]
fn every_truncated_pickle_is_refused() {
    // Whole archives around them, so that the machine itself meets the end.
    let whole = b"\x80\x02}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\0K\x04\x85K\x01\x85\x89}tRu.";
    Weights::from_bytes(pickled(whole)).unwrap().get("w", &[4]).unwrap();
    for length in 0..whole.len() {
        refused(pickled(&whole[..length]));
    }
}

#[test]
fn lengths_that_lie() {
    says(pickled(b"X\xff\xff\xff\xffabc."), "a length of 4294967295 lies");
    says(pickled(b"B\xff\xff\xff\x7fabc."), "a length of 2147483647 lies");
    says(pickled(b"\x8a\xff\x01."), "lies");
    says(pickled(b"\x8a\x09123456789."), "an integer of 9 bytes");
    says(pickled(&[b"c".as_slice(), &[b'a'; 4000], b"\nb\n."].concat()), "does not end");
}

#[test]
fn stacks_marks_and_memos_that_are_not_there() {
    for (pickle, expected) in [
        (&b"."[..], "empty stack"),
        (b"(.", "empty stack"),
        (b"0.", "empty stack"),
        (b"K\x01t.", "closes what it has not opened"),
        (b"\x85.", "empty stack"),
        (b"h\x00.", "never remembered"),
        (b"j\xff\xff\xff\xff.", "never remembered"),
        (b"q\x00.", "empty stack"),
        (b"(q\x00h\x00.", "never remembered"),
        (b"K\x01K\x02a.", "neither a list nor a dict"),
        (b"}K\x01a.", "not a list"),
        (b"]K\x01K\x02s.", "not a dict"),
        (b"}(K\x01u.", "without a value"),
        (b"K\x01)R.", "no function"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "with arguments"),
        (b"ccollections\nOrderedDict\nK\x01R.", "expected a tuple"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "not made of a tensor"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "not made of storage"),
        (b")Q.", "no storage"),
        (b"]}b.", "no OrderedDict"),
        (b"K\x01.", "other than a dict"),
        (b"}.", "no tensors in the dict"),
        (b"}X\x05\0\0\0model}s.", "its keys: \"model\""),
    ] {
        says(pickled(pickle), expected);
    }
}

#[test]
fn pickles_that_contain_themselves_or_nest_without_end() {
    // A list in itself; a dict under "model" in itself: found and done with, without following the circle.
    says(pickled(b"]q\x00h\x00a."), "other than a dict");
    says(pickled(b"}q\x00X\x05\0\0\0modelh\x00s."), "no tensors");
    // A hundred thousand tuples in each other, dropped without recursion.
    says(pickled(&[b")".as_slice(), &[0x85; 100_000], b"."].concat()), "other than a dict");
    // More values than any state dict has.
    says(pickled(&[b"(".as_slice(), &[b'N'; 300_000], b"t."].concat()), "more than 262144 values");
    says(pickled(&[b"N".as_slice(), b"q\x00".repeat(300_000).as_slice(), b"."].concat()), "more than 262144 values");
    // A long tuple as arguments, again and again.
    let long = [b"ccollections\nOrderedDict\n(".as_slice(), &[b'N'; 100], b"tR."].concat();
    says(pickled(&long), "100 arguments");
}

#[test]
fn tensors_that_leave_their_storage() {
    // offset, size, stride, requires_grad, hooks
    Weights::from_bytes(tensor(b"K\x00K\x04\x85K\x01\x85\x89}")).unwrap();
    Weights::from_bytes(tensor(b"K\x03)\x29\x89}")).unwrap();
    for (arguments, expected) in [
        (&b"K\x01K\x04\x85K\x01\x85\x89}"[..], "leaves its storage"),
        (b"K\x00K\x05\x85K\x01\x85\x89}", "leaves its storage"),
        (b"K\x00K\x03\x85K\x02\x85\x89}", "leaves its storage"),
        (b"K\x04))\x89}", "leaves its storage"),
        (b"K\x00K\x05\x85K\x00\x85\x89}", "expanded"),
        (b"J\xff\xff\xff\xffK\x04\x85K\x01\x85\x89}", "negative"),
        (b"K\x00J\xff\xff\xff\xff\x85K\x01\x85\x89}", "negative"),
        (b"K\x00K\x04\x85J\xff\xff\xff\xff\x85\x89}", "negative"),
        (b"K\x00K\x02K\x02\x86K\x01\x85\x89}", "2 sizes and 1 strides"),
        (b"K\x00\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85K\x00\x85\x89}", "overflows"),
        (b"K\x00K\x02\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85\x89}", "leaves its storage"),
        (
            b"K\x00(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t\x89}",
            "9 axes",
        ),
    ] {
        says(tensor(arguments), expected);
    }
}

#[test]
fn storages_that_are_not_as_said() {
    let pickle = |numel: &[u8], key: &[u8]| {
        let storage = [
            b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0".as_slice(),
            key,
            b"X\x03\0\0\0cpu",
            numel,
            b"tQK\0)",
        ]
        .concat();
        [b"}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n", &storage[..], b")\x89}tRs."].concat()
    };
    says(pickled(&pickle(b"K\x03", b"0")), "is said to hold 3 F32 but has 16 bytes");
    says(pickled(&pickle(b"K\x05", b"0")), "is said to hold 5 F32 but has 16 bytes");
    says(pickled(&pickle(b"K\x04", b"1")), "storage \"1\" is not in the archive");
    says(pickled(&pickle(b"J\xff\xff\xff\xff", b"0")), "a storage of -1");
    Weights::from_bytes(pickled(&pickle(b"K\x04", b"0"))).unwrap();
    let big_endian = archive(&[("byteorder", b"big"), ("data.pkl", &pickle(b"K\x04", b"0")), ("data/0", &[0; 16])]);
    says(big_endian, "not little-endian");
}

#[test]
fn archives_that_lie() {
    says(b"PK\x03\x04".to_vec(), "directory at the end is missing");
    says(archive(&[("readme", b"hello")]), "no data.pkl");
    says(archive(&[("data.pkl", b"}."), ("data.pkl", b"}.")]), "two archive entries");
    says(archive(&[("data.pkl", b"}."), ("b/data.pkl", b"}.")]), "more than one data.pkl");
    let good = archive(&[("data.pkl", b"}.")]);
    let directory = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let end = good.windows(4).position(|w| w == b"PK\x05\x06").unwrap();
    for (at, value, expected) in [
        (directory + 8, 1, "encrypted"),
        (directory + 10, 8, "compressed"),
        (directory + 24, 200, "compressed"),
        (directory + 42, 9, "not inside the file"),
        (directory, b'Q', "directory is damaged"),
        (directory + 28, 255, "directory is damaged"),
        (end + 12, 255, "outside the file"),
        (end + 19, 255, "outside the file"),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        says(bad, expected);
    }
    let mut long = good.clone();
    long[directory + 20] = 200;
    long[directory + 24] = 200;
    says(long, "not inside the file");
}
