//! The rule that picks a variant, and in how many parts of k it runs.

use super::{
    Precision,
    variants::{VARIANTS, suits, sums, tile},
};
use crate::{kernel::Feature, kernels::prelude::*};

/// What the choice looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) batch: usize,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Storage of the weights.
    pub(super) w: DType,
    pub(super) precision: Precision,
    /// Everything is read and written by fours.
    pub(super) vec: bool,
}

/// How much of the speed goes with the invocations: half of the sums too many leave two thirds.
const CROWDED: f64 = 0.6;

/// The forced variant, else the best for the shape.
pub(super) fn choose(target: &Target, p: &Product) -> Result<&'static Variant> {
    let kernel = &super::KERNEL;
    if let Some(v) = kernel.asked(target, |v| suits(v, target, p))? {
        return Ok(v);
    }
    let padded = |cols| p.n.next_multiple_of(cols);
    let wide = target.features.contains(&Feature::Int64);
    let best = match (target.class(), target.subgroup) {
        (Class::Gpu, _) => best_on_gpu(target, p),
        // Each row of 8 loads w again, which costs as much as all the sums of 32 rows.
        (Class::Software, Some(8)) if wide && (p.m <= 16 || !p.vec) => "subgroup8_few",
        // A third fewer loads for a sum. What it computes beyond the last row is little of so many; beyond the last
        // column it may be more than it saves.
        (Class::Software, Some(8)) if wide && p.m >= 1024 && 6 * padded(64) <= 7 * padded(32) => "subgroup8_many",
        (Class::Software, Some(8)) if wide => "subgroup8",
        (Class::Software, Some(4)) => "subgroup4",
        (Class::Software, _) => "lane",
    };
    kernel.choose(target, |v| v.name == best)
}

fn best_on_gpu(target: &Target, p: &Product) -> &'static str {
    // Few rows are bound by reading w; with a short k the lanes of `rows` would idle.
    if p.m <= 16 && p.k >= 128 {
        return if p.m == 1 { "rows1" } else { "rows8" };
    }
    // The share of the peak by FMAs a load (8x8, 8x4 and 4x4 a thread) and by traffic. Half tiles read half as much;
    // a packed product does four, less what the scales and the quantising of x cost; matrix units in f16 have 4 to 8
    // times the peak and reach half of it, in f32 (Apple) they save the reads.
    let rules = target.family.rules();
    const EXACT: &[(&str, f64)] =
        &[("coop8", 1.2), ("tile128", 1.0), ("tile128x64", 0.88), ("tile64", 0.85), ("tile32", 0.6)];
    const HALF: &[(&str, f64)] = &[("coop128", 4.0), ("coop64", 3.0), ("half128", 1.1), ("half64", 0.95)];
    const INT8: &[(&str, f64)] = &[("int8", 2.0)];
    let half: &[_] = if p.precision >= Precision::Half && rules.half { HALF } else { &[] };
    let int8: &[_] = if p.precision >= Precision::Int8 { INT8 } else { &[] };
    let mut best = ("tile32", 0.0);
    for (name, share) in EXACT.iter().chain(half).chain(int8) {
        let possible = |v: &&Variant| v.name == *name && v.runs_on(target) && suits(v, target, p);
        let Some(v) = VARIANTS.iter().find(possible) else { continue };
        // Times what is not padding, times what of the machine is busy, less where the sums crowd out invocations.
        let [tile_m, tile_n] = tile(v);
        let tiles = p.m.div_ceil(tile_m) * p.n.div_ceil(tile_n);
        let used = (p.m * p.n) as f64 / (tiles * tile_m * tile_n) as f64;
        let groups = tiles * p.batch * splits(v, target, p);
        let crowded = (f64::from(rules.sums) / f64::from(sums(v))).min(1.0).powf(CROWDED);
        let score = share * used * (groups as f64 / target.busy as f64).min(1.0) * crowded;
        if score > best.1 {
            best = (name, score);
        }
    }
    best.0
}

