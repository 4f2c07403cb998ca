// y = act(x wT + bias) + residual, batched and strided.
// x: (m, k) f32; w: (n, k) f32 | f16 | q8; y: (m, n). Offsets and strides of Params are in elements.
//
// This file has the bindings, the loads and the epilogue; METHOD picks the loop:
//   0 matmul_tile    workgroup memory, a register block a thread (GPU)
//   1 matmul_rows    few rows: weights are read once, lanes along k (GPU)
//   2 matmul_lane    one column a lane, no barrier (software)
//
// W 0 f32, 1 f16, 2 q8. VEC_K: k and the strides of x and w are multiples of 4. VEC_N: the same for n, bias,
// residual and y. TAIL: k is no multiple of STEP. ACTIVATION 0 none, 1 GELU, 2 ReLU.
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
    // The word where the scales of a q8 weight start.
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
#if W == 2
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
@group(0) @binding(#{3 + BIAS + RESIDUAL}) var<storage, read_write> y: array<vec4<f32>>;
#else
#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#endif
#if RESIDUAL
@group(0) @binding(#{3 + BIAS}) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(#{3 + BIAS + RESIDUAL}) var<storage, read_write> y: array<f32>;
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

fn activate(v: f32) -> f32 {
#if ACTIVATION == 1
    return gelu(v);
#elif ACTIVATION == 2
    return max(v, 0.0);
#else
    return v;
#endif
}

fn store1(batch: u32, row: u32, col: u32, sum: f32) {
#if !VEC_N
    var v = sum;
#if BIAS
    v += bias[batch * p.bias_batch + col];
#endif
    v = activate(v);
#if RESIDUAL
    v += residual[p.residual_offset + batch * p.residual_batch + (row % p.residual_rows) * p.residual_row + col];
#endif
    y[p.y_offset + batch * p.y_batch + row * p.y_row + col] = v;
#endif
}

// Columns col .. col+3 of a row, as far as they exist. col is a multiple of 4.
fn store4(batch: u32, row: u32, col: u32, sum: vec4<f32>) {
#if VEC_N
    var v = sum;
#if BIAS
    v += bias[(batch * p.bias_batch + col) >> 2u];
#endif
#if ACTIVATION == 1
    v = gelu4(v);
#elif ACTIVATION == 2
    v = max(v, vec4<f32>());
#endif
#if RESIDUAL
    v += residual[(p.residual_offset + batch * p.residual_batch + (row % p.residual_rows) * p.residual_row + col) >> 2u];
#endif
    y[(p.y_offset + batch * p.y_batch + row * p.y_row + col) >> 2u] = v;
#else
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
#endif
}

// The tile (row, column) of a workgroup: columns inside bands of 8 tile rows, so that the workgroups that run
// at one time share both operands in cache.
fn tile_of(id: u32) -> vec2<u32> {
    let band = id / (8u * p.tiles_n);
    let within = id - band * 8u * p.tiles_n;
    let height = min(8u, p.tiles_m - band * 8u);
    return vec2<u32>(band * 8u + within % height, within / height);
}

#if METHOD == 0
#import matmul_tile
#elif METHOD == 1
#import matmul_rows
#else
#import matmul_lane
#endif
