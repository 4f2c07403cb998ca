// Layer norm without weights, then scale and shift by vectors that the whole row of tokens shares (adaLN):
// y = (x - mean) / sqrt(variance + eps) * (1 + scale) + shift.
// x, y: (batch, tokens, cols). Tokens before `split` take the first pair of vectors, the others the second: text and
// picture in one launch. Floor: 8 bytes an element, x in and y out.
//
// GPU: one workgroup a row, which stays in registers (PER elements an invocation): mean, then the sum of squared
// differences from it (E[x^2] - mean^2 cancels). Software (THREADS 1): one row an invocation, read three times.
#if THREADS > 1
#import reduce
#endif

struct Params {
    base: vec4<u32>,
    shift: vec2<u32>,   // where each pair's shift begins, in VEC
    scale: vec2<u32>,
    rows: u32,
    cols: u32,          // in VEC
    tokens: u32,
    split: u32,
    batch: u32,         // from one batch element's vectors to the next, in VEC
    inverse: f32,       // 1 / columns
    eps: f32,
}
#import element
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> vectors: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

// Where shift and scale of a row begin.
fn vectors_of(row: u32) -> vec2<u32> {
    let first = row / p.tokens * p.batch;
    return first + select(vec2(p.shift.y, p.scale.y), vec2(p.shift.x, p.scale.x), row % p.tokens < p.split);
}

#if THREADS > 1
@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = wid.x + p.base.x;
    let start = row * p.cols;
    var sum = 0.0;
#for i in 0..PER
    var v#{i} = Element();
    if lane + #{i * THREADS}u < p.cols {
        v#{i} = x[start + lane + #{i * THREADS}u];
    }
    sum += total(v#{i});
#endfor
    let mean = workgroup_sum(sum, lane) * p.inverse;
    var squares = 0.0;
#for i in 0..PER
    if lane + #{i * THREADS}u < p.cols {
        v#{i} -= mean;
        squares += total(v#{i} * v#{i});
    }
#endfor
    let scale = inverseSqrt(workgroup_sum(squares, lane) * p.inverse + p.eps);
    let at = vectors_of(row);
#for i in 0..PER
    if lane + #{i * THREADS}u < p.cols {
        let c = lane + #{i * THREADS}u;
        y[start + c] = v#{i} * scale * (1.0 + vectors[at.y + c]) + vectors[at.x + c];
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
    var sum = Element();
    for (var c = 0u; c < p.cols; c++) {
        sum += x[start + c];
    }
    let mean = total(sum) * p.inverse;
    var squares = 0.0;
    for (var c = 0u; c < p.cols; c++) {
        let d = x[start + c] - mean;
        squares += total(d * d);
    }
    let scale = inverseSqrt(squares * p.inverse + p.eps);
    let at = vectors_of(row);
    for (var c = 0u; c < p.cols; c++) {
        y[start + c] = (x[start + c] - mean) * scale * (1.0 + vectors[at.y + c]) + vectors[at.x + c];
    }
}
#endif
