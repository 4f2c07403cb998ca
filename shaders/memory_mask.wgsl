// Mask logits to what the memory encoder sees: enlarged bilinearly, as probabilities or cut at 0, scaled and shifted.
// x: (n, low, low); hard: (n), above 0.5 where the mask is cut; y: (n, side, side, 1). Floor: 4 bytes a pixel of y.
struct Params {
    base: vec4<u32>,
    count: u32,    // pixels of y
    side: u32,
    low: u32,
    ratio: f32,    // low / side
    scale: f32,
    shift: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> hard: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
    let row = i / p.side;
    let n = row / p.side;
    // align_corners=False: centres of pixels, and beyond the first the first.
    let at = max((vec2<f32>(vec2(i % p.side, row % p.side)) + 0.5) * p.ratio - 0.5, vec2(0.0));
    let near = min(vec2<u32>(at), vec2(p.low - 1u));
    let far = min(near + 1u, vec2(p.low - 1u));
    let part = at - vec2<f32>(near);
    let upper = (n * p.low + near.y) * p.low;
    let lower = (n * p.low + far.y) * p.low;
    let v = mix(mix(x[upper + near.x], x[upper + far.x], part.x), mix(x[lower + near.x], x[lower + far.x], part.x), part.y);
    // Beyond 60 nothing is left of exp in f32; beyond 88 it overflows.
    let soft = 1.0 / (1.0 + exp(-clamp(v, -60.0, 60.0)));
    y[i] = select(soft, select(0.0, 1.0, v > 0.0), hard[n] > 0.5) * p.scale + p.shift;
}
