// f32 rows to blocks of 32 in 8 bits, for a product that takes both operands so.
// x: rows of k, strided; y: q8 (`DType::Q8` in shape.rs): quants four to a word, from word p.scales on f16 scales.
//
// Eight threads a block, a vec4 each, eight blocks a workgroup: the largest magnitude by workgroup memory, since
// browsers have no subgroups. A scale fills half a word: the first thread of two neighbouring blocks stores both.
struct Params {
    base: vec4<u32>,
    x_offset: u32,
    x_row: u32,
    // Blocks in a row, and in all.
    row: u32,
    blocks: u32,
    scales: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

var<workgroup> largest: array<f32, 64>;

// The scale of the block whose threads start at `first`: the eight largest in their order.
fn scale_of(first: u32) -> f32 {
    var m = 0.0;
    for (var i = 0u; i < 8u; i += 1u) {
        m = max(m, largest[first + i]);
    }
    // The largest f16: what lies beyond 127 times that is clamped.
    return min(m / 127.0, 65504.0);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = (wid.x + p.base.x) * 64u + lane;
    let block = word >> 3u;
    var v: vec4<f32>;
    if block < p.blocks {
        let start = p.x_offset + block / p.row * p.x_row + block % p.row * 32u;
        v = x[(start >> 2u) + (word & 7u)];
    }
    let a = abs(v);
    largest[lane] = max(max(a.x, a.y), max(a.z, a.w));
    workgroupBarrier();
    if block >= p.blocks {
        return;
    }
    let d = scale_of(lane & 56u);
    let inverse = select(0.0, 1.0 / d, d > 0.0);
    y[word] = pack4xI8Clamp(vec4<i32>(round(v * inverse)));
    if (lane & 15u) == 0u {
        y[p.scales + (block >> 1u)] = pack2x16float(vec2<f32>(d, scale_of(lane + 8u)));
    }
}
