// y = act(x wT + bias) + residual, batched and strided.
// x: (m, k) f32; w: (n, k) f32 | f16 | q8 | q4 | q4k; y: (m, n). Offsets and strides of Params are in elements.
//
// This file has the bindings, the loads and the epilogue; METHOD picks the loop:
//   0 matmul_tile    workgroup memory, a register block a thread (GPU)
//   1 matmul_rows    few rows: weights are read once, lanes along k (GPU)
//   2 matmul_lanes   no barrier, rows of x by subgroup broadcast (software)
//
// W 0 f32, 1 f16, 2 q8, 3 q4, 4 q4k. VEC_K: k and the strides of x and w are multiples of 4. VEC_N: the same for n, bias,
// residual and y. TAIL: k is no multiple of what a step covers. ACTIVATION 0 none, 1 GELU, 2 ReLU.
// RESIDUAL 0 none, 1 as many rows as y, 2 rows that repeat.
#if ACTIVATION == 1
#import activation
#endif

struct Params {
    base: vec4<u32>,
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    x_offset: u32,
    x_batch: u32,
    x_row: u32,
    w_offset: u32,
    w_batch: u32,
    w_row: u32,
    // The word where the scales of a quantised weight start.
    scales: u32,
    bias_batch: u32,
    residual_offset: u32,
    residual_batch: u32,
    residual_row: u32,
    residual_rows: u32,
    y_offset: u32,
    y_batch: u32,
    y_row: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
#if VEC_K
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read> x: array<f32>;
#endif
#if W >= 2
@group(0) @binding(2) var<storage, read> w: array<u32>;
#elif W == 1
#if VEC_K
@group(0) @binding(2) var<storage, read> w: array<vec2<u32>>;
#else
@group(0) @binding(2) var<storage, read> w: array<u32>;
#endif
#elif VEC_K
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read> w: array<f32>;
#endif
#if VEC_N
#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
#endif
#if RESIDUAL
@group(0) @binding(#{3 + BIAS}) var<storage, read> residual: array<vec4<f32>>;
#endif
@group(0) @binding(#{3 + BIAS + (RESIDUAL > 0)}) var<storage, read_write> y: array<vec4<f32>>;
#else
#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#endif
#if RESIDUAL
@group(0) @binding(#{3 + BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(#{3 + BIAS + (RESIDUAL > 0)}) var<storage, read_write> y: array<f32>;
#endif

#import weights

// Elements k .. k+3 of the row of x that starts at element `row`; zeros beyond p.k.
fn load_x(row: u32, k: u32) -> vec4<f32> {
#if VEC_K
#if TAIL
    if k >= p.k {
        return vec4<f32>();
    }
#endif
    return x[(row + k) >> 2u];
#else
    // The index stays inside the row; what it should not have read counts as zero.
    let last = p.k - 1u;
    let v = vec4<f32>(x[row + min(k, last)], x[row + min(k + 1u, last)], x[row + min(k + 2u, last)], x[row + min(k + 3u, last)]);
    return select(vec4<f32>(), v, vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(p.k));
#endif
}

// The same of w.
fn load_w(row: u32, k: u32) -> vec4<f32> {
#if VEC_K
#if TAIL
    if k >= p.k {
        return vec4<f32>();
    }
#endif
    return weight4((row + k) >> 2u);
#else
    let last = p.k - 1u;
    let v = vec4<f32>(weight1(row + min(k, last)), weight1(row + min(k + 1u, last)), weight1(row + min(k + 2u, last)), weight1(row + min(k + 3u, last)));
    return select(vec4<f32>(), v, vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(p.k));
#endif
}

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

#if RESIDUAL
fn residual_at(batch: u32, row: u32, col: u32) -> u32 {
#if RESIDUAL == 2
    let r = row % p.residual_rows;
#else
    let r = row;
#endif
    return p.residual_offset + batch * p.residual_batch + r * p.residual_row + col;
}
#endif

#if VEC_N
// The rest of the epilogue for columns col .. col+3 of a row; the bias is in the sum already.
fn store4(batch: u32, row: u32, col: u32, sum: vec4<f32>) {
#if ACTIVATION == 1
    var v = gelu4(sum);
#elif ACTIVATION == 2
    var v = max(sum, vec4<f32>());
#else
    var v = sum;
#endif
#if RESIDUAL
    v += residual[residual_at(batch, row, col) >> 2u];
#endif
    y[(p.y_offset + batch * p.y_batch + row * p.y_row + col) >> 2u] = v;
}
#else
fn store1(batch: u32, row: u32, col: u32, sum: f32) {
#if ACTIVATION == 1
    var v = gelu(sum);
#elif ACTIVATION == 2
    var v = max(sum, 0.0);
#else
    var v = sum;
#endif
#if RESIDUAL
    v += residual[residual_at(batch, row, col)];
#endif
    y[p.y_offset + batch * p.y_batch + row * p.y_row + col] = v;
}

fn store4(batch: u32, row: u32, col: u32, sum: vec4<f32>) {
    store1(batch, row, col, sum.x);
    if col + 1u < p.n {
        store1(batch, row, col + 1u, sum.y);
    }
    if col + 2u < p.n {
        store1(batch, row, col + 2u, sum.z);
    }
    if col + 3u < p.n {
        store1(batch, row, col + 3u, sum.w);
    }
}
#endif

// The tile (row, column) of a workgroup.
fn tile_of(id: vec3<u32>) -> vec2<u32> {
#if METHOD == 2
    return id.yx;
#else
    // Along x in bands of 8 tile rows, column by column: workgroups that run at one time share both operands in
    // cache. On a CPU the divisions would cost as much as a step along k.
    let band = id.x / (8u * p.tiles_n);
    let within = id.x - band * 8u * p.tiles_n;
    let height = min(8u, p.tiles_m - band * 8u);
    return vec2<u32>(band * 8u + within % height, within / height);
#endif
}

#if METHOD == 0
#import matmul_tile
#elif METHOD == 1
#import matmul_rows
#else
#import matmul_lanes
#endif
