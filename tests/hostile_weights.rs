//! Damaged and hostile weight files: whatever the bytes, an error or tensors, no panic, and no more memory than the
//! file's own size and a constant.
//!
//! `PROPTEST_CASES=1000000 cargo test --test hostile_weights` runs longer; `fuzz/` holds the same as fuzz targets.

use impasto::{models::sam2, weights::Weights};
use proptest::{collection::vec, prelude::*, sample::select};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// Counts the bytes that this thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // The thread's locals may be gone when it ends.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `run` gives, and the most bytes that it held beyond those before.
fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let result = run();
    (result, (HELD.get().1 - before) as usize)
}

/// Opens the bytes and reads every tensor there is.
fn read_all(bytes: Vec<u8>, constant: usize) -> Option<usize> {
    let size = bytes.len();
    let (weights, opened) = peak(|| Weights::from_bytes(bytes));
    assert!(opened <= size + constant, "{opened} bytes held to open {size}");
    let weights = weights.ok()?;
    let names = weights.names();
    for name in &names {
        let (tensor, held) = peak(|| weights.tensor(name).unwrap());
        assert!(held <= size + constant, "{held} bytes held for a tensor of a file of {size}");
        let mut staging = [0.0; 64];
        let _ = tensor.for_each_f32(&mut staging, |_, _| Ok(()));
    }
    Some(names.len())
}

const SMALL: usize = 1 << 20;

/// Replaces, inserts or removes bytes at relative places.
#[derive(Debug, Clone)]
enum Edit {
    Set(u16, u8),
    Insert(u16, Vec<u8>),
    /// Over as many bytes: a length or an offset.
    Number(u16, u64),
    Remove(u16, u8),
    Cut(u16),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (any::<u16>(), interesting()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        2 => (any::<u16>(), 0..64u32, -1..2i64).prop_map(|(at, bit, by)| Edit::Number(at, (1u64 << bit).wrapping_add_signed(by))),
        2 => (any::<u16>(), 1..8u8).prop_map(|(at, n)| Edit::Remove(at, n)),
        1 => any::<u16>().prop_map(Edit::Cut),
    ]
}

fn interesting() -> impl Strategy<Value = Vec<u8>> {
    let tokens = [
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "-1",
        "0",
        "18446744073709551615",
        "9223372036854775807",
        "4294967296",
        "1e300",
        "null",
        "\"dtype\"",
        "\"F64\"",
        "\"BOOL\"",
        "\"shape\":[",
        "\"data_offsets\":[",
        "\\u0000",
        "__metadata__",
        "\u{7f}",
    ];
    prop_oneof![select(tokens.map(|t| t.as_bytes().to_vec()).to_vec()), vec(any::<u8>(), 1..9)]
}

fn apply(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let place = |at: u16| at as usize * bytes.len() / 65536;
        match edit {
            Edit::Set(at, byte) => {
                let at = place(*at);
                if let Some(b) = bytes.get_mut(at) {
                    *b = *byte;
                }
            }
            Edit::Insert(at, new) => {
                let at = place(*at);
                bytes.splice(at..at, new.iter().copied());
            }
            Edit::Number(at, n) => {
                let at = place(*at);
                bytes.iter_mut().skip(at).zip(n.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            Edit::Remove(at, n) => {
                let at = place(*at);
                bytes.drain(at..(at + *n as usize).min(bytes.len()));
            }
            Edit::Cut(at) => bytes.truncate(place(*at)),
        }
    }
    bytes
}

/// A safetensors file with this header, whose length is right.
fn with_header(header: &[u8], data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn good_header() -> impl Strategy<Value = (String, usize)> {
    let tensor = (select(vec![("F32", 4), ("F16", 2), ("F8_E4M3", 1), ("I64", 8), ("BOOL", 1)]), vec(0..5usize, 0..5));
    vec(tensor, 0..6).prop_map(|tensors| {
        let mut at = 0;
        let entry = |(i, ((dtype, size), shape)): (usize, &((&str, usize), Vec<usize>))| {
            let end = at + size * shape.iter().product::<usize>();
            let entry = format!(r#""t.{i}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{at},{end}]}}"#);
            at = end;
            entry
        };
        let entries: Vec<String> = tensors.iter().enumerate().map(entry).collect();
        (format!("{{{}}}", entries.join(",")), at)
    })
}

/// An archive as `torch.save` makes it, with this pickle and a storage of 16 bytes.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in [("a/data.pkl", pickle), ("a/data/0", &[0; 16])] {
        let (size, at) = ((data.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
        let lengths = [name.len() as u8, 0, 0, 0];
        file.extend([b"PK\x03\x04".as_slice(), &[0; 14], &size, &size, &lengths, name.as_bytes(), data].concat());
        directory.extend(
            [b"PK\x01\x02".as_slice(), &[0; 16], &size, &size, &lengths, &[0; 10], &at, name.as_bytes()].concat(),
        );
    }
    let (at, size) = ((file.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    file.extend(directory);
    file.extend([b"PK\x05\x06\0\0\0\0\x02\0\x02\0".as_slice(), &size, &at, &[0, 0]].concat());
    file
}

/// Pieces of pickles, whole enough that random rows of them often mean something.
fn pickle_piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"(", b")", b"]", b"}", b"N", b"0", b".", b"t", b"a", b"e", b"s", b"u", b"R", b"b", b"Q", b"\x85", b"\x86", b"\x87",
        b"\x88", b"\x93", b"\x94", b"K\x00", b"K\x01", b"K\x02", b"K\x04", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"j\x01\0\0\0",
        b"J\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"X\x01\0\0\0w", b"X\x01\0\0\x000", b"X\x05\0\0\0model",
        b"X\x07\0\0\0storage", b"X\xff\xff\xff\x7f", b"ctorch\nFloatStorage\n", b"ctorch\nLongStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n",
        b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ", b"K\x00K\x04\x85K\x01\x85\x89}tR",
        b"}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\x01K\x02\x85K\x02\x85\x89}tRs",
    ];
    prop_oneof![12 => select(pieces).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 1..4)]
}

proptest! {
    // No file of failures: what fails becomes a test with a name.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn good_headers_are_read((header, data) in good_header()) {
        prop_assert!(read_all(with_header(header.as_bytes(), data), SMALL).is_some());
    }

    #[test]
    fn damaged_headers((header, data) in good_header(), edits in vec(edit(), 1..6), extra in -3..3isize) {
        let header = apply(header.into_bytes(), &edits);
        read_all(with_header(&header, data.saturating_add_signed(extra)), SMALL);
    }

    #[test]
    fn damaged_files((header, data) in good_header(), edits in vec(edit(), 1..6)) {
        read_all(apply(with_header(header.as_bytes(), data), &edits), SMALL);
    }

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..400)) {
        read_all(bytes.clone(), SMALL);
        read_all(archive(&bytes), SMALL);
    }

    #[test]
    fn random_pickles(pieces in vec(pickle_piece(), 1..60)) {
        read_all(archive(&pieces.concat()), SMALL);
    }

    #[test]
    fn damaged_archives(index in 0..5usize, edits in vec(edit(), 1..6)) {
        let files: [&[u8]; 5] = [
            include_bytes!("fixtures/torch/kinds.pt"),
            include_bytes!("fixtures/torch/wrapped.pt"),
            include_bytes!("fixtures/torch/plain4.pt"),
            include_bytes!("fixtures/torch/expanded.pt"),
            include_bytes!("fixtures/torch/system.pt"),
        ];
        read_all(apply(files[index].to_vec(), &edits), SMALL);
    }

    /// Edits all over the file, and of its header only.
    #[test]
    fn damaged_gguf(edits in vec(edit(), 1..6), header in any::<bool>()) {
        let file: &[u8] = include_bytes!("fixtures/gguf/kinds.gguf");
        let (head, data) = file.split_at(if header { 1056 } else { file.len() });
        read_all([&apply(head.to_vec(), &edits), data].concat(), SMALL);
    }

    #[test]
    fn damaged_configs(edits in vec(edit(), 1..4)) {
        let json = apply(include_bytes!("fixtures/sam2_mini_image/config.json").to_vec(), &edits);
        let bytes: &'static [u8] = include_bytes!("fixtures/sam2_mini_image/model.safetensors");
        let weights = Weights::from_bytes(bytes).unwrap();
        let json = String::from_utf8_lossy(&json);
        let (_, held) = peak(|| sam2::from_parts(&weights, Some(&json)).is_ok());
        prop_assert!(held <= 4 * SMALL, "{held} bytes held for a config of {}", json.len());
    }
}

