//! Text to token ids, with the templates, the truncation and the padding that diffusers' FLUX pipelines use.

use crate::error::{ErrorKind, IntoError, Result, bail, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeMap, ops::Range};

/// The text encoders of FLUX, each with its own tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// CLIP-L: lower-case BPE between a start and an end token, padded with the end token on the right.
    Clip,
    /// T5: SentencePiece unigrams (as converted to `tokenizer.json`) and an end token, padded on the right.
    T5,
    /// Qwen3, of FLUX.2 klein: the prompt as the user's turn of a chat without thinking, padded on the right.
    Qwen3,
    /// Mistral Small 3, of FLUX.2 dev: the prompt after the pipeline's system message, padded on the left. `[IMG]`
    /// in a prompt would stand for a picture and is taken out, as the pipeline does it.
    Mistral,
}

/// What the chat templates put round a prompt.
const QWEN3: [&str; 2] = ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"];
const MISTRAL: [&str; 2] = [
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured responses focusing on \
     object relationships, object\nattribution and actions without speculation.[/SYSTEM_PROMPT][INST]",
    "[/INST]",
];

impl Kind {
    /// The tokens before and after the text, and that of the padding.
    const fn special(self) -> (Option<&'static str>, Option<&'static str>, &'static str) {
        match self {
            Self::Clip => (Some("<|startoftext|>"), Some("<|endoftext|>"), "<|endoftext|>"),
            Self::T5 => (None, Some("</s>"), "<pad>"),
            Self::Qwen3 => (None, None, "<|endoftext|>"),
            Self::Mistral => (Some("<s>"), None, "<pad>"),
        }
    }

    fn wrap(self, prompt: &str) -> String {
        match self {
            Self::Clip | Self::T5 => prompt.to_owned(),
            Self::Qwen3 => [QWEN3[0], prompt, QWEN3[1]].concat(),
            Self::Mistral => [MISTRAL[0], &prompt.replace("[IMG]", ""), MISTRAL[1]].concat(),
        }
    }

    /// What `tokenizer.json` says besides the vocabulary, for those that are also given as vocabulary and merges
    /// (transformers' `CLIPTokenizer` and `MistralConverter`).
    fn pipeline(self) -> Option<Value> {
        let split = |regex: &str, behavior: &str, invert: bool| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": behavior, "invert": invert });
        let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        match self {
            Self::Clip => Some(json!({
                "normalizer": { "type": "Sequence", "normalizers": [
                    { "type": "NFC" },
                    { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
                    { "type": "Lowercase" },
                ] },
                "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                    split(
                        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
                        "Removed",
                        true,
                    ),
                    bytes(true),
                ] },
                "model": { "unk_token": "<|endoftext|>", "end_of_word_suffix": "</w>" },
            })),
            Self::Mistral => Some(json!({
                "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                    split(
                        concat!(
                            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
                            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
                            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                        ),
                        "Isolated",
                        false,
                    ),
                    bytes(false),
                ] },
                "model": { "ignore_merges": true },
            })),
            Self::T5 | Self::Qwen3 => None,
        }
    }

    /// Whether a vocabulary entry is a special token: text that spells it becomes it.
    fn is_special(self, token: &str, id: u32) -> bool {
        match self {
            // The first thousand of a tekken vocabulary.
            Self::Mistral => id < 1000,
            _ => [self.special().0, self.special().1].contains(&Some(token)),
        }
    }
}

/// Token ids of a prompt, of the length that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The ids, padding included.
    pub ids: Vec<u32>,
    /// The positions that are not padding.
    pub real: Range<usize>,
    /// Tokens of the prompt, or of its template, that had no room.
    pub cut: usize,
}

/// The tokenizer of one text encoder.
pub struct Tokenizer {
    kind: Kind,
    inner: tokenizers::Tokenizer,
    before: Vec<u32>,
    after: Vec<u32>,
    pad: u32,
}

