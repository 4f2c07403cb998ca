//! What a kernel is, as plain data: [`Kernel`], its [`Variant`]s, and the [`Target`] that a choice looks at.
//!
//! Nothing here knows a device: a graph can be recorded, planned, printed and validated without one.

mod family;

pub use family::{Family, Rules};

use crate::error::{Result, bail};
use std::{collections::BTreeMap, sync::Arc};

/// The kind of adapter, as far as kernel choice cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Hardware: workgroup memory and barriers are cheap, many workgroups run at once.
    Gpu,
    /// A CPU behind a graphics API (lavapipe, SwiftShader, WARP): barriers are dear, loads are gathers.
    Software,
}

/// Iterations that an invocation's loops may make together. llvmpipe leaves every loop after 65,535, without a word.
pub const MOST_ITERATIONS: usize = 60_000;

/// The limits that kernels and plans respect. The default is what WebGPU guarantees everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Bytes of one storage binding.
    pub binding: u64,
    /// Bytes of one buffer.
    pub buffer: u64,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Invocations of one workgroup.
    pub invocations: u32,
    /// Workgroups in each dimension of a dispatch.
    pub groups: u32,
    /// What the offset of a storage binding is a multiple of.
    pub offset_alignment: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            binding: 128 << 20,
            buffer: 256 << 20,
            workgroup_memory: 16 << 10,
            invocations: 256,
            groups: 65535,
            offset_alignment: 256,
        }
    }
}

/// What a variant may need of an adapter beyond what WebGPU guarantees and subgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// f16 in shaders.
    F16,
    /// A packed 4 x 8-bit dot product that is known to be fast. Every adapter can emulate it.
    Dot4,
    /// 64-bit integers in shaders.
    Int64,
    /// Cooperative matrices of 8 x 8.
    Coop8,
    /// Cooperative matrices of 16 x 16, f16 with f32 sums.
    Coop16,
}

/// The define that makes a shader use a feature: a variant that sets it needs the feature.
const NEEDS: [(Feature, (&str, i64)); 5] = [
    (Feature::F16, ("F16", 1)),
    (Feature::Dot4, ("DOT4", 1)),
    (Feature::Int64, ("INT64", 1)),
    (Feature::Coop8, ("COOP", 8)),
    (Feature::Coop16, ("COOP", 16)),
];

/// What a recording may assume of the adapter that will play it.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Whose rules apply.
    pub family: Family,
    /// Workgroups that keep it busy.
    pub busy: usize,
    /// Limits of the device.
    pub limits: Limits,
    /// The subgroup size, where subgroup operations exist and the size is the same in every dispatch.
    pub subgroup: Option<u32>,
    /// What else the adapter has.
    pub features: Vec<Feature>,
    /// Forced variants, `(kernel, variant)`; a kernel that is not listed chooses for itself.
    pub forced: Vec<(String, String)>,
    /// What was measured on this adapter.
    pub tuning: Tuning,
    /// The kernel being recorded and its measured variant.
    pub tuned: Option<(&'static str, String)>,
}

impl Target {
    /// A target of a family, with what WebGPU guarantees.
    pub fn of(family: Family) -> Self {
        Self { family, busy: family.rules().busy, ..Self::default() }
    }

    /// Hardware or software.
    pub fn class(&self) -> Class {
        self.family.class()
    }

    /// Whether a variant of the kernel is forced, or measured for the shape being recorded.
    pub fn asks(&self, kernel: &str) -> bool {
        self.forced.iter().any(|(k, _)| k == kernel) || self.tuned.as_ref().is_some_and(|(k, _)| *k == kernel)
    }
}

/// The fastest variants as `impasto bench tune` found them, by kernel and class of calls. Clones share them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tuning(pub Arc<BTreeMap<String, BTreeMap<String, String>>>);

impl Tuning {
    /// The variant for a class of calls.
    pub(crate) fn variant(
        &self,
        kernel: &'static str,
        class: impl FnOnce() -> String,
    ) -> Option<(&'static str, String)> {
        let variant = self.0.get(kernel)?.get(&class())?;
        Some((kernel, variant.clone()))
    }
}

impl Default for Target {
    /// WebGPU's guarantees on hardware: what a browser gets.
    fn default() -> Self {
        Self {
            family: Family::Unknown,
            busy: Family::Unknown.rules().busy,
            limits: Limits::default(),
            subgroup: None,
            features: Vec::new(),
            forced: Vec::new(),
            tuning: Tuning::default(),
            tuned: None,
        }
    }
}

