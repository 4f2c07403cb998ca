//! Which shaders are compiled: what the kernels' own cases record.

use impasto::{
    graph::Graph,
    kernel::{Class, Feature, Limits, Target, Variant},
    kernels::ALL,
};
use std::collections::BTreeMap;

/// A shader to compile.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    /// Stem of the kernel.
    pub(crate) kernel: &'static str,
    /// Variant.
    pub(crate) variant: &'static str,
    /// Whether it is for adapters with a packed dot product only.
    dot4: bool,
    /// The defines on top of the variant's that are not 0: `BIAS W=2`.
    pub(crate) defines: String,
    /// WGSL.
    pub(crate) wgsl: String,
}

impl Text {
    /// `kernel/variant DEFINES`
    pub(crate) fn name(&self) -> String {
        format!("{}/{} {}", self.kernel, self.variant, self.defines).trim_end().to_string()
    }

    /// Whether a family of GPUs is ever given it: before RDNA 2 a packed dot product is emulated.
    pub(crate) fn is_for(&self, family: &str) -> bool {
        !self.dot4 || !["polaris10", "vega10", "navi10"].contains(&family)
    }
}

/// Whether RADV's null device can compile a variant: up to Mesa 22.3 it has no cooperative matrices.
fn compiles(variant: &Variant) -> bool {
    variant.needs().all(|feature| !matches!(feature, Feature::Coop8 | Feature::Coop16))
}

/// The GPU variants that are left out, as `kernel/variant`.
pub(crate) fn left_out() -> Vec<String> {
    let gpu = |v: &&Variant| v.class == Class::Gpu && !compiles(v);
    let names =
        ALL.iter().flat_map(|e| e.kernel.variants.iter().filter(gpu).map(|v| format!("{}/{}", e.kernel.name, v.name)));
    names.collect()
}

/// What RADV offers: other limits would rule variants out.
fn target(kernel: &str, variant: &Variant) -> Target {
    Target {
        limits: Limits { workgroup_memory: 64 << 10, invocations: 1024, ..Limits::default() },
        subgroup: variant.subgroup,
        features: variant.needs().collect(),
        forced: vec![(kernel.into(), variant.name.into())],
        ..Target::default()
    }
}

/// The distinct texts that the cases of every kernel record with each of its GPU variants, by name.
///
/// The rule serves every kernel without a list: cases cover each storage, head width and epilogue that the models use, with
/// few texts, since tests compile them all.
///
/// # Errors
/// A text that cannot be expanded.
pub(crate) fn all() -> Result<Vec<Text>, String> {
    let mut texts = BTreeMap::new();
    for entry in ALL {
        let cases = (entry.cases)();
        for variant in entry.kernel.variants.iter().filter(|v| v.class == Class::Gpu && compiles(v)) {
            for case in &cases {
                let mut g = Graph::new(&target(entry.kernel.name, variant));
                // A shape that the variant does not suit.
                if case.graph(&mut g).is_err() {
                    continue;
                }
                for d in g.dispatches().iter().filter(|d| d.variant.class == Class::Gpu) {
                    let set = d.defines.iter().filter(|(_, n)| *n != 0);
                    let words = set.map(|(name, n)| if *n == 1 { name.to_string() } else { format!("{name}={n}") });
                    let text = Text {
                        kernel: d.kernel.name,
                        variant: d.variant.name,
                        dot4: d.variant.needs().any(|feature| feature == Feature::Dot4),
                        defines: words.collect::<Vec<_>>().join(" "),
                        wgsl: d.text().map_err(|e| e.to_string())?,
                    };
                    texts.insert(text.name(), text);
                }
            }
        }
    }
    Ok(texts.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gpu_variant_has_a_text() {
        let texts = all().unwrap();
        for entry in ALL {
            for v in entry.kernel.variants.iter().filter(|v| v.class == Class::Gpu && compiles(v)) {
                assert!(
                    texts.iter().any(|t| t.kernel == entry.kernel.name && t.variant == v.name),
                    "{}/{}: no case records it",
                    entry.kernel.name,
                    v.name
                );
            }
        }
    }
}