impl Tokenizer {
    /// Whether a folder has the files that [`open`](Self::open) reads.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn is_in(folder: &std::path::Path) -> bool {
        let has = |name: &str| folder.join(name).is_file();
        has("tokenizer.json") || (has("vocab.json") && has("merges.txt"))
    }

    /// The tokenizer in a folder: from `tokenizer.json`, or else from `vocab.json` and `merges.txt`. Or a `tokenizer.json`
    /// itself, of any name.
    ///
    /// # Errors
    /// `NotFound` if neither is there, `Weights` if they are damaged or of another tokenizer, `Io`.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(kind: Kind, folder: &std::path::Path) -> Result<Self> {
        use crate::error::Context;
        let read = |path: &std::path::Path| {
            std::fs::read(path).error(ErrorKind::Io, || format!("cannot read '{}'", path.display()))
        };
        if folder.is_file() {
            return Self::from_json(kind, &read(folder)?).context(|| format!("the tokenizer '{}'", folder.display()));
        }
        let read = |name: &str| read(&folder.join(name));
        let has = |name: &str| folder.join(name).is_file();
        let shown = || format!("the tokenizer in '{}'", folder.display());
        if has("tokenizer.json") {
            Self::from_json(kind, &read("tokenizer.json")?).context(shown)
        } else if has("vocab.json") && has("merges.txt") {
            Self::from_vocab(kind, &read("vocab.json")?, &read("merges.txt")?).context(shown)
        } else {
            let hint = if has("spiece.model") { "; convert its spiece.model with transformers" } else { "" };
            bail!(NotFound, "'{}' has no tokenizer.json{hint}", folder.display())
        }
    }

    /// The tokenizer that a `tokenizer.json` of the `tokenizers` library describes.
    ///
    /// # Errors
    /// `Weights` if it is damaged, or lacks the special tokens of this kind.
    pub fn from_json(kind: Kind, json: &[u8]) -> Result<Self> {
        let mut inner = match guarded(|| tokenizers::Tokenizer::from_bytes(json)) {
            Ok(inner) => inner,
            Err(e) => bail!(Weights, "no tokenizer: {e}"),
        };
        // Both are done here, for the length that is asked for.
        inner.with_padding(None);
        if let Err(e) = inner.with_truncation(None) {
            bail!(Internal, "no truncation: {e}");
        }
        let id = |token: &str| match inner.token_to_id(token) {
            Some(id) => Ok(id),
            None => Err(crate::Error::new(ErrorKind::Weights, format!("no token '{token}': not of {kind:?}"))),
        };
        let (before, after, pad) = kind.special();
        let (before, after) = (before.map(id).transpose()?, after.map(id).transpose()?);
        let pad = id(pad)?;
        Ok(Self { kind, before: before.into_iter().collect(), after: after.into_iter().collect(), pad, inner })
    }

    /// A byte-pair tokenizer from `vocab.json` (token to id) and `merges.txt` (two parts a line, the best first).
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json); `Weights` for T5 and Qwen3, whose vocabulary alone does not define them.
    pub fn from_vocab(kind: Kind, vocab: &[u8], merges: &[u8]) -> Result<Self> {
        let Some(mut all) = kind.pipeline() else { bail!(Weights, "{kind:?} needs a tokenizer.json") };
        let vocab: BTreeMap<String, u32> =
            serde_json::from_slice(vocab).error(ErrorKind::Weights, || "vocab.json cannot be read")?;
        let merges = std::str::from_utf8(merges).error(ErrorKind::Weights, || "merges.txt is not UTF-8")?;
        let lines = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
        let special = vocab.iter().filter(|(token, id)| kind.is_special(token, **id));
        let flag = |(token, id)| {
            json!({ "id": id, "content": token, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false })
        };
        all["added_tokens"] = special.map(flag).collect();
        all["model"]["type"] = "BPE".into();
        all["model"]["merges"] = lines.collect();
        all["model"]["vocab"] = json!(vocab);
        Self::from_json(kind, all.to_string().as_bytes())
    }

    /// The ids of `prompt`, wrapped as the encoder wants it: `length` of them, cut or padded.
    ///
    /// # Errors
    /// `Argument` if `length` has no room for a token of text, `Weights` if the tokenizer turns out to be damaged.
    pub fn encode(&self, prompt: &str, length: usize) -> Result<Tokens> {
        let fixed = self.before.len() + self.after.len();
        ensure!(length > fixed, Argument, "{length} tokens have no room for text: use at least {}", fixed + 1);
        let encoding = match guarded(|| self.inner.encode_fast(self.kind.wrap(prompt), false)) {
            Ok(encoding) => encoding,
            Err(e) => bail!(Weights, "the {:?} tokenizer: {e}", self.kind),
        };
        let text = encoding.get_ids();
        let room = text.len().min(length - fixed);
        let mut ids = [&self.before[..], &text[..room], &self.after[..]].concat();
        let real = match self.kind {
            Kind::Mistral => length - ids.len()..length,
            _ => 0..ids.len(),
        };
        ids.splice(0..0, std::iter::repeat_n(self.pad, real.start));
        ids.resize(length, self.pad);
        Ok(Tokens { ids, real, cut: text.len() - room })
    }
}

/// The library panics on some damaged files (a `Precompiled` normalizer without its map, for one).
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|_| Err("damaged".into()))
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({:?}, {} tokens)", self.kind, self.inner.get_vocab_size(true))
    }
}
