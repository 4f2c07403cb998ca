// The GPU way: a workgroup computes BM pixels x BN columns, a thread TM x TN of them, over a kernel row in steps of BK.
//
// A thread stages the same blocks of four pixels or columns by four elements at every step, transposed as matmul_tile
// does, with the same swizzle: vec4 column c of line k is kept at c ^ (k / 4 * 2). Neighbouring threads read neighbouring
// elements of one pixel, so that a load of the wave is a few whole cache lines.
//
// Whatever does not change along a kernel row is worked out before it: `base` is where the row of the patch starts in the
// image, `left` how far from there the patch does (negative in the padding), plus OUTSIDE for a row above or below the image.
// What is left of a load is an addition, a comparison and selects. PAD 0: no padding, and not even those (VEC 4 only).
// TAIL: a kernel row is no multiple of BK. Pixels and columns beyond the end repeat the last one; they are never stored.
// Everything counts in UNITs: vec4s with VEC 4.
//
// RADV, navi21, 3 x 3 with padding, f32: 64 x 64 0.80 of multiply-adds in a step with its staging, at 64 registers (before,
// with all conditions at every load: 0.73 at 72); 128 x 128 96 registers (112). `left` and OUTSIDE in one register and two
// rows `top` in another made the difference from 72 and 112.
#define THREADS BM / TM * (BN / TN)
#define QUADS_X BM / 4 * (BK / 4)
#define QUADS_W BN / 4 * (BK / 4)
#define ROUNDS (QUADS_X + QUADS_W + THREADS - 1) / THREADS
#define UNIT VEC
#define STEP BK / UNIT
const OUTSIDE: u32 = 0x40000000u;

var<workgroup> sh: array<vec4<f32>, #{BK * (BM + BN) / 4}>;

// Four elements of the image, j from the start of a row of a patch.
fn image4(base: u32, left: u32, j: u32, row: u32, span: u32) -> vec4<f32> {
#if VEC == 4 && !PAD && !TAIL
    return x[base + j];
#elif VEC == 4
#if !PAD
    let c = j;
    let ok = j < span;
#else
    let c = left + j;
#if TAIL
    let ok = (c < row) & (j < span);
#else
    let ok = c < row;
#endif
#endif
    return select(vec4<f32>(), x[select(0u, base + c, ok)], ok);
#else
#for i in 0..4
    let c#{i} = left + j + #{i}u;
    let ok#{i} = (c#{i} < row) & (j + #{i}u < span);
    let v#{i} = select(0.0, x[select(0u, base + c#{i}, ok#{i})], ok#{i});
#endfor
    return vec4(v0, v1, v2, v3);
#endif
}

// Four weights of a kernel row.
fn kernel4(base: u32, j: u32, span: u32) -> vec4<f32> {
#if VEC == 4
#if TAIL
    let ok = j < span;
    let w = weight[select(0u, base + j, ok)];
#else
    let ok = true;
    let w = weight[base + j];
#endif
#if HALF
    return select(vec4<f32>(), vec4(unpack2x16float(w.x), unpack2x16float(w.y)), ok);
#else
    return select(vec4<f32>(), w, ok);
#endif
#else
#for i in 0..4
    let ok#{i} = j + #{i}u < span;
    let at#{i} = select(0u, base + j + #{i}u, ok#{i});
#if HALF
    let v#{i} = select(0.0, unpack2x16float(weight[at#{i} / 2u])[at#{i} % 2u], ok#{i});
#else
    let v#{i} = select(0.0, weight[at#{i}], ok#{i});
#endif
#endfor
    return vec4(v0, v1, v2, v3);
#endif
}

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first_pixel = (wid.x + p.base.x) * #{BM}u;
    let first_column = (wid.y + p.base.y) * #{BN}u;
    let row = p.row / #{UNIT}u;
    let span = p.span / #{UNIT}u;
    // Blocks of x first. A round of the threads may be all x, all w, or both.
#for i in 0..ROUNDS
    let item#{i} = lane + #{i * THREADS}u;
    let of_x#{i} = item#{i} < #{QUADS_X}u;
    let quad#{i} = item#{i} % #{BK / 4}u;
    let block#{i} = select(item#{i} - #{QUADS_X}u, item#{i}, of_x#{i}) / #{BK / 4}u;
    let line#{i} = select(#{BN / 4}u, #{BM / 4}u, of_x#{i});
    let slot#{i} = select(#{BK * BM / 4}u, 0u, of_x#{i}) + quad#{i} * 4u * line#{i} + (block#{i} ^ (quad#{i} * 2u));
