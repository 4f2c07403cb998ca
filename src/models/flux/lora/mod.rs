//! LoRA files: which rows of which linear layer each of their adapters changes.
//!
//! An adapter adds `scale * B A x` to some rows of a layer's output `W x`. Files name the layers as the program did that
//! made them; here they go by the authors' names (`double_blocks.3.img_attn.qkv`), where q, k and v are rows of one layer.
//! Names are looked up among those of the model's own layers (`names`), never taken apart: in kohya's form
//! `img_attn_qkv` nothing says which underscores were dots.

mod alpha;
mod names;
#[cfg(test)]
mod tests;

use super::{config::Config, names::Layout, tensors::tensors};
use crate::{
    error::{Context, Result, bail, ensure},
    nn::{Adapters, LowRank},
    weights::{HostTensor, Weights},
};
use alpha::Alphas;
use names::{Part, Target};
use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::Arc,
};

/// The linear layers of a transformer: their paths in the authors' names, and `[outputs, inputs]`.
#[derive(Debug, Clone, Default)]
pub struct Modules(BTreeMap<String, [usize; 2]>);

impl Modules {
    /// Those of a transformer, whatever the layout of its checkpoint.
    pub fn of_config(c: &Config) -> Self {
        let module = |(name, shape): (String, Vec<usize>)| match shape[..] {
            [outputs, inputs] => Some((name.strip_suffix(".weight")?.to_owned(), [outputs, inputs])),
            _ => None,
        };
        Self::new(tensors(c, Layout::Bfl).into_iter().filter_map(module))
    }

    /// From a list of them.
    pub fn new(modules: impl IntoIterator<Item = (String, [usize; 2])>) -> Self {
        Self(modules.into_iter().collect())
    }
}

/// One low-rank change to some rows of one linear layer.
#[derive(Debug, Clone)]
pub struct Adapter {
    target: Target,
    scale: f32,
    a: HostTensor,
    b: HostTensor,
    bias: Option<HostTensor>,
}

impl Adapter {
    /// The path of the layer, in the authors' names.
    pub fn module(&self) -> &str {
        &self.target.module
    }

    /// The rows of the layer's weight, which are outputs, that are changed.
    pub fn rows(&self) -> Range<usize> {
        self.target.rows.0..self.target.rows.1
    }

    /// Columns of `B` and rows of `A`, at least 1.
    pub fn rank(&self) -> usize {
        self.a.shape()[0]
    }

    /// `alpha / rank` of the file, by its keys or by its metadata, 1 where it has no alpha. The user's strength comes on top.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The matrix `A`, `(rank, inputs)`.
    ///
    /// # Errors
    /// `Weights` if the file holds integers.
    pub fn a(&self) -> Result<Vec<f32>> {
        self.a.to_f32()
    }

    /// The matrix `B`, `(rows, rank)`, its rows in the order of the authors' layer.
    ///
    /// # Errors
    /// `Weights` if the file holds integers.
    pub fn b(&self) -> Result<Vec<f32>> {
        Ok(self.in_order(self.b.to_f32()?))
    }

    /// What is added to the rows' outputs besides, `(rows)`, if anything: the LoRAs of FLUX.1 Canny and Depth.
    /// It is scaled as `B A x` is.
    ///
    /// # Errors
    /// `Weights` if the file holds integers.
    pub fn bias(&self) -> Result<Option<Vec<f32>>> {
        Ok(self.bias.as_ref().map(HostTensor::to_f32).transpose()?.map(|bias| self.in_order(bias)))
    }

    fn in_order(&self, mut rows: Vec<f32>) -> Vec<f32> {
        if self.target.halves_swapped {
            let half = rows.len() / 2;
            rows.rotate_left(half);
        }
        rows
    }
}

/// An adapter and the factor that the user and the file give it.
#[derive(Debug)]
struct Scaled {
    adapter: Adapter,
    factor: f32,
}

impl LowRank for Scaled {
    fn rows(&self) -> Range<usize> {
        self.adapter.rows()
    }

    fn rank(&self) -> usize {
        self.adapter.rank()
    }

    fn a(&self) -> Result<Vec<f32>> {
        self.adapter.a()
    }

    fn b(&self) -> Result<Vec<f32>> {
        Ok(self.adapter.b()?.into_iter().map(|v| v * self.factor).collect())
    }

    fn has_bias(&self) -> bool {
        self.adapter.bias.is_some()
    }

    fn bias(&self) -> Result<Vec<f32>> {
        let bias = self.adapter.bias()?.unwrap_or_else(|| vec![0.0; self.adapter.rows().len()]);
        Ok(bias.into_iter().map(|v| v * self.factor).collect())
    }
}

/// What layers take of LoRAs, each with its strength. A strength of 0 is as no LoRA.
pub fn adapters(loras: &[(Lora, f32)]) -> Adapters {
    let mut all = Adapters::default();
    for (lora, strength) in loras.iter().filter(|(_, strength)| *strength != 0.0) {
        for adapter in &lora.adapters {
            let scaled = Scaled { adapter: adapter.clone(), factor: adapter.scale() * strength };
            all.0.entry(adapter.module().to_owned()).or_default().push(Arc::new(scaled));
        }
    }
    all
}

