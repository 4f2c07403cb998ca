// From a sum to y: y = residual + gate * v, v = act(sum + bias + addend), or with GLU act(sum[2j] + ..) * (sum[2j + 1] + ..).
// Bindings from number FIRST on: bias, gate, residual, addend, y, as far as they exist. The shader's Params end with
//   n (columns of the sum), bias_batch, gate_offset, gate_batch, residual_*, addend_*, y_*.
//
// VEC_N: n, bias, gate, residual and y go by fours. GLU: two neighbouring columns of the sum make one of y.
// RESIDUAL 0 none, 1 as many rows as y, 2 rows that repeat. GATE: one number a column of y.
#import activate

#if VEC_N
#define WIDE (4 - 2 * GLU)
#else
#define WIDE 1
#endif
#if WIDE == 1
alias Out = f32;
alias Sum = f32;
#else
alias Out = vec#{WIDE}<f32>;
alias Sum = vec4<f32>;
#endif
// In 64 bits where `wide` says so.
#if INT64 && WIDE == 4
alias Stored = vec2<u64>;
#else
alias Stored = Out;
#endif
#if BIAS
@group(0) @binding(#{FIRST}) var<storage, read> bias: array<Sum>;
#endif
#if GATE
@group(0) @binding(#{FIRST + BIAS}) var<storage, read> gate: array<Out>;
#endif
#if RESIDUAL
@group(0) @binding(#{FIRST + BIAS + GATE}) var<storage, read> residual: array<Stored>;
#endif
#if ADDEND
@group(0) @binding(#{FIRST + BIAS + GATE + (RESIDUAL > 0)}) var<storage, read> addend: array<Sum>;
#endif
@group(0) @binding(#{FIRST + BIAS + GATE + (RESIDUAL > 0) + ADDEND}) var<storage, read_write> y: array<Stored>;

#if ADDEND
// Where the addend of a column of the sum is, in elements.
fn addend_at(batch: u32, row: u32, col: u32) -> u32 {
    return p.addend_offset + batch * p.addend_batch + row * p.addend_row + col;
}
#endif

// The bias of columns col .. col+3, as far as they exist; zeros without one.
fn load_bias(batch: u32, col: u32) -> vec4<f32> {
#if !BIAS
    return vec4<f32>();
#elif VEC_N
    return bias[(batch * p.bias_batch + min(col, p.n - 4u)) >> 2u];
#else
    let start = batch * p.bias_batch;
    let last = p.n - 1u;
    return vec4<f32>(bias[start + min(col, last)], bias[start + min(col + 1u, last)], bias[start + min(col + 2u, last)], bias[start + min(col + 3u, last)]);
#endif
}

// Gate and residual, and the store, of the WIDE columns of y from `col` on.
fn finish(batch: u32, row: u32, col: u32, activated: Out) {
    var v = activated;
#if GATE
    v *= gate[(p.gate_offset + batch * p.gate_batch + col) >> #{WIDE / 2}u];
#endif
#if RESIDUAL
#if RESIDUAL == 2
    let r = row % p.residual_rows;
#else
    let r = row;
#endif
    let added = residual[(p.residual_offset + batch * p.residual_batch + r * p.residual_row + col) >> #{WIDE / 2}u];
#if INT64 && WIDE == 4
    v += floats(added);
#else
    v += added;
#endif
#endif
    let at = (p.y_offset + batch * p.y_batch + row * p.y_row + col) >> #{WIDE / 2}u;
#if INT64 && WIDE == 4
    y[at] = pairs(v);
#else
    y[at] = v;
#endif
}

#if VEC_N
// Columns col .. col+3 of the sum in a row; the bias is in it already.
fn store4(batch: u32, row: u32, col: u32, product: vec4<f32>) {
#if ADDEND
    let sum = product + addend[addend_at(batch, row, col) >> 2u];
#else
    let sum = product;
#endif
    let v = activate4(sum);
#if GLU
    finish(batch, row, col >> 1u, v.xz * sum.yw);
#else
    finish(batch, row, col, v);
#endif
}
#else
// Column col of the sum; with GLU also the one after it, `up`.
fn store1(batch: u32, row: u32, col: u32, product: f32, up: f32) {
#if ADDEND
    let at = addend_at(batch, row, col);
    let sum = product + addend[at];
#else
    let sum = product;
#endif
#if GLU && ADDEND
    finish(batch, row, col >> 1u, activate4(vec4<f32>(sum)).x * (up + addend[at + 1u]));
#elif GLU
    finish(batch, row, col >> 1u, activate4(vec4<f32>(sum)).x * up);
#else
    finish(batch, row, col, activate4(vec4<f32>(sum)).x);
#endif
}

fn store4(batch: u32, row: u32, col: u32, sum: vec4<f32>) {
#for c in 0..4
#if !GLU || c % 2 == 0
    if col + #{c}u < p.n {
        store1(batch, row, col + #{c}u, sum[#{c}], sum[#{(c + 1) % 4}]);
    }
#endif
#endfor
}
#endif
