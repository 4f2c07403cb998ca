// y = residual + gate * act(x wT + bias + addend), batched and strided; with GLU, y = residual + gate * act(even) * odd
// columns. x: (m, k) f32; w: (n, k) f32 | f16 | q8 | q4 | q4k | q5 | q5k | q6k; y: (m, n or n / 2). Offsets and strides are
// in elements.
//
// This file has the bindings and the loads, `epilogue` the rest of a sum's way; METHOD picks the loop:
//   0 matmul_tile    workgroup memory, a register block a thread (GPU)
//   1 matmul_rows    few rows: weights are read once, lanes along k (GPU)
//   2 matmul_lanes   no barrier, rows of x by subgroup broadcast (software)
//   3 matmul_dot4    x is q8, w q8 or q4: packed 8-bit dot products (GPUs that have them)
//   4 matmul_coop    matrix units (GPUs that have them, and have proven it)
//
// W 0 f32, 1 f16, 2 q8, 3 q4, 4 q4k, 5 q5, 6 q5k, 7 q6k. VEC_K: k and the strides of x and w are multiples of 4; BY_EIGHT
// of 8, and a step reads as many. TAIL: k is no multiple of what a step covers. The rest is in `epilogue`.
#if F16
enable f16;
#endif
#if COOP
enable wgpu_cooperative_matrix;
#endif

struct Params {
    base: vec4<u32>,
    m: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    x_offset: u32,
    x_batch: u32,
    x_row: u32,
    w_offset: u32,
    w_batch: u32,
    w_row: u32,
    // The words where the scales of a quantised w start, and of x.
    scales: u32,
    x_scales: u32,
    n: u32,
    bias_batch: u32,
    gate_offset: u32,
    gate_batch: u32,
    residual_offset: u32,
    residual_batch: u32,
    residual_row: u32,
    residual_rows: u32,
    addend_offset: u32,
    addend_batch: u32,
    addend_row: u32,
    y_offset: u32,
    y_batch: u32,
    y_row: u32,
}
#if METHOD == 2
// Read once, at the top: lavapipe reads a uniform under a condition lane by lane, 30 instructions each.
@group(0) @binding(0) var<uniform> params: Params;
var<private> p: Params;
#else
@group(0) @binding(0) var<uniform> p: Params;
#endif
// What one load gives: of f32, and of f16.
#if BY_EIGHT
alias Singles = vec4<u64>;
alias Halves = vec2<u64>;
#elif VEC_K && INT64
alias Singles = vec2<u64>;
alias Halves = u64;
#elif VEC_K
alias Singles = vec4<f32>;
alias Halves = vec2<u32>;
#else
alias Singles = f32;
alias Halves = u32;
#endif
#if METHOD == 3
@group(0) @binding(1) var<storage, read> x: array<u32>;
#else
@group(0) @binding(1) var<storage, read> x: array<Singles>;
#endif
#if W >= 2
@group(0) @binding(2) var<storage, read> w: array<u32>;
#elif W == 1
@group(0) @binding(2) var<storage, read> w: array<Halves>;
#else
@group(0) @binding(2) var<storage, read> w: array<Singles>;
#endif
#if INT64
#import wide
#endif
#define FIRST 3
#import epilogue

#if METHOD != 3 && !BY_EIGHT
#import weights

// Elements k .. k+3 of the row of x that starts at element `row`; zeros beyond p.k.
fn load_x(row: u32, k: u32) -> vec4<f32> {
#if VEC_K
#if TAIL
    if k >= p.k {
        return vec4<f32>();
    }
#endif
#if INT64
    return floats(x[(row + k) >> 2u]);
#else
    return x[(row + k) >> 2u];
#endif
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
#elif METHOD == 2
#import matmul_lanes
#elif METHOD == 3
#import matmul_dot4
#else
#import matmul_coop
#endif
