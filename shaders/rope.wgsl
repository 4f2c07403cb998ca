// Rotary position embedding of adjacent pairs: (a, b) -> (a cos - b sin, a sin + b cos), angles from a table.
// x, y: (n, tokens, heads * head_dim); table: (positions, head_dim / 2, 2) of cos, sin. Token t takes row
// t % positions; from token `rotated` on they are copied. An invocation takes VEC / 2 pairs.
struct Params {
    base: vec4<u32>,
    count: u32,      // elements of x, in VEC
    cols: u32,       // of a token, in VEC
    head: u32,       // of a head, in VEC
    tokens: u32,
    positions: u32,
    rotated: u32,
}
#if VEC == 4
alias Element = vec4<f32>;
#else
alias Element = vec2<f32>;
#endif
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> table: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
    let v = x[i];
    let token = i / p.cols % p.tokens;
    if token >= p.rotated {
        y[i] = v;
        return;
    }
    let r = table[token % p.positions * p.head + i % p.cols % p.head];
#if VEC == 4
    y[i] = vec4(v.x * r.x - v.y * r.y, v.x * r.y + v.y * r.x, v.z * r.z - v.w * r.w, v.z * r.w + v.w * r.z);
#else
    y[i] = vec2(v.x * r.x - v.y * r.y, v.x * r.y + v.y * r.x);
#endif
}
