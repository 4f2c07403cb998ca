//! The models that impasto knows by name.

/// A published model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Its id on the Hub.
    pub id: &'static str,
    /// What it may be called instead, the shortest first.
    pub short: &'static [&'static str],
    /// About how many bytes `pull` downloads: four for each parameter.
    pub bytes: u64,
    /// The licence, as an SPDX identifier where there is one.
    pub licence: &'static str,
    /// Whether the Hub asks to accept the licence, and for a token, first.
    pub gated: bool,
    /// One line on what it is.
    pub what: &'static str,
}

/// The models for `impasto models list`.
pub const MODELS: [Model; 8] = [
    sam2("facebook/sam2.1-hiera-tiny", &["tiny", "sam2.1-tiny", "sam2.1-hiera-tiny"], 155_850_000, TINY),
    sam2("facebook/sam2.1-hiera-small", &["small", "sam2.1-small", "sam2.1-hiera-small"], 184_250_000, SMALL),
    sam2(
        "facebook/sam2.1-hiera-base-plus",
        &["base-plus", "sam2.1-base-plus", "sam2.1-hiera-base-plus"],
        323_402_000,
        BASE,
    ),
    sam2("facebook/sam2.1-hiera-large", &["large", "sam2.1-large", "sam2.1-hiera-large"], 897_788_000, LARGE),
    sam2("facebook/sam2-hiera-tiny", &["sam2-tiny", "sam2-hiera-tiny"], 155_785_000, TINY0),
    sam2("facebook/sam2-hiera-small", &["sam2-small", "sam2-hiera-small"], 184_185_000, SMALL0),
    sam2("facebook/sam2-hiera-base-plus", &["sam2-base-plus", "sam2-hiera-base-plus"], 323_336_000, BASE0),
    sam2("facebook/sam2-hiera-large", &["sam2-large", "sam2-hiera-large"], 897_722_000, LARGE0),
];

const TINY: &str = "Segment Anything 2.1, the fastest: 39 M parameters";
const SMALL: &str = "Segment Anything 2.1, 46 M parameters";
const BASE: &str = "Segment Anything 2.1, 81 M parameters";
const LARGE: &str = "Segment Anything 2.1, the best: 224 M parameters";
const TINY0: &str = "Segment Anything 2.0, 39 M parameters";
const SMALL0: &str = "Segment Anything 2.0, 46 M parameters";
const BASE0: &str = "Segment Anything 2.0, 81 M parameters";
const LARGE0: &str = "Segment Anything 2.0, 224 M parameters";

const fn sam2(id: &'static str, short: &'static [&'static str], bytes: u64, what: &'static str) -> Model {
    Model { id, short, bytes, licence: "Apache-2.0", gated: false, what }
}

impl Model {
    /// The model with this id or short name.
    pub fn find(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|m| m.id == name || m.short.contains(&name))
    }
}