/// In how many parts k is summed, each by workgroups of its own: where few tiles with a long k would leave most of a
/// GPU idle. The least that fills it, at most 8; each part at least 256 long and a multiple of a step and a block.
pub(super) fn splits(v: &Variant, target: &Target, p: &Product) -> usize {
    let [tile_m, tile_n] = tile(v);
    let tiles = p.m.div_ceil(tile_m) * p.n.div_ceil(tile_n);
    if v.class != Class::Gpu || p.batch > 1 || !p.vec || p.k < 2048 || tiles > target.busy / 2 {
        return 1;
    }
    let possible = |s: &usize| p.k.is_multiple_of(s * 32) && p.k / s >= 256;
    let mut parts = (1..=8).filter(possible);
    let enough = parts.clone().find(|s| s * tiles >= target.busy);
    enough.or_else(|| parts.next_back()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Family;

    const BIG: Product =
        Product { batch: 1, m: 4096, n: 3072, k: 3072, w: DType::F16, precision: Precision::Full, vec: true };

    #[test]
    fn the_rule_follows_shape_precision_and_features() {
        let with = |family, features: &[Feature]| Target { features: features.to_vec(), ..Target::of(family) };
        let browser = Target::default();
        let rdna = with(Family::Rdna, &[]);
        let half = with(Family::Rdna, &[Feature::F16]);
        let dot4 = with(Family::Rdna, &[Feature::F16, Feature::Dot4]);
        let lavapipe = Target { subgroup: Some(8), ..with(Family::Software, &[Feature::Int64]) };
        let rough = Precision::Half;
        let rough_big = Product { precision: rough, ..BIG };
        for (target, p, name, parts) in [
            (&rdna, BIG, "tile128", 1),
            // The device has f16, and nobody vouched for x; then the other way round; then both.
            (&half, BIG, "tile128", 1),
            (&rdna, rough_big, "tile128", 1),
            (&half, rough_big, "half128", 1),
            (&half, Product { w: DType::F32, ..rough_big }, "tile128", 1),
            (&half, Product { m: 64, n: 768, ..rough_big }, "half64", 8),
            (&half, Product { precision: Precision::Int8, w: DType::Q8, ..BIG }, "half128", 1),
            (&dot4, Product { w: DType::Q8, ..rough_big }, "half128", 1),
            (&dot4, Product { precision: Precision::Int8, w: DType::Q8, ..BIG }, "int8", 1),
            (&dot4, Product { precision: Precision::Int8, ..BIG }, "half128", 1),
            (&browser, Product { vec: false, ..BIG }, "tile32", 1),
            (&browser, Product { m: 1, ..BIG }, "rows1", 1),
            (&browser, Product { m: 8, n: 256, k: 2048, ..BIG }, "rows8", 3 + 1),
            (&browser, Product { m: 64, n: 256, k: 4096, ..BIG }, "tile32", 8),
            (&browser, Product { m: 128, n: 640, k: 1024, ..BIG }, "tile32", 1),
            // What each family has registers for.
            (&browser, BIG, "tile128x64", 1),
            (&with(Family::Nvidia, &[]), BIG, "tile128", 1),
            (&with(Family::Apple, &[]), BIG, "tile128", 1),
            (&with(Family::Intel, &[Feature::F16]), rough_big, "half64", 1),
            (&with(Family::Gcn, &[Feature::F16]), rough_big, "tile128x64", 1),
            (&with(Family::Mobile, &[]), BIG, "tile32", 1),
            (&with(Family::Mobile, &[Feature::F16]), rough_big, "half64", 1),
            // Columns: 288 are padded by a tenth, 96 by a third.
            (&lavapipe, Product { n: 288, ..BIG }, "subgroup8_many", 1),
            (&lavapipe, Product { n: 96, ..BIG }, "subgroup8", 1),
            (&lavapipe, Product { m: 64, ..BIG }, "subgroup8", 1),
            (&lavapipe, Product { m: 8, ..BIG }, "subgroup8_few", 1),
            (&with(Family::Software, &[]), BIG, "lane", 1),
        ] {
            let v = choose(target, &p).unwrap();
            assert_eq!((v.name, splits(v, target, &p)), (name, parts), "{p:?}");
        }
    }
}
