// A workgroup computes TILE x TILE outputs, a thread TM x TN of them, over k in steps of 16.
//
// TILE * 2 threads: each stages one 4 x 4 block a step, the first half of x, the second of w. The block is
// transposed in registers and stored as four vec4, so that the inner loop reads vec4 along rows and columns.
// (Storing single components of a vec4 would race: WGSL lets such a store write the whole vector.)
// A step is 2 * 16 * TILE * 4 bytes: 16 KiB for TILE 128, which is all that WebGPU guarantees. Hence no padding:
// vec4 column c of line k is kept at c ^ (k / 4 * 2). The four lanes that share rows then store to distinct
// banks, and the reads, which are of one k at a time, stay a permutation of neighbours.
//
// RADV, navi21, TILE 64, f32, a step of 16 with its staging: 512 FMA, 35 other vector instructions (16 of them transpose,
// 14 swizzle), 52 of workgroup memory. With addresses from load_x and load_w it was 53: (row + k) >> 2 cost three a load.
// Rows of k, not transposed, would be read as often and need no moves, but hold four k of every operand in registers: 24
// more, where TILE 64 has 64 for its 16 waves.
// Tried: all 16 k unrolled as text, swizzled columns worked out before the loop: TILE 64 0.861 of multiply-adds, not 0.843,
// but 72 registers and 14 waves with a tail of k; one operand's columns only, 0.856 at 64, for four times the text; TILE 128
// 0.906 with its staging, but 104 registers and 8 waves, not 96 and 10.
#define GROUPS (TILE / 4)

var<workgroup> staged: array<vec4<f32>, #{2 * 16 * TILE / 4}>;

@compute @workgroup_size(#{TILE * 2})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tile_of(wid + p.base.xyz) * #{TILE}u;
    let batch = wid.z + p.base.z;

    let of_w = lane >= #{TILE}u;
    let block = (lane % #{TILE}u) >> 2u;
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
#if VEC_K
    // From here on in vec4s, and of this lane's quad: an address is one addition.
#for i in 0..4
    start_#{i} = (start_#{i} >> 2u) + quad;
#endfor
#endif
    let slot = select(0u, #{16 * GROUPS}u, of_w) + quad * #{4 * GROUPS}u + (block ^ (quad * 2u));

    let tx = lane % #{TILE / TN}u;
    let ty = lane / #{TILE / TN}u;
#for c in 0..TN / 4
    let col_#{c} = tile.y + (tx + #{c * (TILE / TN)}u) * 4u;
    let bias_#{c} = load_bias(batch, col_#{c});
#for r in 0..TM
    var acc_#{r}_#{c} = bias_#{c};
#endfor
#endfor

    for (var k = 0u; k < p.k; k += 16u) {
#for i in 0..4
        var v_#{i} = vec4<f32>();
#endfor
#if VEC_K
        let k4 = k >> 2u;
#if TAIL
        if k + quad * 4u < p.k {
#else
        {
#endif
            if of_w {
#for i in 0..4
                v_#{i} = weight4(start_#{i} + k4);
#endfor
            } else {
#for i in 0..4
                v_#{i} = x[start_#{i} + k4];
#endfor
            }
        }
#else
        if of_w {
#for i in 0..4
            v_#{i} = load_w(start_#{i}, k + quad * 4u);
#endfor
        } else {
#for i in 0..4
            v_#{i} = load_x(start_#{i}, k + quad * 4u);
#endfor
        }
#endif
        workgroupBarrier();
#for i in 0..4
        staged[slot + #{i * GROUPS}u] = vec4<f32>(v_0[#{i}], v_1[#{i}], v_2[#{i}], v_3[#{i}]);
#endfor
        workgroupBarrier();
        // Unrolled by four: enough to hide the loop, and short enough for the instruction cache.
        for (var q = 0u; q < 4u; q += 1u) {
            let a = (ty ^ (q * 2u)) + q * #{4 * GROUPS}u;
            let b = (tx ^ (q * 2u)) + q * #{4 * GROUPS}u + #{16 * GROUPS}u;
#for kk in 0..4
#for r in 0..TM / 4
            let a_#{kk}_#{r} = staged[a + #{kk * GROUPS + r * (TILE / TM)}u];
#endfor
#for c in 0..TN / 4
            let b_#{kk}_#{c} = staged[b + #{kk * GROUPS + c * (TILE / TN)}u];
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
    let row_#{r} = tile.x + (ty + #{r / 4 * (TILE / TM)}u) * 4u + #{r % 4}u;
    if row_#{r} < p.m {
#for c in 0..TN / 4
        if col_#{c} < p.n {
            store4(batch, row_#{r}, col_#{c}, acc_#{r}_#{c});
        }
#endfor
    }
#endfor
}
