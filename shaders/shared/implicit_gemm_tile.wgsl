// The GPU way: tiles of pixels x columns (shared/tile.wgsl), along a kernel row in steps of STEP.
//
// TAPS x KW kernels of stride STRIDE, with PAD pixels of padding: constants, a pipeline for each such kernel.
//
// What does not change along a kernel row is worked out before it: `start` is where a patch starts, `left` how far from the
// start of a row of the image (negative in the padding), plus OUTSIDE for a row above or below the image. What is left of
// a load is two additions, a comparison and selects; without padding, an addition.
// TAIL: a kernel row is no multiple of STEP. Pixels and columns beyond the end repeat the last one; they are never stored.
// Everything counts in UNITs: vec4s with VEC 4.
//
// RADV, navi21, 3 x 3 with padding, f32: 64 x 64 0.841 of multiply-adds in a step with its loads, 64 registers, 16 waves;
// 128 x 64 0.837 of the same, which on gfx1100 has 20 waves to 16: less workgroup memory a thread. 128 x 128 0.914 in a loop
// of 128 multiply-adds, 96 registers, 10 waves, 747 instructions; each of these saves a register of the few: `left` and OUTSIDE
// in one, two rows `top` in one, the bias added at the end, columns two by two, and the lane's quad read off `to_x`. With 104
// it has 8 waves.
// Tried: 128 x 128 with a loop of 256: 0.928, but 897 instructions.
#define DEPTH (4 - 2 * (TILE_N > 16))
#define LINES (1 + (TN == 4 && DEPTH == 2))
#import tile
#define UNIT VEC
// Loads are guarded: against the sides of the image, and one by one with VEC 1.
#define EDGE (PAD || VEC == 1)
#define GUARD (EDGE || TAIL)
const OUTSIDE: u32 = 0x40000000u;

// Four elements of the image: a patch starts at `start`, its row `line` further, and k is along it. A lane has `room` to load.
fn image4(start: u32, left: u32, line: u32, k: u32, row: u32, room: i32) -> vec4<f32> {
#if !GUARD
    return x[start + (line + k)];
#elif VEC == 4
#if !TAIL
    let ok = left + k < row;
#elif EDGE
    let ok = (left + k < row) & (room > 0);
#else
    let ok = room > 0;
#endif
    return select(vec4<f32>(), x[select(0u, start + (line + k), ok)], ok);
#else
#for i in 0..4
    let ok#{i} = (left + k + #{i}u < row) & (room > #{i});
    let v#{i} = select(0.0, x[select(0u, start + (line + k) + #{i}u, ok#{i})], ok#{i});
#endfor
    return vec4(v0, v1, v2, v3);
#endif
}

// Four weights of a kernel row, in the same way.
fn kernel4(start: u32, line: u32, k: u32, room: i32) -> vec4<f32> {
#if VEC == 4
#if TAIL
    // Beyond the row it meets zeros of x.
    let w = weight[select(0u, start + (line + k), room > 0)];
#else
    let w = weight[start + (line + k)];
#endif
#if HALF
    return vec4(unpack2x16float(w.x), unpack2x16float(w.y));
#else
    return w;
#endif
#else
#for i in 0..4
    let ok#{i} = room > #{i};
    let at#{i} = select(0u, start + (line + k) + #{i}u, ok#{i});
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
    let first_pixel = (wid.x + p.base.x) * #{TILE_M}u;
    let first_column = (wid.y + p.base.y) * #{TILE_N}u;
#import tile_lane
    let row = p.row / #{UNIT}u;
    let span = p.channels / #{UNIT}u * #{KW}u;
    let ahead = quad * #{4 / UNIT}u;
#for n in 0..(LOADS_X * HEIGHT + 1) / 2
    var top_#{n} = 0;
#endfor
#for i in 0..LOADS_X
#for h in 0..HEIGHT
    let patch_#{i}_#{h} = patch_of(min(first_pixel + x_first + #{i * NEXT_X + h}u, p.pixels - 1u));
    let start_#{i}_#{h} = u32(patch_#{i}_#{h}.start / #{UNIT}) + ahead;
    var left_#{i}_#{h} = u32(patch_#{i}_#{h}.left / #{UNIT}) + ahead;
#if EDGE
    top_#{(i * HEIGHT + h) / 2} = insertBits(top_#{(i * HEIGHT + h) / 2}, patch_#{i}_#{h}.top, #{(i * HEIGHT + h) % 2 * 16}u, 16u);
#endif
#endfor
#endfor
#for i in 0..LOADS_W
#if VEC_OUT
    // Columns come by fours, and what lies HEIGHT side by side is loaded by one lane: the next is a kernel further.
    let w_start_#{i}_0 = min(first_column + w_first + #{i * NEXT_W}u, p.columns - #{HEIGHT}u) * #{TAPS}u * span + ahead;
#else
#for h in 0..HEIGHT
    let w_start_#{i}_#{h} = min(first_column + w_first + #{i * NEXT_W + h}u, p.columns - 1u) * #{TAPS}u * span + ahead;
#endfor
#endif
#endfor
#for c in 0..TN / 4
#for r in 0..TM
    var acc_#{r}_#{c} = vec4<f32>();
#endfor
#endfor
    for (var ky = 0u; ky < #{TAPS}u; ky++) {
#if EDGE
#for i in 0..LOADS_X
#for h in 0..HEIGHT
        {
            let inside = u32(extractBits(top_#{(i * HEIGHT + h) / 2}, #{(i * HEIGHT + h) % 2 * 16}u, 16u)) + ky < p.height;
            left_#{i}_#{h} = u32(extractBits(i32(left_#{i}_#{h}), 0u, 30u)) + select(OUTSIDE, 0u, inside);
        }
#endfor
#endfor
#endif
        for (var k = 0u; k < span; k += #{STEP / UNIT}u) {
            let room = i32(span - k) - i32(to_x / #{TILE_M}u * #{4 / UNIT}u);
#for h in 0..HEIGHT
#for i in 0..LOADS_W
#if VEC_OUT
            let w_#{i}_#{h} = kernel4(w_start_#{i}_0, (ky + #{h * TAPS}u) * span, k, room);
#else
            let w_#{i}_#{h} = kernel4(w_start_#{i}_#{h}, ky * span, k, room);
#endif
#endfor
#for i in 0..LOADS_X
            let x_#{i}_#{h} = image4(start_#{i}_#{h}, left_#{i}_#{h}, ky * row, k, row, room);
#endfor
#endfor
#import tile_step
        }
    }
#for c in 0..TN / 4
    let col_#{c} = first_column + (tx + #{c * (TILE_N / TN)}u) * 4u;
    let bias_#{c} = bias_of(col_#{c});
#endfor
#for r in 0..TM
    let m_#{r} = first_pixel + (ty + #{r / 4 * FAR}u) * 4u + #{r % 4}u;
    if m_#{r} < p.pixels {
#for c in 0..TN / 4
        if col_#{c} < p.columns {
            store(m_#{r}, col_#{c}, acc_#{r}_#{c} + bias_#{c});
        }
#endfor
    }
#endfor
}