#for r in 0..4
    var base#{i}_#{r} = min(first_column + block#{i} * 4u + #{r}u, p.columns - 1u) * p.taps * span;
    var left#{i}_#{r} = 0u;
#endfor
    var top#{i}_0 = 0;
    var top#{i}_1 = 0;
    if of_x#{i} {
#for r in 0..4
        let q#{i}_#{r} = patch_of(min(first_pixel + block#{i} * 4u + #{r}u, p.pixels - 1u));
#if PAD
        base#{i}_#{r} = u32((q#{i}_#{r}.start - q#{i}_#{r}.left) / #{UNIT});
        left#{i}_#{r} = u32(q#{i}_#{r}.left / #{UNIT});
        top#{i}_#{r / 2} = insertBits(top#{i}_#{r / 2}, q#{i}_#{r}.top, #{r % 2 * 16}u, 16u);
#else
        base#{i}_#{r} = u32(q#{i}_#{r}.start / #{UNIT});
#endif
#endfor
    }
#endfor
    let tx = lane % #{BN / TN}u;
    let ty = lane / #{BN / TN}u;
#for r in 0..TM
#for s in 0..TN / 4
    var sum#{r}_#{s} = vec4<f32>();
#endfor
#endfor
    for (var ky = 0u; ky < p.taps; ky++) {
#if PAD
#for i in 0..ROUNDS
#if i * THREADS < QUADS_X
#for r in 0..4
        {
            let inside = u32(extractBits(top#{i}_#{r / 2}, #{r % 2 * 16}u, 16u)) + ky < p.height;
            left#{i}_#{r} = u32(extractBits(i32(left#{i}_#{r}), 0u, 30u)) + select(OUTSIDE, 0u, inside);
        }
#endfor
#endif
#endfor
#endif
        for (var k = 0u; k < span; k += #{STEP}u) {
            // The first round loads before the barrier, while others still compute; a second one would hold 16 registers.
#for i in 0..ROUNDS
            let j#{i} = k + quad#{i} * #{4 / UNIT}u;
#for r in 0..4
            var v#{i}_#{r}: vec4<f32>;
#endfor
#if (i + 1) * THREADS <= QUADS_X
            {
#else
            if of_x#{i} {
#endif
#if i * THREADS < QUADS_X
#for r in 0..4
                v#{i}_#{r} = image4(base#{i}_#{r}, left#{i}_#{r}, j#{i}, row, span);
#endfor
#endif
            }
#if (i + 1) * THREADS > QUADS_X
            if !of_x#{i} {
#for r in 0..4
                v#{i}_#{r} = kernel4(base#{i}_#{r}, j#{i}, span);
#endfor
            }
#endif
#if i == 0
            workgroupBarrier();
#endif
#if (i + 1) * THREADS > QUADS_X + QUADS_W
            if item#{i} < #{QUADS_X + QUADS_W}u {
#else
            {
#endif
#for r in 0..4
                sh[slot#{i} + #{r}u * line#{i}] = vec4(v#{i}_0[#{r}], v#{i}_1[#{r}], v#{i}_2[#{r}], v#{i}_3[#{r}]);
#endfor
            }
#endfor
            workgroupBarrier();
            for (var q = 0u; q < #{BK / 4}u; q++) {
                let a = q * #{BM}u + (ty ^ (q * 2u));
                let b = #{BK * BM / 4}u + q * #{BN}u + (tx ^ (q * 2u));
#for kk in 0..4
#for s in 0..TM / 4
                let a#{kk}_#{s} = sh[a + #{kk * BM / 4 + s * (BM / TM)}u];
#endfor
#for s in 0..TN / 4
                let b#{kk}_#{s} = sh[b + #{kk * BN / 4 + s * (BN / TN)}u];
#endfor
#for r in 0..TM
#for s in 0..TN / 4
                sum#{r}_#{s} = fma(vec4<f32>(a#{kk}_#{r / 4}[#{r % 4}]), b#{kk}_#{s}, sum#{r}_#{s});
#endfor
#endfor
#endfor
            }
        }
#for i in 0..ROUNDS
#for r in 0..4
        base#{i}_#{r} += select(span, row, of_x#{i});
#endfor
#endfor
    }
#for r in 0..TM
    let m#{r} = first_pixel + (#{r / 4 * (BM / TM)}u + ty) * 4u + #{r % 4}u;
    if m#{r} < p.pixels {
#for s in 0..TN / 4
        let c#{s} = first_column + (#{s * (BN / TN)}u + tx) * 4u;
        if c#{s} < p.columns {
            store(m#{r}, c#{s}, sum#{r}_#{s});
        }
#endfor
    }
#endfor
}
