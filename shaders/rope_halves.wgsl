// Rotary position embedding of q and k by halves, in place, behind a norm of each head with NORM: a head becomes
// rotate(head / sqrt(mean(head^2) + eps) * weight), where element j turns with element j + head_dim / 2.
// x: (batch, tokens, row): the heads of q, then those of k, then what stays as it is (v).
// weight: (q and k, head_dim); table: (tokens, head_dim / 2, 2) of cos, sin. Floor: 8 bytes an element of q and k.
//
// LANES invocations a head, PER vec4s of either half each, one barrier. Software (LANES 1): no barrier, a head is read twice.
struct Params {
    base: vec4<u32>,
    items: u32,      // heads of q and k of all tokens
    heads: u32,      // of q and k, of a token
    queries: u32,    // of them q
    tokens: u32,
    row: u32,        // in vec4s
    half: u32,       // of a head, in vec4s
    inverse: f32,    // 1 / head_dim
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
#if NORM
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;
#endif

#if NORM && LANES > 1
var<workgroup> sh_sum: array<f32, 64>;
#endif

// Writes vec4 c of both halves, turned.
fn rotate(start: u32, c: u32, angles: u32, a: vec4<f32>, b: vec4<f32>) {
    let r = table[angles + 2u * c];
    let s = table[angles + 2u * c + 1u];
    let cosines = vec4(r.xz, s.xz);
    let sines = vec4(r.yw, s.yw);
    x[start + c] = a * cosines - b * sines;
    x[start + p.half + c] = b * cosines + a * sines;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let item = (wid.x + p.base.x) * #{64 / LANES}u + lane / #{LANES}u;
    let head = item % p.heads;
    let row = item / p.heads;
    let start = row * p.row + head * 2u * p.half;
    let angles = row % p.tokens * 2u * p.half;
#if NORM
    let weights = select(0u, 2u * p.half, head >= p.queries);
    var sum = 0.0;
#endif
#if LANES > 1
    // Heads beyond the last have no elements; their invocations still meet the barrier.
    let part = lane % #{LANES}u;
    let half = select(0u, p.half, item < p.items);
#for i in 0..PER
    var a#{i} = vec4<f32>();
    var b#{i} = vec4<f32>();
    if part + #{i * LANES}u < half {
        a#{i} = x[start + part + #{i * LANES}u];
        b#{i} = x[start + half + part + #{i * LANES}u];
    }
#if NORM
    sum += dot(a#{i}, a#{i}) + dot(b#{i}, b#{i});
#endif
#endfor
#if NORM
    sh_sum[lane] = sum;
    workgroupBarrier();
    sum = 0.0;
#for i in 0..LANES
    sum += sh_sum[lane - part + #{i}u];
#endfor
    let scale = inverseSqrt(sum * p.inverse + p.eps);
#endif
#for i in 0..PER
    if part + #{i * LANES}u < half {
        let c = part + #{i * LANES}u;
#if NORM
        rotate(start, c, angles, a#{i} * scale * weight[weights + c], b#{i} * scale * weight[weights + half + c]);
#else
        rotate(start, c, angles, a#{i}, b#{i});
#endif
    }
#endfor
#else
    if item >= p.items {
        return;
    }
#if NORM
    for (var c = 0u; c < 2u * p.half; c++) {
        let v = x[start + c];
        sum += dot(v, v);
    }
    let scale = inverseSqrt(sum * p.inverse + p.eps);
#endif
    for (var c = 0u; c < p.half; c++) {
        let a = x[start + c];
        let b = x[start + p.half + c];
#if NORM
        rotate(start, c, angles, a * scale * weight[weights + c], b * scale * weight[weights + p.half + c]);
#else
        rotate(start, c, angles, a, b);
#endif
    }
#endif
}
