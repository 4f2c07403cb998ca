//! [`Config`]: what distinguishes one FLUX transformer from another, and the released ones.
//!
//! Source: `configs` in `src/flux/util.py` of black-forest-labs/flux, and `src/flux2/model.py` and `util.py` of
//! black-forest-labs/flux2.

use super::sampling::FILL_FEATURES;
use crate::error::{Result, bail};
use std::fmt;

/// FLUX.1 or FLUX.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// August 2024: modulation in every block, biases, GELU, text from CLIP and T5, 16 latent channels.
    Flux1,
    /// November 2025: modulation shared by all blocks, no biases, SwiGLU, text from a language model, 32 latent channels.
    Flux2,
}

/// What a transformer reads in a picture token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Latents and nothing else.
    Latents,
    /// Latents, and those of a picture to follow: FLUX.1 Canny and Depth.
    Control,
    /// Latents, those of a masked picture, and the mask: FLUX.1 Fill.
    Fill,
}

/// A transformer's sizes and constants.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The architecture.
    pub version: Version,
    /// Features of a token.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks in which text and picture have weights of their own.
    pub double_blocks: usize,
    /// Blocks in which they are one sequence.
    pub single_blocks: usize,
    /// Features inside an MLP, after the gate.
    pub mlp: usize,
    /// Features of a text token.
    pub context: usize,
    /// Features of the pooled text (CLIP), FLUX.1 only.
    pub pooled: Option<usize>,
    /// Channels of a picture token that come in: latent, and condition for Fill, Canny and Depth.
    pub in_channels: usize,
    /// Channels of a picture token that go out.
    pub out_channels: usize,
    /// Whether guidance is an input, as in the guidance-distilled models.
    pub guidance: bool,
    /// How much of a head each position axis turns: time, row, column, text.
    pub axes: [usize; 4],
    /// Base of the rotary frequencies.
    pub theta: f64,
}

impl Config {
    /// Features of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Whether linear layers have biases.
    pub(super) fn bias(&self) -> bool {
        self.version == Version::Flux1
    }

    /// The modulation layers in the order of their vectors, each with its number of vectors: shift, scale and gate, once
    /// or twice; shift and scale for the final layer.
    pub(super) fn modulations(&self) -> Vec<(String, usize)> {
        let mut all = Vec::new();
        match self.version {
            Version::Flux1 => {
                for i in 0..self.double_blocks {
                    all.push((format!("double_blocks.{i}.txt_mod.lin"), 6));
                    all.push((format!("double_blocks.{i}.img_mod.lin"), 6));
                }
                all.extend((0..self.single_blocks).map(|i| (format!("single_blocks.{i}.modulation.lin"), 3)));
            }
            Version::Flux2 => {
                all.push(("double_stream_modulation_txt.lin".into(), 6));
                all.push(("double_stream_modulation_img.lin".into(), 6));
                all.push(("single_stream_modulation.lin".into(), 3));
            }
        }
        all.push(("final_layer.adaLN_modulation.1".into(), 2));
        all
    }

    /// Elements from one vector of a step to the next: each block binds its own vectors, at a multiple of 256 bytes.
    pub(super) fn vector_stride(&self) -> usize {
        self.hidden.next_multiple_of(64)
    }

    /// Vectors of one step, of `hidden` elements each.
    pub fn vectors(&self) -> usize {
        self.final_vectors() + 2
    }

    /// The first vector of double block `i`: six for text, then six for the picture.
    pub(super) fn double_vectors(&self, i: usize) -> usize {
        if self.version == Version::Flux1 { 12 * i } else { 0 }
    }

    /// The first of the three vectors of single block `i`.
    pub(super) fn single_vectors(&self, i: usize) -> usize {
        if self.version == Version::Flux1 { 12 * self.double_blocks + 3 * i } else { 12 }
    }

    /// The first of the two vectors of the final layer.
    pub(super) fn final_vectors(&self) -> usize {
        if self.version == Version::Flux1 { self.single_vectors(self.single_blocks) } else { 15 }
    }

