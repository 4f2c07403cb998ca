//! The variants of attention, and how each cuts a shape.

use crate::kernel::{Class, MOST_ITERATIONS, Target, Variant};

/// A tile of `RG * ROWS` queries for results of `FROM` to `TO` vec4s; the SMALL are for any number of queries.
macro_rules! tile {
    ($name:literal, $rg:literal x $cg:literal, $rows:literal x $keys:literal, $from:literal to $to:literal, $small:literal) => {
        Variant {
            name: $name,
            class: Class::Gpu,
            defines: &[
                ("TILE", 1),
                ("RG", $rg),
                ("CG", $cg),
                ("ROWS", $rows),
                ("KEYS", $keys),
                ("FROM", $from),
                ("TO", $to),
                ("SMALL", $small),
            ],
            subgroup: None,
        }
    };
}

/// `BLOCKS` queries an invocation, `KEYS` keys a lane at a time; chosen for up to `MOST` keys, 0 for any number.
macro_rules! lane {
    ($name:literal, $subgroup:expr, $size:literal = $lanes:literal, $blocks:literal x $keys:literal, $small:literal, $most:literal, $int64:literal) => {
        Variant {
            name: $name,
            class: Class::Software,
            defines: &[
                ("LANE", 1),
                ($size, $lanes),
                ("BLOCKS", $blocks),
                ("KEYS", $keys),
                ("SMALL", $small),
                ("MOST", $most),
                ("INT64", $int64),
            ],
            subgroup: $subgroup,
        }
    };
}

/// Tiles are named by their queries (and keys).
pub(super) const VARIANTS: &[Variant] = &[
    // Sixteen vec4s of results a thread at most: beside scores and operands, what 128 registers hold.
    tile!("tile64", 16 x 8, 4 x 4, 1 to 32, 0),
    tile!("tile32", 16 x 8, 2 x 4, 1 to 32, 0),
    // For a tuner: as good as tile32 by the static report, with half the invocations.
    tile!("tile32x16", 8 x 8, 4 x 2, 1 to 24, 0),
    tile!("tile16", 8 x 8, 2 x 2, 1 to 32, 1),
    tile!("wide64", 16 x 16, 4 x 2, 33 to 64, 0),
    tile!("wide32", 16 x 16, 2 x 4, 33 to 128, 0),
    tile!("wide16", 8 x 16, 2 x 2, 33 to 128, 1),
    // The decoder's image to its few tokens; windows of 4 x 4.
    lane!("few8x4", Some(8), "LANES" = 8, 4 x 1, 0, 8, 0),
    lane!("few16x2", Some(8), "LANES" = 8, 2 x 2, 0, 16, 0),
    lane!("few16", Some(8), "LANES" = 8, 1 x 2, 1, 16, 0),
    lane!("subgroup8x4", Some(8), "LANES" = 8, 4 x 4, 0, 0, 1),
    lane!("subgroup8", Some(8), "LANES" = 8, 1 x 4, 1, 0, 1),
    lane!("subgroup4", Some(4), "LANES" = 4, 4 x 4, 1, 0, 0),
    lane!("lane", None, "GROUP" = 8, 4 x 4, 1, 0, 0),
];

/// How a variant works on heads of `width` vec4s, with results of `result`.
pub(super) struct Tiling {
    /// Queries of a workgroup.
    pub(super) queries: usize,
    /// Sums of results that an invocation keeps.
    pub(super) sums: usize,
    /// Keys that it takes at a time.
    pub(super) keys: usize,
    /// Keys that one workgroup may go through.
    pub(super) most_keys: usize,
    /// Defines that follow from both: chunk sizes and the workgroup memory, in vec4s.
    pub(super) defines: Vec<(&'static str, i64)>,
}

/// vec4s of 8 KiB of workgroup memory, half of WebGPU's: with less of it, registers limit the workgroups at a time.
const ROOM: usize = 512;

impl Tiling {
    /// `None` if the variant cannot hold heads of this width.
    pub(super) fn new(variant: &Variant, [width, result]: [usize; 2], target: &Target) -> Option<Self> {
        let get = |name| variant.get(name) as usize;
        if variant.defines[0].0 == "LANE" {
            let (lanes, step) = match variant.subgroup {
                Some(n) => (n as usize, n as usize * get("KEYS")),
                None => (get("GROUP"), get("KEYS")),
            };
            // A step is a turn of the outer loop, and two inner ones over the width.
            let most_keys = (MOST_ITERATIONS / (1 + width + result) * step).max(step);
            return Some(Self { queries: lanes * get("BLOCKS"), sums: 0, keys: step, most_keys, defines: Vec::new() });
        }
        let (rg, cg, rows) = (get("RG"), get("CG"), get("ROWS"));
        let (queries, keys, threads) = (rg * rows, cg * get("KEYS"), rg * cg);
        // Chunks of the width that pad it least, the largest of them; rows of a chunk are padded to an odd number.
        let padded = |chunk: &usize| width.next_multiple_of(*chunk);
        let chunk = (3..=5).rev().min_by_key(padded)?;
        let columns = result.div_ceil(cg);
        let scores = (queries + keys) * (chunk | 1);
        // Values by a power of two of keys, with their weights.
        let chunk_of = |values: usize| queries * values / 4 + values * columns * cg;
        let values = [32, 16, 8].into_iter().find(|n| *n <= keys && chunk_of(*n) <= ROOM).unwrap_or(4);
        let shared = scores.max(chunk_of(values)).max(threads);
        let fits = (get("FROM")..=get("TO")).contains(&result)
            && shared * 16 <= target.limits.workgroup_memory as usize
            && threads <= target.limits.invocations as usize;
        let mut size = vec![("D4", width), ("CH", chunk), ("VK", values), ("SHARED", shared)];
        size.extend((result != width).then_some(("V4", result)));
        let defines = size.into_iter().map(|(name, n)| (name, n as i64)).collect();
        fits.then_some(Self { queries, sums: rows * columns * 4, keys, most_keys: usize::MAX, defines })
    }
}

/// Keys of a workgroup, so that `groups` workgroups become enough to fill the adapter: a multiple of the tiling's keys.
pub(super) fn split(keys: usize, groups: usize, tiling: &Tiling, target: &Target) -> usize {
    // Of 64 or 128 invocations, where `busy` counts 256. On a CPU a part costs little.
    let least = if target.class() == Class::Gpu { 128 } else { 64 };
    let splits = (2 * target.busy).div_ceil(groups).min(keys / least).max(1);
    keys.div_ceil(splits).next_multiple_of(tiling.keys).min(tiling.most_keys)
}
