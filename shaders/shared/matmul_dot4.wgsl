// Both operands in 8 bits: x as `quantize_rows` packs it, w q8, or q4 widened to bytes at the load. A workgroup
// computes TILE_M x TILE_N outputs, a thread TM x TN of them, over k in steps of 64, which are two blocks of 32. The
// sum of a block is exact in i32; times both scales it is added in f32.
//
// Words of four quants take the place that matmul_tile has for numbers. A thread stages 4 rows x 4 words, transposed in
// registers, the first TILE_M threads of x, the next TILE_N of w; vec4 column c of line k is kept at c ^ (k / 4 * 2). TILE_M + TILE_N threads; each also stages the two scales of one row.
#define THREADS (TILE_M * TILE_N / (TM * TN))
#define LINE_X (TILE_M / 4)
#define LINE_W (TILE_N / 4)
#define OF_W (16 * LINE_X)

var<workgroup> staged: array<vec4<u32>, #{16 * (LINE_X + LINE_W)}>;
// Of the first block of a step by row, x then w; of the second.
var<workgroup> scales: array<f32, #{2 * THREADS}>;

fn x_scale(block: u32) -> f32 {
    let pair = unpack2x16float(x[p.x_scales + (block >> 1u)]);
    return select(pair.x, pair.y, (block & 1u) != 0u);
}

fn w_scale(block: u32) -> f32 {
    let pair = unpack2x16float(w[p.scales + (block >> 1u)]);
    return select(pair.x, pair.y, (block & 1u) != 0u);
}

// Elements i .. i+15, i a multiple of 16.
fn x_quants(i: u32) -> vec4<u32> {
    let at = i >> 2u;
    return vec4<u32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
}