/// What a LoRA file holds for a model.
#[derive(Debug, Clone)]
pub struct Lora {
    /// The changes to the transformer, by layer.
    pub adapters: Vec<Adapter>,
    /// Keys of the file that name no layer of this model, or a kind of adapter that is not known (DoRA's `dora_scale`,
    /// LoKr, LoHa): they have no effect, and a user wants to know.
    pub unmatched: Vec<String>,
    /// Keys for text encoders, which are left as they are.
    pub text_encoder: Vec<String>,
}

/// The tensors of one adapter in the file, by their keys.
#[derive(Default)]
struct Keys {
    a: Option<String>,
    b: Option<String>,
    bias: Option<String>,
    alpha: Option<String>,
}

impl Lora {
    /// Matches the keys of a LoRA file with the layers of a model. Read are the forms of diffusers and PEFT, kohya's
    /// sd-scripts, ai-toolkit, OneTrainer, XLabs and the authors' own.
    ///
    /// # Errors
    /// `Weights` if no key belongs to this model, a shape does not fit its layer (a LoRA of another model), or half of an
    /// adapter is missing or named twice.
    pub fn resolve(file: &Weights, modules: &Modules) -> Result<Self> {
        let targets = names::targets(&modules.0);
        let (mut found, mut unmatched, mut text_encoder) = (BTreeMap::<Target, Keys>::new(), vec![], vec![]);
        for key in file.names() {
            if names::is_text_encoder(&key) {
                text_encoder.push(key);
                continue;
            }
            let Some((target, part)) = names::split(&key).and_then(|(path, part)| Some((targets.get(path)?, part)))
            else {
                unmatched.push(key);
                continue;
            };
            let keys = found.entry(target.clone()).or_default();
            let place = match part {
                Part::A => &mut keys.a,
                Part::B => &mut keys.b,
                Part::Bias => &mut keys.bias,
                Part::Alpha => &mut keys.alpha,
            };
            if let Some(other) = place.replace(key) {
                bail!(
                    Weights,
                    "{}: {other:?} and {:?} are for the same layer",
                    file.origin(),
                    place.as_deref().unwrap_or("")
                );
            }
        }
        let alphas = Alphas::read(file)?;
        let read = |(target, keys)| adapter(file, modules, &alphas, target, keys);
        let adapters = found.into_iter().map(read).collect::<Result<Vec<_>>>().context(|| file.origin().to_owned())?;
        ensure!(!adapters.is_empty(), Weights, "{}: {}", file.origin(), why_nothing(&unmatched, &text_encoder));
        Ok(Self { adapters, unmatched, text_encoder })
    }

    /// The layers that are changed, each once.
    pub fn modules(&self) -> usize {
        self.adapters.iter().map(Adapter::module).collect::<HashSet<_>>().len()
    }
}

fn adapter(file: &Weights, modules: &Modules, alphas: &Alphas, target: Target, keys: Keys) -> Result<Adapter> {
    let module = &target.module;
    let (a, b) = match (&keys.a, &keys.b) {
        (Some(a), Some(b)) => (file.tensor(a)?, file.tensor(b)?),
        (a, b) => {
            let there = a.as_ref().or(b.as_ref()).or(keys.bias.as_ref()).or(keys.alpha.as_ref());
            bail!(Weights, "of the adapter for '{module}' there is only {:?}", there.map_or("", String::as_str))
        }
    };
    let (rows, inputs) = (target.rows.1 - target.rows.0, modules.0[module][1]);
    let fits = matches!((a.shape(), b.shape()), ([r, i], [o, s]) if r == s && *r > 0 && *i == inputs && *o == rows);
    ensure!(
        fits,
        Weights,
        "{:?} {:?} and {:?} {:?} do not fit '{module}', which takes {inputs} and here gives {rows} values: \
         a LoRA of another model",
        a.name(),
        a.shape(),
        b.name(),
        b.shape()
    );
    let bias = keys.bias.map(|key| file.get(&key, &[rows])).transpose()?;
    let rank = a.shape()[0] as f32;
    let scale = match keys.alpha {
        Some(key) => match file.tensor(&key)?.to_f32()?[..] {
            [alpha] if alpha.is_finite() => alpha / rank,
            ref other => {
                bail!(Weights, "{key:?} has to be one finite number, and is {} ({:?})", other.len(), other.first())
            }
        },
        None => alphas.scale(a.name(), rank),
    };
    Ok(Adapter { target, scale, a, b, bias })
}

fn why_nothing(unmatched: &[String], text_encoder: &[String]) -> String {
    let Some(first) = unmatched.first() else {
        return match text_encoder.len() {
            0 => "the file is empty".to_owned(),
            n => format!("all {n} keys are for text encoders, which are left as they are"),
        };
    };
    let kind = ["lokr_", "hada_"].into_iter().find(|kind| unmatched.iter().any(|key| key.contains(kind)));
    match kind {
        Some(_) => format!("LoKr and LoHa adapters cannot be used (as {first:?}), only LoRA"),
        None => format!("none of its {} keys names a layer of this model; the first is {first:?}", unmatched.len()),
    }
}