/// The constant of the header reader: no file makes it hold more than this beyond its own size.
#[test]
fn the_most_tensors_that_a_header_can_name() {
    for count in [100_000, 100_001] {
        let entries: Vec<String> = (0..count)
            .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, i + 1))
            .collect();
        let bytes = with_header(format!("{{{}}}", entries.join(",")).as_bytes(), count);
        let size = bytes.len();
        let (weights, held) = peak(|| Weights::from_bytes(bytes));
        assert_eq!(weights.is_ok(), count == 100_000);
        assert!(held <= size + (48 << 20), "{held} bytes held for {size}");
    }
}

/// The constant of the pickle machine.
#[test]
fn the_most_values_that_a_pickle_can_make() {
    for piece in [b"]".as_slice(), b"}", b"N", b"(", b"K\x01", b"]q\x00", b")Q", b"K\x00\x85", b"((((t", b"Nq\x00"] {
        let bytes = archive(&[piece.repeat(400_000).as_slice(), b"."].concat());
        let size = bytes.len();
        let (weights, held) = peak(|| Weights::from_bytes(bytes));
        assert!(weights.is_err());
        assert!(held <= size + (64 << 20), "{:?}: {held} bytes held for {size}", String::from_utf8_lossy(piece));
    }
}

/// Memo indices are names, not positions in an array that would be as long.
#[test]
fn a_memo_index_allocates_nothing() {
    let pickle: Vec<u8> =
        (0..100u32).flat_map(|i| [b"Nr".as_slice(), &(u32::MAX - i).to_le_bytes()].concat()).collect();
    let bytes = archive(&pickle);
    let (_, held) = peak(|| Weights::from_bytes(bytes));
    assert!(held <= SMALL, "{held} bytes held");
}

/// The same of GGUF files, whose infos are shorter.
#[test]
fn the_most_tensors_that_a_gguf_can_name() {
    for count in [100_000u64, 100_001] {
        let mut bytes = [&b"GGUF\x03\0\0\0"[..], &count.to_le_bytes(), &[0; 8]].concat();
        for i in 0..count {
            // A name of six digits, no axes, one I8.
            let info = [&6u64.to_le_bytes()[..], format!("{i:06}").as_bytes(), &[0; 4], &[24, 0, 0, 0]].concat();
            bytes.extend([&info[..], &(i * 32).to_le_bytes()].concat());
        }
        let header = bytes.len().next_multiple_of(32);
        bytes.resize(header + 32 * count as usize, 0);
        let size = bytes.len();
        let (weights, held) = peak(|| Weights::from_bytes(bytes));
        assert_eq!(weights.is_ok(), count == 100_000);
        assert!(held <= size + 64 * SMALL, "{held} bytes held to open {size}");
    }
}