fn w_quants(i: u32) -> vec4<u32> {
#if W == 2
    let at = i >> 2u;
    return vec4<u32>(w[at], w[at + 1u], w[at + 2u], w[at + 3u]);
#else
    let at = i >> 3u;
    let v = vec4<u32>(w[at], w[at] >> 4u, w[at + 1u], w[at + 1u] >> 4u) & vec4<u32>(0x0f0f0f0fu);
    // Less 8 in each byte: the top bit keeps a borrow inside.
    return ((v | vec4<u32>(0x80808080u)) - vec4<u32>(0x08080808u)) ^ vec4<u32>(0x80808080u);
#endif
}

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tile_of(wid + p.base.xyz) * vec2<u32>(#{TILE_M}u, #{TILE_N}u);
    let batch = wid.z + p.base.z;

    let of_w = lane >= #{TILE_M}u;
    let mine = select(lane, lane - #{TILE_M}u, of_w);
    let block = mine >> 2u;
    let quad = lane & 3u;
    // Rows and columns beyond the edge repeat the last one; they are never stored.
#for i in 0..4
    var start_#{i} = p.x_offset + batch * p.x_batch + min(tile.x + block * 4u + #{i}u, p.m - 1u) * p.x_row;
#endfor
    var scaled = p.x_offset + batch * p.x_batch + min(tile.x + mine, p.m - 1u) * p.x_row;
    if of_w {
#for i in 0..4
        start_#{i} = p.w_offset + batch * p.w_batch + min(tile.y + block * 4u + #{i}u, p.n - 1u) * p.w_row;
#endfor
        scaled = p.w_offset + batch * p.w_batch + min(tile.y + mine, p.n - 1u) * p.w_row;
    }
    let line = select(#{LINE_X}u, #{LINE_W}u, of_w);
    let slot = select(0u, #{OF_W}u, of_w) + quad * 4u * line + (block ^ (quad * 2u));

    let tx = lane % #{TILE_N / TN}u;
    let ty = lane / #{TILE_N / TN}u;
#for c in 0..TN / 4
    let col_#{c} = tile.y + (tx + #{c * (TILE_N / TN)}u) * 4u;
    let bias_#{c} = load_bias(batch, col_#{c});
#for r in 0..TM
    var acc_#{r}_#{c} = bias_#{c};
#endfor
#endfor

    for (var k = 0u; k < p.k; k += 64u) {
#for i in 0..4
        var v_#{i}: vec4<u32>;
#endfor
        var scale: vec2<f32>;
        let at = k + quad * 16u;
        if of_w {
#if TAIL
            if at < p.k {
#else
            {
#endif
#for i in 0..4
                v_#{i} = w_quants(start_#{i} + at);
#endfor
            }
            scale.x = w_scale((scaled + k) >> 5u);
            scale.y = w_scale((scaled + min(k + 32u, p.k - 32u)) >> 5u);
        } else {
#if TAIL
            if at < p.k {
#else
            {
#endif
#for i in 0..4
                v_#{i} = x_quants(start_#{i} + at);
#endfor
            }
            scale.x = x_scale((scaled + k) >> 5u);
            scale.y = x_scale((scaled + min(k + 32u, p.k - 32u)) >> 5u);
        }
        workgroupBarrier();
#for i in 0..4
        staged[slot + #{i}u * line] = vec4<u32>(v_0[#{i}], v_1[#{i}], v_2[#{i}], v_3[#{i}]);
#endfor
        scales[lane] = scale.x;
        scales[lane + #{THREADS}u] = scale.y;
        workgroupBarrier();
        for (var b = 0u; b < 2u; b += 1u) {
#for c in 0..TN / 4
#for r in 0..TM
            var sum_#{r}_#{c} = vec4<i32>();
#endfor
#endfor
            for (var q = b * 2u; q < b * 2u + 2u; q += 1u) {
#for r in 0..TM / 4
                let at_a_#{r} = q * #{4 * LINE_X}u + ((ty + #{r * (TILE_M / TM)}u) ^ (q * 2u));
#endfor
#for c in 0..TN / 4
                let at_b_#{c} = q * #{4 * LINE_W}u + ((tx + #{c * (TILE_N / TN)}u) ^ (q * 2u)) + #{OF_W}u;
#endfor
#for kk in 0..4
#for r in 0..TM / 4
                let a_#{kk}_#{r} = staged[at_a_#{r} + #{kk * LINE_X}u];
#endfor
#for c in 0..TN / 4
                let b_#{kk}_#{c} = staged[at_b_#{c} + #{kk * LINE_W}u];
#endfor
#for c in 0..TN / 4
#for r in 0..TM
                sum_#{r}_#{c} += dots(a_#{kk}_#{r / 4}[#{r % 4}], b_#{kk}_#{c});
#endfor
#endfor
#endfor
            }
            let first = b * #{THREADS}u;
#for c in 0..TN / 4
            let w_at_#{c} = first + #{TILE_M}u + (tx + #{c * (TILE_N / TN)}u) * 4u;
            let w_scale_#{c} = vec4<f32>(scales[w_at_#{c}], scales[w_at_#{c} + 1u], scales[w_at_#{c} + 2u], scales[w_at_#{c} + 3u]);
#for r in 0..TM
            acc_#{r}_#{c} = fma(vec4<f32>(sum_#{r}_#{c}), scales[first + (ty + #{r / 4 * (TILE_M / TM)}u) * 4u + #{r % 4}u] * w_scale_#{c}, acc_#{r}_#{c});
#endfor
#endfor
        }
    }

#for r in 0..TM
    let row_#{r} = tile.x + (ty + #{r / 4 * (TILE_M / TM)}u) * 4u + #{r % 4}u;
    if row_#{r} < p.m {
#for c in 0..TN / 4
        if col_#{c} < p.n {
            store4(batch, row_#{r}, col_#{c}, acc_#{r}_#{c});
        }
#endfor
    }
#endfor
}

fn dots(a: u32, b: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(dot4I8Packed(a, b.x), dot4I8Packed(a, b.y), dot4I8Packed(a, b.z), dot4I8Packed(a, b.w));
}
