// Convolution as a matrix product without an im2col buffer: for every output pixel m and column c
//     sum over ky and j of patch(m)[ky, j] * weight[c, ky, j],   j = (kx, channel) flattened,
// handed four columns at a time, with their `bias_of(c)`, to `store(m, c, sum)`. The importing file defines both.
//
// In NHWC the (kx, channel) elements of a patch row are consecutive in memory, as they are in the weight. So the loops
// are ky outside and j inside, nothing is divided, and a tap is outside the image exactly if its row or its j is.
//
// Three ways, by define:
// TILE      a workgroup stages pixels and columns in its memory (implicit_gemm_tile.wgsl)
// SUBGROUP  one subgroup a workgroup, no memory shared: each lane loads ROWS pixels and COLS columns of its own, and
//           gets the others' pixels by broadcast; SUBGROUP * ROWS pixels x COLS columns in registers a lane
// neither   ROWS pixels x COLS columns an invocation
// Conditions join by `&`: naga turns `&&` into branches, and on 64 nested ones SwiftShader's compiler does not return.
// VEC 4: j runs in vec4 (channels % 4 == 0); HALF: f16 weights; VEC_OUT: columns % 4 == 0; EXTRA: the residual or skip has
// as many pixels as the result (1), or repeats over it (2).
struct Params {
    base: vec4<u32>,
    pixels: u32,      // outputs: n * out_height * out_width
    columns: u32,
    out_height: u32,
    out_width: u32,
    height: u32,      // of the input
    row: u32,         // elements of an input row: width * channels
    channels: u32,
    taps: u32,        // kernel rows
    span: u32,        // elements of a kernel row: kernel width * channels
    stride: u32,
    padding: u32,
    extra: u32,       // pixels of the residual or skip, which repeat over the output
}
@group(0) @binding(0) var<uniform> p: Params;
#if VEC == 4
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read> x: array<f32>;
#endif
#if HALF && VEC == 4
@group(0) @binding(2) var<storage, read> weight: array<vec2<u32>>;
#elif HALF
@group(0) @binding(2) var<storage, read> weight: array<u32>;
#elif VEC == 4
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read> weight: array<f32>;
#endif

// The patch of a pixel: first element (may lie before the image), its offset in the row, its first row.
struct Patch { start: i32, left: i32, top: i32 }

fn patch_of(m: u32) -> Patch {
#if TILE
    let stride = #{STRIDE}u;
    let padding = #{PAD};
#else
    let stride = p.stride;
    let padding = i32(p.padding);
#endif
    if m >= p.pixels {
        return Patch(0, 0, 0x40000000);
    }
    let line = m / p.out_width;
    let image = line / p.out_height;
    let top = i32((line - image * p.out_height) * stride) - padding;
    let left = (i32((m - line * p.out_width) * stride) - padding) * i32(p.channels);
    return Patch((i32(image * p.height) + top) * i32(p.row) + left, left, top);
}

// Four elements of kernel row ky from j on; zero outside the image and beyond the row.
fn patch4(q: Patch, ky: u32, j: u32) -> vec4<f32> {
    let inside = u32(q.top + i32(ky)) < p.height;
    let at = u32(q.start) + ky * p.row + j;
    let column = u32(q.left) + j;
#if VEC == 4
    let ok = inside & (j < p.span) & (column < p.row);
    return select(vec4<f32>(), x[select(0u, at / 4u, ok)], ok);
#else
#for i in 0..4
    let ok#{i} = inside & (j + #{i}u < p.span) & (column + #{i}u < p.row);
    let v#{i} = select(0.0, x[select(0u, at + #{i}u, ok#{i})], ok#{i});
#endfor
    return vec4(v0, v1, v2, v3);
#endif
}

