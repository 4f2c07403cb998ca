//! The ids of the reference, from tokenizers that `tests/fixtures/tokenizers/make.py` has pruned.

use super::*;
use crate::ErrorKind;
use proptest::prelude::*;
use std::path::PathBuf;

const KINDS: [(Kind, &str); 4] =
    [(Kind::Clip, "clip"), (Kind::T5, "t5"), (Kind::Qwen3, "qwen3"), (Kind::Mistral, "mistral")];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

fn open() -> [Tokenizer; 4] {
    KINDS.map(|(kind, name)| Tokenizer::open(kind, &folder(name)).unwrap())
}

#[derive(serde::Deserialize)]
struct Fixture {
    t5_ids: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    clip77: Vec<u32>,
    t5: Vec<u32>,
    t5_64: Vec<u32>,
    qwen3_chat: Vec<u32>,
    mistral: Vec<u32>,
}

#[test]
fn the_ids_of_the_reference() {
    let fixture: Fixture = serde_json::from_slice(&std::fs::read(folder("cases.json")).unwrap()).unwrap();
    let [clip, t5, qwen3, mistral] = open();
    assert_eq!(fixture.cases.len(), 26);
    for case in fixture.cases {
        let text = &case.text;
        assert_eq!(clip.encode(text, 77).unwrap().ids, case.clip77, "{text:?}");
        let full = |ids: Vec<u32>| ids.into_iter().map(|i| fixture.t5_ids[i as usize]).collect::<Vec<u32>>();
        assert_eq!(full(t5.encode(text, 64).unwrap().ids), case.t5_64, "{text:?}");
        // With room for all, the rest is padding.
        let (tokens, n) = (t5.encode(text, 300).unwrap(), case.t5.len());
        assert_eq!((tokens.real, tokens.cut), (0..n, 0), "{text:?}");
        assert_eq!(full(tokens.ids), [case.t5, vec![0; 300 - n]].concat(), "{text:?}");
        let (tokens, n) = (qwen3.encode(text, 300).unwrap(), case.qwen3_chat.len());
        assert_eq!((tokens.real, tokens.cut), (0..n, 0), "{text:?}");
        assert_eq!(tokens.ids, [case.qwen3_chat, vec![151_643; 300 - n]].concat(), "{text:?}");
        let (tokens, n) = (mistral.encode(text, 512).unwrap(), case.mistral.len());
        assert_eq!((tokens.real, tokens.cut), (512 - n..512, 0), "{text:?}");
        assert_eq!(tokens.ids, [vec![11; 512 - n], case.mistral].concat(), "{text:?}");
    }
}

#[test]
fn what_has_no_room_is_cut_at_the_end() {
    for (tokenizer, fixed) in open().iter().zip([(1, 1), (0, 1), (0, 0), (1, 0)]) {
        let whole = tokenizer.encode("a photo of a cat", 100).unwrap();
        assert_eq!(whole.cut, 0);
        let real = &whole.ids[whole.real.clone()];
        let text = &real[fixed.0..real.len() - fixed.1];
        let cut = tokenizer.encode("a photo of a cat", real.len() - 2).unwrap();
        assert_eq!((cut.real, cut.cut), (0..real.len() - 2, 2), "{tokenizer:?}");
        let expected = [&real[..fixed.0], &text[..text.len() - 2], &real[real.len() - fixed.1..]].concat();
        assert_eq!(cut.ids, expected, "{tokenizer:?}");
        // As long as the text, exactly.
        assert_eq!(tokenizer.encode("a photo of a cat", real.len()).unwrap().ids, real, "{tokenizer:?}");
        let least = fixed.0 + fixed.1;
        assert_eq!(tokenizer.encode("a", least).unwrap_err().kind(), ErrorKind::Argument, "{tokenizer:?}");
        assert_eq!(tokenizer.encode("a", least + 1).unwrap().ids.len(), least + 1);
    }
}

#[test]
fn a_picture_is_no_text() {
    let [.., mistral] = open();
    assert_eq!(mistral.encode("a [IMG]cat", 512).unwrap(), mistral.encode("a cat", 512).unwrap());
}

#[test]
fn a_prompt_of_a_book() {
    for tokenizer in open() {
        for text in ["a photo of a cat ".repeat(6000), "a".repeat(100_000)] {
            let tokens = tokenizer.encode(&text, 77).unwrap();
            assert!(tokens.ids.len() == 77 && tokens.real == (0..77) && tokens.cut > 1000, "{tokenizer:?}");
        }
    }
}

#[test]
fn what_is_no_tokenizer() {
    for (kind, name) in KINDS {
        let none = Tokenizer::open(kind, &folder("nowhere")).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
        for json in [&b""[..], b"{}", b"[1]", b"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[\"a b\"]}}"] {
            assert_eq!(Tokenizer::from_json(kind, json).unwrap_err().kind(), ErrorKind::Weights, "{kind:?}");
            assert_eq!(Tokenizer::from_vocab(kind, json, b"").unwrap_err().kind(), ErrorKind::Weights, "{kind:?}");
        }
        // Another kind's.
        let other = if name == "t5" { Kind::Clip } else { Kind::T5 };
        let error = Tokenizer::open(other, &folder(name)).unwrap_err();
        assert!(error.kind() == ErrorKind::Weights && error.to_string().contains(name), "{error}");
    }
    // The file instead of its folder.
    let file = Tokenizer::open(Kind::T5, &folder("t5/tokenizer.json")).unwrap();
    assert_eq!(
        file.encode("a cat", 8).unwrap(),
        Tokenizer::open(Kind::T5, &folder("t5")).unwrap().encode("a cat", 8).unwrap()
    );
    let vocab = br#"{"<|startoftext|>": 1, "<|endoftext|>": 2, "a": 0}"#;
    Tokenizer::from_vocab(Kind::Clip, vocab, b"#version: 0.2\n").unwrap();
    for merges in [&b"a b\n"[..], b"a\n", b"a a a\n", b"\xff"] {
        assert_eq!(Tokenizer::from_vocab(Kind::Clip, vocab, merges).unwrap_err().kind(), ErrorKind::Weights);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]

    /// Damaged files give an error or ids, whatever the damage.
    #[test]
    fn damaged_files(edits in prop::collection::vec((any::<u32>(), any::<u8>()), 1..4), qwen in any::<bool>()) {
        let (kind, name) = if qwen { (Kind::Qwen3, "qwen3") } else { (Kind::T5, "t5") };
        let mut json = std::fs::read(folder(name).join("tokenizer.json")).unwrap();
        for (at, byte) in edits {
            let at = at as usize % json.len();
            json[at] = byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_json(kind, &json) {
            let _ = tokenizer.encode("A photo of a cat, Zürich", 64);
        }
    }
}
