// Layer norm over the last axis, with scale and shift, optionally followed by GELU.
// x, y: (rows, cols); weight, bias: (cols)
//
// GPU: one workgroup a row; mean, then the sum of squared differences from it (E[x^2] - mean^2 cancels).
// Software (THREADS 1): one row an invocation, no barrier.
#if THREADS > 1
#import reduce
#endif
#if GELU
#import activation
#endif

struct Params {
    base: vec4<u32>,
    rows: u32,
    cols: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

#define LANES THREADS
#if THREADS == 1
#define GROUP 64
#else
#define GROUP THREADS
#endif

@compute @workgroup_size(#{GROUP})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if THREADS > 1
    let row = wid.x + p.base.x;
    let first = lane;
#else
    let row = (wid.x + p.base.x) * #{GROUP}u + lane;
    if row >= p.rows {
        return;
    }
    let first = 0u;
#endif
    let start = row * p.cols;

    var sum = 0.0;
    for (var c = first; c < p.cols; c += #{LANES}u) {
        sum += x[start + c];
    }
#if THREADS > 1
    sum = workgroup_sum(sum, lane);
#endif
    let mean = sum / f32(p.cols);

    var squares = 0.0;
    for (var c = first; c < p.cols; c += #{LANES}u) {
        let d = x[start + c] - mean;
        squares += d * d;
    }
#if THREADS > 1
    squares = workgroup_sum(squares, lane);
#endif
    let scale = inverseSqrt(squares / f32(p.cols) + p.eps);

    for (var c = first; c < p.cols; c += #{LANES}u) {
        let v = (x[start + c] - mean) * scale * weight[c] + bias[c];
#if GELU
        y[start + c] = gelu(v);
#else
        y[start + c] = v;
#endif
    }
}
