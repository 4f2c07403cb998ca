//! The rule that picks a variant, and in how many parts of k it runs.

use super::{
    Precision,
    variants::{VARIANTS, suits, tile},
};
use crate::kernels::prelude::*;

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

/// Workgroups that keep a mid-size GPU busy: it has 30 to 60 compute units and needs two on each.
const BUSY: usize = 96;

/// The forced variant, else the best for the shape.
pub(super) fn choose(target: &Target, p: &Product) -> Result<&'static Variant> {
    let kernel = &super::KERNEL;
    if let Some(v) = kernel.asked(target, |v| suits(v, target, p))? {
        return Ok(v);
    }
    let best = match (target.class, target.subgroup) {
        (Class::Gpu, _) => best_on_gpu(target, p),
        // Each row of 8 loads w again, which costs as much as all the sums of 32 rows.
        (Class::Software, Some(8)) if p.m <= 16 || !p.vec => "subgroup8_few",
        (Class::Software, Some(8)) => "subgroup8",
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
    const EXACT: &[(&str, f64)] =
        &[("coop8", 1.2), ("tile128", 1.0), ("tile128x64", 0.88), ("tile64", 0.85), ("tile32", 0.6)];
    const HALF: &[(&str, f64)] = &[("coop128", 4.0), ("coop64", 3.0), ("half128", 1.1), ("half64", 0.95)];
    const INT8: &[(&str, f64)] = &[("int8", 2.0)];
    let half: &[_] = if p.precision >= Precision::Half { HALF } else { &[] };
    let int8: &[_] = if p.precision >= Precision::Int8 { INT8 } else { &[] };
    let mut best = ("tile32", 0.0);
    for (name, share) in EXACT.iter().chain(half).chain(int8) {
        let possible = |v: &&Variant| v.name == *name && v.runs_on(target) && suits(v, target, p);
        let Some(v) = VARIANTS.iter().find(possible) else { continue };
        // Times what is not padding, times what of the machine is busy.
        let [tile_m, tile_n] = tile(v);
        let tiles = p.m.div_ceil(tile_m) * p.n.div_ceil(tile_n);
        let used = (p.m * p.n) as f64 / (tiles * tile_m * tile_n) as f64;
        let groups = tiles * p.batch * splits(v, p);
        let score = share * used * (groups as f64 / BUSY as f64).min(1.0);
        if score > best.1 {
            best = (name, score);
        }
    }
    best.0
}

/// In how many parts k is summed, each by workgroups of its own: where few tiles with a long k would leave most of a
/// GPU idle. The least that fills it, at most 8; each part at least 256 long and a multiple of a step and a block.
pub(super) fn splits(v: &Variant, p: &Product) -> usize {
    let [tile_m, tile_n] = tile(v);
    let tiles = p.m.div_ceil(tile_m) * p.n.div_ceil(tile_n);
    if v.class != Class::Gpu || p.batch > 1 || !p.vec || p.k < 2048 || tiles > BUSY / 2 {
        return 1;
    }
    let possible = |s: &usize| p.k.is_multiple_of(s * 32) && p.k / s >= 256;
    let mut parts = (1..=8).filter(possible);
    let enough = parts.clone().find(|s| s * tiles >= BUSY);
    enough.or_else(|| parts.next_back()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Feature;

    const BIG: Product =
        Product { batch: 1, m: 4096, n: 3072, k: 3072, w: DType::F16, precision: Precision::Full, vec: true };

    #[test]
    fn the_rule_follows_shape_precision_and_features() {
        let browser = Target::default();
        let half = Target { features: vec![Feature::F16], ..Target::default() };
        let dot4 = Target { features: vec![Feature::F16, Feature::Dot4], ..Target::default() };
        let rough = Precision::Half;
        for (target, p, name, parts) in [
            (&browser, BIG, "tile128", 1),
            // The device has f16, and nobody vouched for x; then the other way round; then both.
            (&half, BIG, "tile128", 1),
            (&browser, Product { precision: rough, ..BIG }, "tile128", 1),
            (&half, Product { precision: rough, ..BIG }, "half128", 1),
            (&half, Product { precision: rough, w: DType::F32, ..BIG }, "tile128", 1),
            (&half, Product { precision: rough, m: 64, n: 768, ..BIG }, "half64", 8),
            (&half, Product { precision: Precision::Int8, w: DType::Q8, ..BIG }, "half128", 1),
            (&dot4, Product { precision: rough, w: DType::Q8, ..BIG }, "half128", 1),
            (&dot4, Product { precision: Precision::Int8, w: DType::Q8, ..BIG }, "int8", 1),
            (&dot4, Product { precision: Precision::Int8, ..BIG }, "half128", 1),
            (&browser, Product { vec: false, ..BIG }, "tile32", 1),
            (&browser, Product { m: 1, ..BIG }, "rows1", 1),
            (&browser, Product { m: 8, n: 256, k: 2048, ..BIG }, "rows8", 3 + 1),
            (&browser, Product { m: 64, n: 256, k: 4096, ..BIG }, "tile32", 8),
            (&browser, Product { m: 128, n: 640, k: 1024, ..BIG }, "tile32", 1),
        ] {
            let v = choose(target, &p).unwrap();
            assert_eq!((v.name, splits(v, &p)), (name, parts), "{p:?}");
        }
    }
}
