// Root mean square norm over the last axis: y = x / sqrt(mean(x^2) + eps) * weight.
// x, y: (rows, cols); weight: (cols). Floor: 8 bytes an element, x in and y out.
//
// GPU: one workgroup a row, which stays in registers (PER elements an invocation) between the sum and the product.
// Software (THREADS 1): one row an invocation, read twice, no barrier.
#if THREADS > 1
#import reduce
#endif

struct Params {
    base: vec4<u32>,
    rows: u32,
    cols: u32,       // in VEC
    inverse: f32,    // 1 / columns
    eps: f32,
}
#import element
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> weight: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

#if THREADS > 1
@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = (wid.x + p.base.x) * p.cols;
    var sum = 0.0;
#for i in 0..PER
    var v#{i} = Element();
    if lane + #{i * THREADS}u < p.cols {
        v#{i} = x[start + lane + #{i * THREADS}u];
    }
    sum += total(v#{i} * v#{i});
#endfor
    let scale = inverseSqrt(workgroup_sum(sum, lane) * p.inverse + p.eps);
#for i in 0..PER
    if lane + #{i * THREADS}u < p.cols {
        y[start + lane + #{i * THREADS}u] = v#{i} * scale * weight[lane + #{i * THREADS}u];
    }
#endfor
}
#else
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = (wid.x + p.base.x) * 64u + lane;
    if row >= p.rows {
        return;
    }
    let start = row * p.cols;
    var sum = 0.0;
    for (var c = 0u; c < p.cols; c++) {
        let v = x[start + c];
        sum += total(v * v);
    }
    let scale = inverseSqrt(sum * p.inverse + p.eps);
    for (var c = 0u; c < p.cols; c++) {
        y[start + c] = x[start + c] * scale * weight[c];
    }
}
#endif
