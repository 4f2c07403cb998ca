//! The table of variants and the rule that picks one.

use crate::kernels::prelude::*;

pub(super) const VARIANTS: &[Variant] = &[
    Variant {
        name: "tile128",
        class: Class::Gpu,
        defines: &[("METHOD", TILE), ("TILE", 128), ("TM", 8), ("TN", 8)],
        subgroup: None,
    },
    Variant {
        name: "tile64",
        class: Class::Gpu,
        defines: &[("METHOD", TILE), ("TILE", 64), ("TM", 8), ("TN", 4)],
        subgroup: None,
    },
    Variant {
        name: "tile32",
        class: Class::Gpu,
        defines: &[("METHOD", TILE), ("TILE", 32), ("TM", 4), ("TN", 4)],
        subgroup: None,
    },
    Variant {
        name: "rows8",
        class: Class::Gpu,
        defines: &[("METHOD", ROWS), ("ROWS", 8), ("COLS", 4), ("LANES", 32)],
        subgroup: None,
    },
    Variant {
        name: "rows1",
        class: Class::Gpu,
        defines: &[("METHOD", ROWS), ("ROWS", 1), ("COLS", 4), ("LANES", 32)],
        subgroup: None,
    },
    Variant { name: "scalar", class: Class::Software, defines: &[("METHOD", LANE), ("ROWS", 4)], subgroup: None },
];

/// Values of the define `METHOD`.
const TILE: i64 = 0;
const ROWS: i64 = 1;
const LANE: i64 = 2;

/// What the choice looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) batch: usize,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Four columns can be written at once.
    pub(super) vec_n: bool,
}

pub(super) fn choose(target: &Target, p: &Product) -> Result<&'static Variant> {
    let limits = &target.limits;
    // Beside what the device allows: no tile that is more than half empty both ways, no rows read again and again.
    let legal = |v: &Variant| match i64::from(v.get("METHOD")) {
        TILE => {
            let tile = v.get("TILE");
            let suits = tile == 32 || p.m.max(p.n) > tile as usize / 2;
            suits && 2 * 16 * tile * 4 <= limits.workgroup_memory && 2 * tile <= limits.invocations
        }
        ROWS => p.m <= 4 * v.get("ROWS") as usize,
        _ => true,
    };
    let forced = target.forced.iter().any(|(kernel, _)| kernel == super::KERNEL.name);
    let best = best(target, p);
    super::KERNEL.choose(target, |v| legal(v) && (forced || v.class != Class::Gpu || v.name == best))
}

/// The variant for a GPU.
fn best(target: &Target, p: &Product) -> &'static str {
    let _ = (target, p.vec_n);
    // Few rows are bound by reading w; with a short k the lanes of `rows` would idle.
    if p.m <= 16 && p.k >= 128 {
        return if p.m == 1 { "rows1" } else { "rows8" };
    }
    // FMAs a load, as the share of the peak that a tile of this size can reach.
    let score = |tile: usize, share: f64| {
        let tiles = p.m.div_ceil(tile) * p.n.div_ceil(tile);
        let used = (p.m * p.n) as f64 / (tiles * tile * tile) as f64;
        // A mid-size GPU has some 30 to 60 compute units, and needs two groups on each to hide latencies.
        let filled = ((tiles * p.batch) as f64 / 96.0).min(1.0);
        share * used * filled
    };
    let large = if target.limits.invocations >= 256 { score(128, 1.0) } else { 0.0 };
    let (middle, small) = (score(64, 0.85), score(32, 0.6));
    if large >= middle && large >= small {
        "tile128"
    } else if middle >= small {
        "tile64"
    } else {
        "tile32"
    }
}

/// Rows and columns of a workgroup.
pub(super) fn tile(v: &Variant) -> [usize; 2] {
    let get = |name| v.get(name) as usize;
    match i64::from(v.get("METHOD")) {
        TILE => [get("TILE"); 2],
        ROWS => [get("ROWS"), get("COLS") * 64 / get("LANES")],
        _ => [get("ROWS"), 64],
    }
}

/// Whether a thread writes four neighbouring columns.
pub(super) fn stores_four(v: &Variant) -> bool {
    i64::from(v.get("METHOD")) == TILE
}

/// What k has to be a multiple of for unguarded vec4 loads.
pub(super) fn step(v: &Variant) -> usize {
    if i64::from(v.get("METHOD")) == TILE { 16 } else { 4 }
}
