// Norm and rotary position embedding of q and k, in place: each head becomes
// rotate(head / sqrt(mean(head^2) + eps) * weight), adjacent pairs turned by angles from a table.
// x: (batch, tokens, row): the heads of q, then those of k, then what stays as it is (v).
// weight: (q and k, streams, head_dim); table: (tokens, head_dim / 2, 2) of cos, sin. Tokens before `split` are of the
// first stream, the others of the second. Floor: 8 bytes an element of q and k; v is left where attention reads it.
//
// LANES invocations a head, PER vec4s each, one barrier. Software (LANES 1): no barrier, a head is read twice.
struct Params {
    base: vec4<u32>,
    items: u32,      // heads of q and k of all tokens
    heads: u32,      // of q and k, of a token
    queries: u32,    // of them q
    tokens: u32,
    split: u32,
    streams: u32,
    row: u32,        // in vec4s
    width: u32,      // of a head, in vec4s
    inverse: f32,    // 1 / head_dim
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;

#if LANES > 1
var<workgroup> sh_sum: array<f32, 64>;
#endif

fn rotate(v: vec4<f32>, r: vec4<f32>) -> vec4<f32> {
    return vec4(v.x * r.x - v.y * r.y, v.x * r.y + v.y * r.x, v.z * r.z - v.w * r.w, v.z * r.w + v.w * r.z);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let item = (wid.x + p.base.x) * #{64 / LANES}u + lane / #{LANES}u;
    let head = item % p.heads;
    let row = item / p.heads;
    let token = row % p.tokens;
    let start = row * p.row + head * p.width;
    let kind = select(0u, p.streams, head >= p.queries);
    let weights = (kind + select(0u, p.streams - 1u, token >= p.split)) * p.width;
    let angles = token * p.width;
    var sum = 0.0;
#if LANES > 1
    // Heads beyond the last have no elements; their invocations still meet the barrier.
    let part = lane % #{LANES}u;
    let width = select(0u, p.width, item < p.items);
#for i in 0..PER
    var v#{i} = vec4<f32>();
    if part + #{i * LANES}u < width {
        v#{i} = x[start + part + #{i * LANES}u];
    }
    sum += dot(v#{i}, v#{i});
#endfor
    sh_sum[lane] = sum;
    workgroupBarrier();
    sum = 0.0;
#for i in 0..LANES
    sum += sh_sum[lane - part + #{i}u];
#endfor
    let scale = inverseSqrt(sum * p.inverse + p.eps);
#for i in 0..PER
    if part + #{i * LANES}u < width {
        let c = part + #{i * LANES}u;
        x[start + c] = rotate(v#{i} * scale * weight[weights + c], table[angles + c]);
    }
#endfor
#else
    if item >= p.items {
        return;
    }
    for (var c = 0u; c < p.width; c++) {
        let v = x[start + c];
        sum += dot(v, v);
    }
    let scale = inverseSqrt(sum * p.inverse + p.eps);
    for (var c = 0u; c < p.width; c++) {
        x[start + c] = rotate(x[start + c] * scale * weight[weights + c], table[angles + c]);
    }
#endif
}
