//! The tensors of a FLUX transformer: every name and shape that follows from a [`Config`] and a [`Layout`].

use super::{
    config::{Config, Version},
    names::Layout,
};
use crate::weights::Weights;

/// A tensor's name and its shape.
pub type Tensor = (String, Vec<usize>);

/// Sines and cosines of a timestep.
pub(super) const TIME_DIM: usize = 256;

/// Features that leave `linear1`: q, k, v, and the MLP's (twice that with a gate).
pub(super) fn linear1_rows(c: &Config) -> usize {
    3 * c.hidden + mlp_rows(c)
}

/// Features that leave the first layer of an MLP, before the gate.
pub(super) fn mlp_rows(c: &Config) -> usize {
    if c.version == Version::Flux2 { 2 * c.mlp } else { c.mlp }
}

/// The whole layer `name` of `n` rows or, where a checkpoint cuts it, its pieces with their rows.
pub(super) fn pieces(w: &Weights, name: &str, n: usize, cuts: &[(&str, usize)]) -> Vec<(String, usize)> {
    match w.at(name).has("weight") {
        true => vec![(name.into(), n)],
        false => cuts.iter().map(|(cut, rows)| (format!("{name}.{cut}"), *rows)).collect(),
    }
}

/// How diffusers cuts `qkv`.
pub(super) fn qkv_cuts(c: &Config) -> Vec<(&'static str, usize)> {
    ["q", "k", "v"].map(|cut| (cut, c.hidden)).to_vec()
}

/// How diffusers cuts `linear1` of FLUX.1.
pub(super) fn linear1_cuts(c: &Config) -> Vec<(&'static str, usize)> {
    let mut cuts = qkv_cuts(c);
    cuts.push(("mlp", mlp_rows(c)));
    cuts
}

/// All tensors.
pub fn tensors(c: &Config, layout: Layout) -> Vec<Tensor> {
    let mut list = List { tensors: Vec::new(), bias: c.bias() };
    let (h, d) = (c.hidden, c.head_dim());
    list.linear("img_in", h, c.in_channels);
    list.linear("txt_in", h, c.context);
    let embedders =
        [("time_in", Some(TIME_DIM)), ("guidance_in", c.guidance.then_some(TIME_DIM)), ("vector_in", c.pooled)];
    for (name, input) in embedders {
        if let Some(input) = input {
            list.linear(&format!("{name}.in_layer"), h, input);
            list.linear(&format!("{name}.out_layer"), h, h);
        }
    }
    for (name, vectors) in c.modulations() {
        let swapped = !layout.is_whole() && name.starts_with("final_layer");
        list.linear(&if swapped { format!("{name}.swapped") } else { name }, vectors * h, h);
    }
    for i in 0..c.double_blocks {
        for stream in ["img", "txt"] {
            let at = format!("double_blocks.{i}.{stream}");
            list.cut(&format!("{at}_attn.qkv"), 3 * h, h, (!layout.is_whole()).then(|| qkv_cuts(c)));
            list.norms(&format!("{at}_attn.norm"), d);
            list.linear(&format!("{at}_attn.proj"), h, h);
            list.linear(&format!("{at}_mlp.0"), mlp_rows(c), h);
            list.linear(&format!("{at}_mlp.2"), h, c.mlp);
        }
    }
    for i in 0..c.single_blocks {
        let at = format!("single_blocks.{i}");
        let cuts = (layout == Layout::Diffusers1).then(|| linear1_cuts(c));
        list.cut(&format!("{at}.linear1"), linear1_rows(c), h, cuts);
        list.linear(&format!("{at}.linear2"), h, h + c.mlp);
        list.norms(&format!("{at}.norm"), d);
    }
    list.linear("final_layer.linear", c.out_channels, h);
    list.tensors
}

struct List {
    tensors: Vec<Tensor>,
    bias: bool,
}

impl List {
    fn linear(&mut self, name: &str, n: usize, k: usize) {
        self.tensors.push((format!("{name}.weight"), vec![n, k]));
        if self.bias {
            self.tensors.push((format!("{name}.bias"), vec![n]));
        }
    }

    /// A layer that a checkpoint may have in pieces.
    fn cut(&mut self, name: &str, n: usize, k: usize, cuts: Option<Vec<(&str, usize)>>) {
        match cuts {
            Some(cuts) => cuts.iter().for_each(|(cut, rows)| self.linear(&format!("{name}.{cut}"), *rows, k)),
            None => self.linear(name, n, k),
        }
    }

    fn norms(&mut self, name: &str, d: usize) {
        for norm in ["query_norm", "key_norm"] {
            self.tensors.push((format!("{name}.{norm}.scale"), vec![d]));
        }
    }
}