/// One way to compile a kernel: a row of its table.
#[derive(Debug)]
pub struct Variant {
    /// The name that benches, `--variant` and reports use: `tile64`, `subgroup8`.
    pub name: &'static str,
    /// The adapters it is written for. It runs on the others too.
    pub class: Class,
    /// What the shader text is expanded with: tile sizes, unrolling, structure.
    pub defines: &'static [(&'static str, i64)],
    /// The exact subgroup size that it relies on, if it uses subgroup operations.
    pub subgroup: Option<u32>,
}

impl Variant {
    /// The value of a define of this variant.
    ///
    /// # Panics
    /// If the table has no such define: a mistake in the kernel's own file.
    pub fn get(&self, name: &str) -> u32 {
        match self.defines.iter().find(|(n, _)| *n == name) {
            Some((_, v)) => *v as u32,
            None => panic!("variant {} has no define {name}", self.name),
        }
    }

    /// The features that it needs: those whose define it sets.
    pub fn needs(&self) -> impl Iterator<Item = Feature> {
        NEEDS.iter().filter(|(_, define)| self.defines.contains(define)).map(|(feature, _)| *feature)
    }

    /// Whether an adapter has what it needs.
    pub fn runs_on(&self, target: &Target) -> bool {
        let subgroup = self.subgroup.is_none() || self.subgroup == target.subgroup;
        subgroup && self.needs().all(|feature| target.features.contains(&feature))
    }

    /// The normalised mean square error that it may have because it rounds its operands: uniform values rounded to
    /// f16 give 5e-8 in the cases, rounded to 8 bits in blocks of 32 give 1.4e-5. The bounds leave room for other
    /// distributions, as ggml's tests do (which allow 5e-4). 0 for variants in f32.
    pub fn rounding(&self) -> f64 {
        self.needs().fold(0.0, |worst: f64, feature| match feature {
            Feature::F16 | Feature::Coop16 => worst.max(1e-6),
            Feature::Dot4 => worst.max(5e-4),
            Feature::Coop8 | Feature::Int64 => worst,
        })
    }
}

/// A compute kernel: one shader file, one Rust file, one name for both, for labels and for benches.
#[derive(Debug)]
pub struct Kernel {
    /// The stem: `shaders/NAME.wgsl`, `kernels::NAME`.
    pub name: &'static str,
    /// The text of the shader file.
    pub source: &'static str,
    /// Bytes of the Rust `Params`, which follow the shader's `base: vec4<u32>`.
    pub params: usize,
    /// The table of variants, in order of preference within a class; never empty.
    pub variants: &'static [Variant],
}

impl Kernel {
    /// The forced variant if there is one; else the first that the target supports, `fits` accepts and whose
    /// class is the target's; else the first that is supported and fits.
    ///
    /// # Errors
    /// `Gpu` if the forced variant does not exist, is not supported or does not fit, or if nothing fits.
    pub fn choose(&self, target: &Target, fits: impl Fn(&Variant) -> bool) -> Result<&'static Variant>
    where
        Self: 'static,
    {
        let usable = |v: &Variant| v.runs_on(target) && fits(v);
        if let Some(v) = self.asked(target, &fits)? {
            return Ok(v);
        }
        let preferred = self.variants.iter().find(|v| v.class == target.class() && usable(v));
        match preferred.or_else(|| self.variants.iter().find(|v| usable(v))) {
            Some(v) => Ok(v),
            None => bail!(Gpu, "{}: no variant suits this adapter and shape", self.name),
        }
    }

    /// The variant that is forced, or measured for the shape being recorded. A measured one that cannot run a shape of
    /// its class is left to the rule.
    ///
    /// # Errors
    /// As [`choose`](Self::choose), for a forced one.
    pub fn asked(&self, target: &Target, fits: impl Fn(&Variant) -> bool) -> Result<Option<&'static Variant>>
    where
        Self: 'static,
    {
        let named = |name: &str| self.variants.iter().find(|v| v.name == name);
        let usable = |v: &&Variant| v.runs_on(target) && fits(v);
        if let Some((_, name)) = target.forced.iter().find(|(k, _)| k == self.name) {
            return match named(name) {
                Some(v) if usable(&v) => Ok(Some(v)),
                Some(_) => bail!(Gpu, "{}: variant {name} does not suit this adapter or shape", self.name),
                None => bail!(Gpu, "{}: no variant {name}; there are {}", self.name, self.variant_names()),
            };
        }
        let tuned = target.tuned.as_ref().filter(|(k, _)| *k == self.name);
        Ok(tuned.and_then(|(_, name)| named(name)).filter(usable))
    }

    fn variant_names(&self) -> String {
        self.variants.iter().map(|v| v.name).collect::<Vec<_>>().join(", ")
    }
}

/// The text of `shaders/NAME.wgsl`.
macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!("../../shaders/", $name, ".wgsl"))
    };
}
pub(crate) use wgsl;
