// Mean and 1 / sqrt(variance + eps) of groups of channels of an NHWC image: the statistics of a group norm.
// x: (n, pixels, channels); stats: (n, groups, 2). Floor: 4 bytes an element, read once.
//
// STAGE 0: the picture in parts; of each, mean and sum of squared differences from it for every channel, by Welford's
// update (E[x^2] - mean^2 cancels), LANES invocations a part and column of four channels. STAGE 1: the parts and the
// channels of a group become one, by Chan's formula. The order is fixed: two runs give the same bits.
#if STAGE == 1 && THREADS > 1
#import reduce
#endif

struct Params {
    base: vec4<u32>,
    pixels: u32,
    cols: u32,      // channels / 4
    chunk: u32,     // pixels of a part
    parts: u32,
    groups: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;

#if STAGE == 0
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
// For each part and column: means, sums of squared differences.
@group(0) @binding(2) var<storage, read_write> parts: array<vec4<f32>>;

#define COLS 8
#if LANES > 1
var<workgroup> sh_mean: array<vec4<f32>, #{COLS * LANES}>;
var<workgroup> sh_squares: array<vec4<f32>, #{COLS * LANES}>;
#endif

@compute @workgroup_size(#{COLS * LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = wid + p.base.xyz;
    let col = group.x * #{COLS}u + lane % #{COLS}u;
    let begin = group.y * p.chunk;
    let end = min(begin + p.chunk, p.pixels);
    let image = group.z * p.pixels;
    var count = 0.0;
    var mean = vec4<f32>();
    var squares = vec4<f32>();
    for (var i = begin + lane / #{COLS}u; i < end; i += #{LANES}u) {
        let v = x[(image + i) * p.cols + min(col, p.cols - 1u)];
        count += 1.0;
        let d = v - mean;
        mean += d * (1.0 / count);
        squares += d * (v - mean);
    }
#if LANES > 1
    sh_mean[lane] = mean;
    sh_squares[lane] = squares;
    workgroupBarrier();
    if lane >= #{COLS}u {
        return;
    }
#for k in 1..LANES
    {
        let more = f32((end - begin + #{LANES - 1 - k}u) / #{LANES}u);
        let share = more / (count + more);
        let d = sh_mean[lane + #{k * COLS}u] - mean;
        mean += d * share;
        squares += sh_squares[lane + #{k * COLS}u] + d * d * (count * share);
        count += more;
    }
#endfor
#endif
    if col < p.cols {
        let at = ((group.z * p.parts + group.y) * p.cols + col) * 2u;
        parts[at] = mean;
        parts[at + 1u] = squares;
    }
}
#else
@group(0) @binding(1) var<storage, read> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> stats: array<vec2<f32>>;

// Where a channel's mean in a part of all images' parts is; its squares are four further.
fn address(part: u32, channel: u32) -> u32 {
    return (part * p.cols + channel / 4u) * 8u + channel % 4u;
}

fn pixels_of(part: u32) -> f32 {
    return f32(min(p.chunk, p.pixels - part * p.chunk));
}

fn gathered(sum: f32, lane: u32) -> f32 {
#if THREADS > 1
    return workgroup_sum(sum, lane);
#else
    return sum;
#endif
}

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let group = wid.x + p.base.x;
    let image = group / p.groups * p.parts;
    let channels = p.cols * 4u / p.groups;
    let first = group % p.groups * channels;
    // Means are summed as differences from one of them: they may be far from 0 and close to each other.
    let pivot = parts[address(image, first)];
    var sum = 0.0;
    for (var i = lane; i < p.parts * channels; i += #{THREADS}u) {
        sum += pixels_of(i / channels) * (parts[address(image + i / channels, first + i % channels)] - pivot);
    }
    let total = f32(p.pixels * channels);
    let mean = pivot + gathered(sum, lane) / total;
    var squares = 0.0;
    for (var i = lane; i < p.parts * channels; i += #{THREADS}u) {
        let at = address(image + i / channels, first + i % channels);
        let d = parts[at] - mean;
        squares += parts[at + 4u] + pixels_of(i / channels) * d * d;
    }
    let variance = gathered(squares, lane) / total;
    if lane == 0u {
        stats[group] = vec2(mean, inverseSqrt(variance + p.eps));
    }
}
#endif