    /// What it reads in a picture token, told by its channels.
    ///
    /// # Errors
    /// `Weights` if no model has so many.
    pub fn reads(&self) -> Result<Reads> {
        let out = self.out_channels;
        Ok(match (self.version, self.in_channels) {
            (_, n) if n == out => Reads::Latents,
            (Version::Flux1, n) if n == 2 * out => Reads::Control,
            (Version::Flux1, n) if n == 2 * out + FILL_FEATURES => Reads::Fill,
            _ => bail!(Weights, "a {self}, of which {out} are latents: what the others are is not known"),
        })
    }

    /// The name of the released model that this is, if it is one.
    pub fn name(&self) -> Option<&'static str> {
        RELEASED.iter().find(|(_, released)| released == self).map(|(name, _)| *name)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version == Version::Flux1 { 1 } else { 2 };
        match self.name() {
            Some(name) => write!(f, "FLUX.{version} transformer of the size of {name}"),
            None => write!(
                f,
                "FLUX.{version} transformer of {} features, {} double and {} single blocks, {} input channels",
                self.hidden, self.double_blocks, self.single_blocks, self.in_channels
            ),
        }
    }
}

/// The released sizes. Krea and Kontext are `flux1-dev`, the base models of klein are klein.
pub const RELEASED: [(&str, Config); 7] = [
    ("flux1-dev", FLUX1_DEV),
    ("flux1-schnell", Config { guidance: false, ..FLUX1_DEV }),
    ("flux1-fill-dev", Config { in_channels: 384, ..FLUX1_DEV }),
    ("flux1-canny-dev", Config { in_channels: 128, ..FLUX1_DEV }),
    ("flux2-klein-4b", flux2(3072, 5, 20, 7680, false)),
    ("flux2-klein-9b", flux2(4096, 8, 24, 12288, false)),
    ("flux2-dev", flux2(6144, 8, 48, 15360, true)),
];

const FLUX1_DEV: Config = Config {
    version: Version::Flux1,
    hidden: 3072,
    heads: 24,
    double_blocks: 19,
    single_blocks: 38,
    mlp: 12288,
    context: 4096,
    pooled: Some(768),
    in_channels: 64,
    out_channels: 64,
    guidance: true,
    axes: [16, 56, 56, 0],
    theta: 10_000.0,
};

const fn flux2(hidden: usize, double_blocks: usize, single_blocks: usize, context: usize, guidance: bool) -> Config {
    Config {
        version: Version::Flux2,
        hidden,
        heads: hidden / 128,
        double_blocks,
        single_blocks,
        mlp: 3 * hidden,
        context,
        pooled: None,
        in_channels: 128,
        out_channels: 128,
        guidance,
        axes: [32; 4],
        theta: 2000.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_lie_where_the_modulations_put_them() {
        for (name, c) in RELEASED {
            let reads = match name {
                "flux1-fill-dev" => Reads::Fill,
                "flux1-canny-dev" => Reads::Control,
                _ => Reads::Latents,
            };
            assert_eq!(c.reads().unwrap(), reads, "{name}");
            assert!(Config { in_channels: c.in_channels + 4, ..c.clone() }.reads().is_err());
            let (mut at, mut place) = (0, std::collections::HashMap::new());
            for (layer, vectors) in c.modulations() {
                place.insert(layer, at);
                at += vectors;
            }
            assert_eq!(at, c.vectors(), "{name}");
            assert_eq!(place["final_layer.adaLN_modulation.1"], c.final_vectors(), "{name}");
            let [double, single] = match c.version {
                Version::Flux1 => ["double_blocks.7.*_mod.lin", "single_blocks.9.modulation.lin"],
                Version::Flux2 => ["double_stream_modulation_*.lin", "single_stream_modulation.lin"],
            };
            let streams = ["txt", "img"].map(|stream| place[&double.replace('*', stream)]);
            assert_eq!(streams, [0, 6].map(|stream| c.double_vectors(7) + stream), "{name}");
            assert_eq!(place[single], c.single_vectors(9), "{name}");
        }
    }
}