// Four weights of column c; zero beyond the columns and beyond the row.
fn weight4(c: u32, ky: u32, j: u32) -> vec4<f32> {
    let at = (c * p.taps + ky) * p.span + j;
#if VEC == 4
    let ok = (c < p.columns) & (j < p.span);
    let w = weight[select(0u, at / 4u, ok)];
#if HALF
    return select(vec4<f32>(), vec4(unpack2x16float(w.x), unpack2x16float(w.y)), ok);
#else
    return select(vec4<f32>(), w, ok);
#endif
#else
#for i in 0..4
    let ok#{i} = (c < p.columns) & (j + #{i}u < p.span);
    let at#{i} = select(0u, at + #{i}u, ok#{i});
#if HALF
    let v#{i} = select(0.0, unpack2x16float(weight[at#{i} / 2u])[at#{i} % 2u], ok#{i});
#else
    let v#{i} = select(0.0, weight[at#{i}], ok#{i});
#endif
#endfor
    return vec4(v0, v1, v2, v3);
#endif
}

#if ACTIVATION == 1
#import activation
#endif
fn activate(v: vec4<f32>) -> vec4<f32> {
#if ACTIVATION == 1
    return gelu4(v);
#elif ACTIVATION == 2
    return max(v, vec4<f32>());
#else
    return v;
#endif
}

#if TILE
#import implicit_gemm_tile
#else
#if SUBGROUP
#define LANES SUBGROUP
#define GROUP SUBGROUP
#else
#define LANES 1
#define GROUP 64
#endif

@compute @workgroup_size(#{GROUP})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#if SUBGROUP
    let first_pixel = (wid.x + p.base.x) * #{LANES * ROWS}u;
    let mine = first_pixel + lane;
    let column = ((wid.y + p.base.y) * #{LANES}u + lane) * #{COLS}u;
#else
    // Neighbouring invocations take neighbouring pixels of the same columns.
    let first_pixel = ((wid.x + p.base.x) * #{GROUP}u + lane) * #{ROWS}u;
    let mine = first_pixel;
    let column = (wid.y + p.base.y) * #{COLS}u;
#endif
#for r in 0..ROWS
    let q#{r} = patch_of(mine + #{r * LANES}u);
#endfor
#for r in 0..ROWS * LANES
#for c in 0..COLS / 4
    var sum#{r}_#{c} = vec4<f32>();
#endfor
#endfor
    for (var ky = 0u; ky < p.taps; ky++) {
        for (var j = 0u; j < p.span; j += 4u) {
#for r in 0..ROWS
            let x#{r} = patch4(q#{r}, ky, j);
#endfor
#for c in 0..COLS / 4
            let w#{c} = transpose(mat4x4(weight4(column + #{c * 4}u, ky, j), weight4(column + #{c * 4 + 1}u, ky, j),
                weight4(column + #{c * 4 + 2}u, ky, j), weight4(column + #{c * 4 + 3}u, ky, j)));
#endfor
#for r in 0..ROWS
#for l in 0..LANES
            {
#if SUBGROUP
                let v = subgroupBroadcast(x#{r}, #{l}u);
#else
                let v = x#{r};
#endif
#for c in 0..COLS / 4
                sum#{r * LANES + l}_#{c} += v.x * w#{c}[0] + v.y * w#{c}[1] + v.z * w#{c}[2] + v.w * w#{c}[3];
#endfor
            }
#endfor
#endfor
        }
    }
    // A loop over memory, not text unrolled: the epilogue inlined 64 times took seconds to compile.
    var sums: array<vec4<f32>, #{ROWS * LANES * COLS / 4}>;
#for r in 0..ROWS * LANES
#for c in 0..COLS / 4
    sums[#{r * COLS / 4 + c}] = sum#{r}_#{c};
#endfor
#endfor
    for (var i = 0u; i < #{ROWS * LANES * COLS / 4}u; i++) {
        let m = first_pixel + i / #{COLS / 4}u;
        let c = column + i % #{COLS / 4}u * 4u;
        if (m < p.pixels) & (c < p.columns) {
            store(m, c, sums[i] + bias_of(c));
        }
    }
}
#endif
