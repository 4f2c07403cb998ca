// New memories to their places in the bank, with what marks an object as absent, rounded to bfloat16 if asked.
// x: (n, cells, dim); places: (n, 2), a slot of the bank and how absent the object is, 0 or 1; mark: (dim);
// bank: (slots, cells, dim). Floor: 8 bytes an element of x. In vec4s.
struct Params {
    base: vec4<u32>,
    count: u32,    // of x
    memory: u32,   // of one memory
    width: u32,    // of a cell
    slots: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> places: array<f32>;
@group(0) @binding(3) var<storage, read> mark: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> bank: array<vec4<f32>>;

// To the nearest, halves to even, as torch rounds.
fn bfloat(v: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(v);
    return bitcast<vec4<f32>>((bits + 0x7fffu + ((bits >> vec4(16u)) & vec4(1u))) & vec4(0xffff0000u));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
    let n = i / p.memory;
    let slot = min(u32(places[2u * n]), p.slots - 1u);
    let v = x[i] + places[2u * n + 1u] * mark[i % p.width];
#if BF16
    bank[slot * p.memory + i % p.memory] = bfloat(v);
#else
    bank[slot * p.memory + i % p.memory] = v;
#endif
}
