// Group norm with known statistics, then an activation: y = act((x - mean) * deviation * weight + bias).
// x, y: (n, pixels, channels); stats: (n, groups, 2) of mean, 1 / sqrt(variance + eps); weight, bias: (channels).
// Floor: 8 bytes an element, x in and y out. CHANNELS is the size of a group. Four channels an invocation.
#import activate

struct Params {
    base: vec4<u32>,
    count: u32,     // elements of x, in vec4s
    cols: u32,      // of a pixel, in vec4s
    plane: u32,     // of an image, in vec4s
    groups: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
    let col = i % p.cols;
    let first = i / p.plane * p.groups;
#if CHANNELS % 4 == 0
    let s = stats[first + col / #{CHANNELS / 4}u];
    let v = (x[i] - s.x) * s.y;
#else
#for k in 0..4
    let s#{k} = stats[first + (col * 4u + #{k}u) / #{CHANNELS}u];
#endfor
    let v = (x[i] - vec4(s0.x, s1.x, s2.x, s3.x)) * vec4(s0.y, s1.y, s2.y, s3.y);
#endif
    y[i] = activate4(v * weight[col] + bias[col]);
}
