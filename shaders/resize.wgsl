// Resampling of NHWC images as torch.nn.functional.interpolate(align_corners=False).
// x: (n, in_height, in_width, c) -> y: (n, height, width, c). MODE 0 nearest, 1 bilinear, 2 bilinear with antialias,
// 3 bicubic (a = -0.75). One output element an invocation; neighbours take neighbouring channels.
struct Params {
    base: vec4<u32>,
    count: u32,         // elements of y
    in_height: u32,
    in_width: u32,
    height: u32,
    width: u32,
    channels: u32,
    scale_y: f32,       // in / out, rounded as torch does
    scale_x: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

#if MODE == 1
// Sample positions (this pixel, the next) and the weight of the second.
struct Pair { i: u32, j: u32, t: f32 }
fn pair(d: u32, scale: f32, size: u32) -> Pair {
    let s = max((f32(d) + 0.5) * scale - 0.5, 0.0);
    let i = min(u32(s), size - 1u);
    return Pair(i, min(i + 1u, size - 1u), clamp(s - f32(i), 0.0, 1.0));
}
#elif MODE == 2
// The taps first .. end of the triangle filter, and its centre.
struct Taps { first: u32, end: u32, center: f32, inverse: f32 }
fn taps(d: u32, scale: f32, size: u32) -> Taps {
    let center = scale * (f32(d) + 0.5);
    let support = max(scale, 1.0);
    let first = u32(max(center - support + 0.5, 0.0));
    return Taps(first, min(u32(center + support + 0.5), size), center, 1.0 / support);
}
fn tap(t: Taps, i: u32) -> f32 {
    return max(1.0 - abs((f32(i) - t.center + 0.5) * t.inverse), 0.0);
}
#elif MODE == 3
// Keys' cubic convolution with a = -0.75, at distances t + 1, t, 1 - t, 2 - t.
fn cubic(t: f32) -> vec4<f32> {
    let a = -0.75;
    let d = vec4(t + 1.0, t, 1.0 - t, 2.0 - t);
    let far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    let near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    return vec4(far.x, near.y, near.z, far.w);
}
#endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
    let c = i % p.channels;
    let pixel = i / p.channels;
    let dx = pixel % p.width;
    let dy = pixel / p.width % p.height;
    let row = p.in_width * p.channels;
    let image = pixel / p.width / p.height * p.in_height * row + c;
#if MODE == 0
    let sy = min(u32(f32(dy) * p.scale_y), p.in_height - 1u);
    let sx = min(u32(f32(dx) * p.scale_x), p.in_width - 1u);
    y[i] = x[image + sy * row + sx * p.channels];
#elif MODE == 1
    let v = pair(dy, p.scale_y, p.in_height);
    let h = pair(dx, p.scale_x, p.in_width);
    let top = image + v.i * row;
    let bottom = image + v.j * row;
    let above = x[top + h.i * p.channels] * (1.0 - h.t) + x[top + h.j * p.channels] * h.t;
    let below = x[bottom + h.i * p.channels] * (1.0 - h.t) + x[bottom + h.j * p.channels] * h.t;
    y[i] = above * (1.0 - v.t) + below * v.t;
#elif MODE == 2
    let v = taps(dy, p.scale_y, p.in_height);
    let h = taps(dx, p.scale_x, p.in_width);
    var total = 0.0;
    for (var k = h.first; k < h.end; k++) {
        total += tap(h, k);
    }
    var sum = 0.0;
    var weights = 0.0;
    for (var j = v.first; j < v.end; j++) {
        var line = 0.0;
        for (var k = h.first; k < h.end; k++) {
            line += tap(h, k) * x[image + j * row + k * p.channels];
        }
        let w = tap(v, j);
        weights += w;
        sum += w * line;
    }
    y[i] = sum / (weights * total);
#else
    let fy = (f32(dy) + 0.5) * p.scale_y - 0.5;
    let fx = (f32(dx) + 0.5) * p.scale_x - 0.5;
    let wy = cubic(fy - floor(fy));
    let wx = cubic(fx - floor(fx));
    let last = vec2(i32(p.in_width), i32(p.in_height)) - 1;
    var sum = 0.0;
#for j in 0..4
    let line#{j} = image + u32(clamp(i32(floor(fy)) + #{j - 1}, 0, last.y)) * row;
    var row#{j} = 0.0;
#for k in 0..4
    row#{j} += x[line#{j} + u32(clamp(i32(floor(fx)) + #{k - 1}, 0, last.x)) * p.channels] * wx[#{k}];
#endfor
    sum += row#{j} * wy[#{j}];
#endfor
    y[i] = sum;
#endif
}
