//! The table of variants, and what follows from a row of it.

use crate::kernels::prelude::*;

/// Values of the define `METHOD`: the loops in `shaders/shared/matmul_*.wgsl`.
const TILE: i64 = 0;
const ROWS: i64 = 1;
const LANES: i64 = 2;
const DOT4: i64 = 3;
const COOP: i64 = 4;

const fn gpu(name: &'static str, defines: &'static [(&'static str, i64)]) -> Variant {
    Variant { name, class: Class::Gpu, defines, subgroup: None }
}

const fn software(name: &'static str, subgroup: Option<u32>, defines: &'static [(&'static str, i64)]) -> Variant {
    Variant { name, class: Class::Software, defines, subgroup }
}

#[rustfmt::skip]
pub(super) const VARIANTS: &[Variant] = &[
    gpu("tile128", &[("METHOD", TILE), ("TILE_M", 128), ("TILE_N", 128), ("TM", 8), ("TN", 8)]),
    gpu("tile128x64", &[("METHOD", TILE), ("TILE_M", 128), ("TILE_N", 64), ("TM", 8), ("TN", 4)]),
    gpu("tile64", &[("METHOD", TILE), ("TILE_M", 64), ("TILE_N", 64), ("TM", 8), ("TN", 4)]),
    gpu("tile32", &[("METHOD", TILE), ("TILE_M", 32), ("TILE_N", 32), ("TM", 4), ("TN", 4)]),
    gpu("half128", &[("METHOD", TILE), ("TILE_M", 128), ("TILE_N", 128), ("TM", 8), ("TN", 8), ("F16", 1)]),
    gpu("half64", &[("METHOD", TILE), ("TILE_M", 64), ("TILE_N", 64), ("TM", 8), ("TN", 4), ("F16", 1)]),
    gpu("int8", &[("METHOD", DOT4), ("TILE_M", 64), ("TILE_N", 64), ("TM", 8), ("TN", 4), ("DOT4", 1)]),
    gpu("coop128", &[("METHOD", COOP), ("TILE", 128), ("STEP", 32), ("COOP", 16), ("F16", 1)]),
    gpu("coop64", &[("METHOD", COOP), ("TILE", 64), ("STEP", 32), ("COOP", 16), ("F16", 1)]),
    gpu("coop8", &[("METHOD", COOP), ("TILE", 64), ("STEP", 16), ("COOP", 8)]),
    gpu("rows8", &[("METHOD", ROWS), ("ROWS", 8), ("COLS", 2), ("LANES", 16)]),
    gpu("rows1", &[("METHOD", ROWS), ("ROWS", 1), ("COLS", 4), ("LANES", 32)]),
    software("subgroup8_many", Some(8), &[("METHOD", LANES), ("LANES", 8), ("GROUP", 8), ("ROWS", 48), ("COLS", 8), ("INT64", 1), ("STEP", 8)]),
    software("subgroup8", Some(8), &[("METHOD", LANES), ("LANES", 8), ("GROUP", 8), ("ROWS", 32), ("COLS", 4), ("INT64", 1)]),
    software("subgroup8_few", Some(8), &[("METHOD", LANES), ("LANES", 8), ("GROUP", 8), ("ROWS", 8), ("COLS", 4), ("INT64", 1)]),
    software("subgroup4", Some(4), &[("METHOD", LANES), ("LANES", 4), ("GROUP", 4), ("ROWS", 8), ("COLS", 8)]),
    software("lane", None, &[("METHOD", LANES), ("LANES", 1), ("GROUP", 16), ("ROWS", 8), ("COLS", 4)]),
];

fn method(v: &Variant) -> i64 {
    i64::from(v.get("METHOD"))
}

/// Rows and columns of a workgroup.
pub(super) fn tile(v: &Variant) -> [usize; 2] {
    let get = |name| v.get(name) as usize;
    match method(v) {
        COOP => [get("TILE"); 2],
        TILE | DOT4 => [get("TILE_M"), get("TILE_N")],
        ROWS => [get("ROWS"), get("COLS") * 64 / get("LANES")],
        _ => [get("ROWS"), get("COLS") * get("GROUP")],
    }
}

/// Sums that an invocation keeps; the matrix units' lie across a subgroup.
pub(super) fn sums(v: &Variant) -> u32 {
    match method(v) {
        TILE | DOT4 => v.get("TM") * v.get("TN"),
        _ => 1,
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

/// Whether it takes 8 numbers a load where rows allow it.
pub(super) fn by_eight(v: &Variant) -> bool {
    v.defines.contains(&("STEP", 8))
}

/// What k has to be a multiple of for unguarded vec4 loads.
pub(super) fn step(v: &Variant) -> usize {
    match method(v) {
        TILE => 16,
        DOT4 => 64,
        COOP => v.get("STEP") as usize,
        _ => 4,
    }
}

/// Whether its operands are rounded to f16: not for weights that are stored in f32.
fn half(v: &Variant) -> bool {
    v.defines.contains(&("F16", 1))
}

/// Whether x has to come as `quantize_rows` packs it.
pub(super) fn takes_q8(v: &Variant) -> bool {
    method(v) == DOT4
}

/// Whether a variant can run: limits of the device, and no shapes that it is hopeless for.
pub(super) fn suits(v: &Variant, target: &Target, p: &super::choice::Product) -> bool {
    let limits = &target.limits;
    let [tile_m, tile_n] = tile(v);
    let storage = !half(v) || p.w != DType::F32;
    match method(v) {
        TILE => {
            let smallest = tile_m == 32;
            let large = smallest || p.m > tile_m / 2 || p.n > tile_n / 2;
            // Sizes that are no multiple of 4 are rare and cost four times the loads: tile32 is enough for them.
            let fours = smallest || p.vec;
            let bytes = 16 * (tile_m + tile_n) * if half(v) { 2 } else { 4 };
            let threads = tile_m * tile_n / (v.get("TM") * v.get("TN")) as usize;
            let limits = bytes <= limits.workgroup_memory as usize && threads <= limits.invocations as usize;
            large && fours && storage && limits
        }
        COOP => {
            let (step, side) = (v.get("STEP") as usize, v.get("COOP") as usize);
            let padded = if half(v) { (step + 8) * 2 } else { (step + 4) * 4 };
            let bytes = 2 * tile_m * padded + 4 * side * side * 4;
            p.vec && storage && bytes <= limits.workgroup_memory as usize
        }
        // x is quantised as one dense matrix.
        DOT4 => p.batch == 1 && p.vec && [DType::Q8, DType::Q4].contains(&p.w),
        ROWS => p.m <= 4 * tile_m,
        _ => p.vec || tile_m <= 8,
    }
}
