// A workgroup computes TILE_M x TILE_N outputs, a thread TM x TN of them, over k in steps of 16. As matmul_tile, with
// tiles that need not be square, and with workgroup memory of f16 if F16: half the memory and half its traffic, sums
// in f32 all the same. Operands beyond f16 are clamped to its largest value: the rule chooses F16 only for calls that
// vouch for x (`Precision::Half`), and stored weights fit.
//
// A thread stages at most one 4 x 4 block a step: the first TILE_M threads of x, the next TILE_N of w. The block is
// transposed in registers, so that the inner loop reads vec4 along rows and columns. vec4 column c of line k is
// kept at c ^ (k / 4 * SPREAD), so that the stores of neighbouring threads hit distinct banks: 8 columns of 16 bytes
// or 16 of 8 bytes fill the 32 banks.
#define F16 0
#define THREADS (TILE_M * TILE_N / (TM * TN))
#define SPREAD (2 + 2 * F16)
#define LINE_X (TILE_M / 4)
#define LINE_W (TILE_N / 4)
// Where w starts.
#define OF_W (16 * LINE_X)

alias Four = vec4<f#{32 - 16 * F16}>;
var<workgroup> staged: array<Four, #{16 * (LINE_X + LINE_W)}>;

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tile_of(wid + p.base.xyz) * vec2<u32>(#{TILE_M}u, #{TILE_N}u);
    let batch = wid.z + p.base.z;

    let of_w = lane >= #{TILE_M}u;
    let block = select(lane, lane - #{TILE_M}u, of_w) >> 2u;
    let quad = lane & 3u;
    // Rows and columns beyond the edge repeat the last one; they are never stored.
#for i in 0..4
    var start_#{i} = p.x_offset + batch * p.x_batch + min(tile.x + block * 4u + #{i}u, p.m - 1u) * p.x_row;
#endfor
    if of_w {
#for i in 0..4
        start_#{i} = p.w_offset + batch * p.w_batch + min(tile.y + block * 4u + #{i}u, p.n - 1u) * p.w_row;
#endfor
    }
    let line = select(#{LINE_X}u, #{LINE_W}u, of_w);
    let slot = select(0u, #{OF_W}u, of_w) + quad * 4u * line + (block ^ (quad * #{SPREAD}u));

    let tx = lane % #{TILE_N / TN}u;
    let ty = lane / #{TILE_N / TN}u;
#for c in 0..TN / 4
    let col_#{c} = tile.y + (tx + #{c * (TILE_N / TN)}u) * 4u;
    let bias_#{c} = load_bias(batch, col_#{c});
#for r in 0..TM
    var acc_#{r}_#{c} = bias_#{c};
#endfor
#endfor

    for (var k = 0u; k < p.k; k += 16u) {
#for i in 0..4
        var v_#{i}: vec4<f32>;
#endfor
        if !of_w {
#for i in 0..4
            v_#{i} = load_x(start_#{i}, k + quad * 4u);
#endfor
        } else if lane < #{TILE_M + TILE_N}u {
#for i in 0..4
            v_#{i} = load_w(start_#{i}, k + quad * 4u);
#endfor
        }
#if F16
#for i in 0..4
        v_#{i} = clamp(v_#{i}, vec4<f32>(-65504.0), vec4<f32>(65504.0));
#endfor
#endif
        workgroupBarrier();
#if THREADS > TILE_M + TILE_N
        if lane < #{TILE_M + TILE_N}u {
#else
        {
#endif
#for i in 0..4
            staged[slot + #{i}u * line] = Four(vec4<f32>(v_0[#{i}], v_1[#{i}], v_2[#{i}], v_3[#{i}]));
#endfor
        }
        workgroupBarrier();
        // Unrolled by four: enough to hide the loop, and short enough for the instruction cache.
        for (var q = 0u; q < 4u; q += 1u) {
#for r in 0..TM / 4
            let at_a_#{r} = q * #{4 * LINE_X}u + ((ty + #{r * (TILE_M / TM)}u) ^ (q * #{SPREAD}u));
#endfor
#for c in 0..TN / 4
            let at_b_#{c} = q * #{4 * LINE_W}u + ((tx + #{c * (TILE_N / TN)}u) ^ (q * #{SPREAD}u)) + #{OF_W}u;
#endfor
#for kk in 0..4
#for r in 0..TM / 4
            let a_#{kk}_#{r} = vec4<f32>(staged[at_a_#{r} + #{kk * LINE_X}u]);
#endfor
#for c in 0..TN / 4
            let b_#{kk}_#{c} = vec4<f32>(staged[at_b_#{c} + #{kk * LINE_W}u]);
#endfor
#for r in 0..TM
#for c in 0..TN / 4
            acc_#{r}_#{c} = fma(vec4<f32>(a_#{kk}_#{r / 4}[#{r % 4}]), b_#{kk}_#{c}, acc_#{r}_#{c});
#endfor
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
