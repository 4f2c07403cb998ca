// y = a + b or a * b; the elements of b repeat over those of a. In elements of VEC.
struct Params {
    base: vec4<u32>,
    count: u32,    // elements of a and y
    period: u32,   // elements of b
}
#if VEC == 4
alias Element = vec4<f32>;
#else
alias Element = f32;
#endif
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<Element>;
@group(0) @binding(2) var<storage, read> b: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
#if MUL
    y[i] = a[i] * b[i % p.period];
#else
    y[i] = a[i] + b[i % p.period];
#endif
}
