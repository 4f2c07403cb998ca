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
        defines: &[("METHOD", ROWS), ("ROWS", 8), ("COLS", 2), ("LANES", 16)],
        subgroup: None,
    },
    Variant {
        name: "rows1",
        class: Class::Gpu,
        defines: &[("METHOD", ROWS), ("ROWS", 1), ("COLS", 4), ("LANES", 32)],
        subgroup: None,
    },
    Variant {
        name: "subgroup8",
        class: Class::Software,
        defines: &[("METHOD", LANES), ("LANES", 8), ("GROUP", 8), ("ROWS", 32), ("COLS", 4)],
        subgroup: Some(8),
    },
    Variant {
        name: "subgroup8_few",
        class: Class::Software,
        defines: &[("METHOD", LANES), ("LANES", 8), ("GROUP", 8), ("ROWS", 8), ("COLS", 4)],
        subgroup: Some(8),
    },
    Variant {
        name: "subgroup4",
        class: Class::Software,
        defines: &[("METHOD", LANES), ("LANES", 4), ("GROUP", 4), ("ROWS", 8), ("COLS", 8)],
        subgroup: Some(4),
    },
    Variant {
        name: "lane",
        class: Class::Software,
        defines: &[("METHOD", LANES), ("LANES", 1), ("GROUP", 16), ("ROWS", 8), ("COLS", 4)],
        subgroup: None,
    },
];

/// Values of the define `METHOD`.
const TILE: i64 = 0;
const ROWS: i64 = 1;
const LANES: i64 = 2;

fn method(v: &Variant) -> i64 {
    i64::from(v.get("METHOD"))
}

/// What the choice looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) batch: usize,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Everything is read and written by fours.
    pub(super) vec: bool,
}

/// The forced variant, else the best for the shape.
pub(super) fn choose(target: &Target, p: &Product) -> Result<&'static Variant> {
    let kernel = &super::KERNEL;
    if target.asks(kernel.name) {
        return kernel.choose(target, |v| suits(v, target, p));
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

/// Whether a variant can run: limits of the device, and no shapes that it is hopeless for.
fn suits(v: &Variant, target: &Target, p: &Product) -> bool {
    let limits = &target.limits;
    match method(v) {
        TILE => {
            let tile = v.get("TILE");
            let large = tile == 32 || p.m.max(p.n) > tile as usize / 2;
            // Sizes that are no multiple of 4 are rare and cost four times the loads: tile32 is enough for them.
            let fours = tile == 32 || p.vec;
            large && fours && 2 * 16 * tile * 4 <= limits.workgroup_memory && 2 * tile <= limits.invocations
        }
        ROWS => p.m <= 4 * v.get("ROWS") as usize,
        _ => p.vec || v.get("ROWS") <= 8,
    }
}

fn best_on_gpu(target: &Target, p: &Product) -> &'static str {
    // Few rows are bound by reading w; with a short k the lanes of `rows` would idle.
    if p.m <= 16 && p.k >= 128 {
        return if p.m == 1 { "rows1" } else { "rows8" };
    }
    // `share` of the peak by FMAs a load (8x8, 8x4 and 4x4 a thread), times what is not padding, times what of the
    // machine is busy: a mid-size GPU has 30 to 60 compute units and needs two workgroups on each.
    let score = |tile: usize, share: f64| {
        let tiles = p.m.div_ceil(tile) * p.n.div_ceil(tile);
        let used = (p.m * p.n) as f64 / (tiles * tile * tile) as f64;
        share * used * ((tiles * p.batch) as f64 / 96.0).min(1.0)
    };
    let candidates = [("tile128", 128, 1.0), ("tile64", 64, 0.85), ("tile32", 32, 0.6)];
    let mut best = ("tile32", 0.0);
    for (name, tile, share) in candidates {
        let possible = VARIANTS.iter().any(|v| v.name == name && suits(v, target, p));
        if possible && score(tile, share) > best.1 {
            best = (name, score(tile, share));
        }
    }
    best.0
}

/// Rows and columns of a workgroup.
pub(super) fn tile(v: &Variant) -> [usize; 2] {
    let get = |name| v.get(name) as usize;
    match method(v) {
        TILE => [get("TILE"); 2],
        ROWS => [get("ROWS"), get("COLS") * 64 / get("LANES")],
        _ => [get("ROWS"), get("COLS") * get("GROUP")],
    }
}

/// Workgroups: the GPU variants order their tiles themselves.
pub(super) fn grid(v: &Variant, tiles_m: u32, tiles_n: u32, batch: u32) -> [u32; 3] {
    if method(v) == LANES { [tiles_n, tiles_m, batch] } else { [tiles_m * tiles_n, 1, batch] }
}

/// Whether a thread writes four neighbouring columns.
pub(super) fn stores_four(v: &Variant) -> bool {
    method(v) != ROWS
}

/// What k has to be a multiple of for unguarded vec4 loads.
pub(super) fn step(v: &Variant) -> usize {
    if method(v) == TILE { 16 } else { 4 }
}
