// The parts of a product whose k was split, added in their order, and the product's epilogue.
// parts: (splits, m, n); y: as the epilogue has it. One vec4 an invocation.
struct Params {
    base: vec4<u32>,
    splits: u32,
    m: u32,
    n: u32,
    bias_batch: u32,
    gate_offset: u32,
    gate_batch: u32,
    residual_offset: u32,
    residual_batch: u32,
    residual_row: u32,
    residual_rows: u32,
    addend_offset: u32,
    addend_batch: u32,
    addend_row: u32,
    y_offset: u32,
    y_batch: u32,
    y_row: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
#define FIRST 2
#import epilogue

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let e = (wid.x + p.base.x) * #{THREADS}u + lane;
    let width = p.n >> 2u;
    if e >= p.m * width {
        return;
    }
    let row = e / width;
    let col = (e % width) * 4u;
    var sum = parts[e];
    for (var s = 1u; s < p.splits; s += 1u) {
        sum += parts[s * p.m * width + e];
    }
    store4(0u, row, col, sum + load_bias(0u, col));
}
