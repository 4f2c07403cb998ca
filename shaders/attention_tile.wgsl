// The GPU way: two register-blocked matrix products a tile of BQ queries and BK keys.
//
// Thread (rg, cg) of RG x CG owns ROWS queries r * RG + rg, in both products: the scores of KEYS keys c * CG + cg, and
// the vec4s n * CG + cg of the result (V4 wide, D4 as a rule). So the running maximum and sum of a query live in registers of its CG threads.
// Scores go by chunks of CH vec4s of the width (q and k in `sh`), values by chunks of VK keys (their weights and v in
// `sh`): small ones, so that registers and not workgroup memory say how many workgroups run at a time. Until its chunk a
// weight stays in the thread's registers. ST is odd and weights are stored at a column xor row: eight neighbouring threads
// read eight different banks of four. A vec4 of weights is one thread's: 4 keys of a query, or 2 of each of two (WGSL has
// no race-free store of a half). They are neighbours (column cg * KEYS + c), so v is stored in that order of keys, too.
// LEAN: where the results alone take 64 registers, addresses are computed again for every chunk, to stay within 128.
// Inner loops are unrolled as text: drivers do not always unroll naga's loops.
// Tried (RADV, static): all weights of a tile in memory and chunks of up to 9 vec4s, 16 KiB: 64 queries of 128 wide take 128
// registers, not 120, and on RDNA 3 have 8 waves, not 12; scale folded into q, 16 multiplications a chunk instead of a tile; addresses in the chunk's loop,
// 70 % of it multiply-adds instead of 77 %; the chunk's loop left to the driver, which unrolls it: 168 registers at 128
// wide; 2 x 4 blocks for heads of 256, 68 % instead of 75 % and twice the workgroup memory read for a multiply-add.
// The tiles of 16 queries have 2 x 2 blocks: with 2 x 4, 128 wide 75 % instead of 70 % for the scores, but 6 waves, not 8.
#if TILE
#define THREADS RG * CG
#define BQ RG * ROWS
#define BK CG * KEYS
#define ST CH / 2 * 2 + 1
#define V4 D4
#define NV (V4 + CG - 1) / CG
#define VST NV * CG
#define RED SHARED - THREADS
// Threads whose weights make a chunk.
#define NEAR VK / KEYS
#define VS BQ * VK / 4
#define QN (BQ * CH + THREADS - 1) / THREADS
#define KN (BK * CH + THREADS - 1) / THREADS
#define VN (VK * VST + THREADS - 1) / THREADS
#define LEAN NV * ROWS > 12

var<workgroup> sh: array<vec4<f32>, #{SHARED}>;

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let id = wid + p.base.xyz;
    let at = place(id);
    let rg = tid / #{CG}u;
    let cg = tid % #{CG}u;
    let block = id.x * #{BQ}u;
    let turn = rg & #{NEAR - 1}u;
#for n in 0..QN
    let qe_#{n} = tid + #{n * THREADS}u;
#if !LEAN
    let qr_#{n} = query_row(at, query_token(at, block + qe_#{n} / #{CH}u));
#endif
#endfor
#for n in 0..KN
    let ke_#{n} = tid + #{n * THREADS}u;
#endfor
#for r in 0..ROWS
    var m_#{r} = NEVER;
    var l_#{r} = 0.0;
#for n in 0..NV
    var o_#{r}_#{n} = vec4(0.0);
#endfor
#endfor

    for (var t0 = at.first; t0 < at.end; t0 += #{BK}u) {
#for r in 0..ROWS
#for c in 0..KEYS
        var s_#{r}_#{c} = 0.0;
#endfor
#endfor
#for n in 0..KN
        let kr_#{n} = row_of_key(at, key_token(at, t0 + ke_#{n} / #{CH}u), p.k);
#endfor
        // Kept rolled: four chunks in a row cost 40 registers, for loads issued far ahead.
        for (var c0 = 0u; c0 < p.width; c0 += #{CH}u) {
            // Loads before the barrier: they overlap with what the others still compute.
#for n in 0..QN
#if LEAN
            let qr_#{n} = query_row(at, query_token(at, block + qe_#{n} / #{CH}u));
#endif
            let q_#{n} = floats(q[qr_#{n} + min(c0 + qe_#{n} % #{CH}u, #{D4 - 1}u)]);
#endfor
#for n in 0..KN
            let ki_#{n} = c0 + ke_#{n} % #{CH}u;
#if D4 % CH
            // A width beyond the end adds nothing.
            let k_#{n} = select(vec4(0.0), load_k(at, kr_#{n}, min(ki_#{n}, #{D4 - 1}u)), ki_#{n} < #{D4}u);
#else
            let k_#{n} = load_k(at, kr_#{n}, ki_#{n});
#endif
#endfor
            workgroupBarrier();
#for n in 0..QN
#if (n + 1) * THREADS > BQ * CH
            if qe_#{n} < #{BQ * CH}u {
                sh[qe_#{n} / #{CH}u * #{ST}u + qe_#{n} % #{CH}u] = q_#{n};
            }
#else
            sh[qe_#{n} / #{CH}u * #{ST}u + qe_#{n} % #{CH}u] = q_#{n};
#endif
#endfor
#for n in 0..KN
#if (n + 1) * THREADS > BK * CH
            if ke_#{n} < #{BK * CH}u {
                sh[#{BQ * ST}u + ke_#{n} / #{CH}u * #{ST}u + ke_#{n} % #{CH}u] = k_#{n};
            }
#else
            sh[#{BQ * ST}u + ke_#{n} / #{CH}u * #{ST}u + ke_#{n} % #{CH}u] = k_#{n};
#endif
#endfor
            workgroupBarrier();
#for u in 0..CH
#for r in 0..ROWS
            let a_#{u}_#{r} = sh[rg * #{ST}u + #{r * RG * ST + u}u];
#endfor
#for c in 0..KEYS
            let b_#{u}_#{c} = sh[cg * #{ST}u + #{(BQ + c * CG) * ST + u}u];
#for r in 0..ROWS
            s_#{r}_#{c} = fma(a_#{u}_#{r}.x, b_#{u}_#{c}.x, s_#{r}_#{c});
            s_#{r}_#{c} = fma(a_#{u}_#{r}.y, b_#{u}_#{c}.y, s_#{r}_#{c});
            s_#{r}_#{c} = fma(a_#{u}_#{r}.z, b_#{u}_#{c}.z, s_#{r}_#{c});
            s_#{r}_#{c} = fma(a_#{u}_#{r}.w, b_#{u}_#{c}.w, s_#{r}_#{c});
#endfor
#endfor
#endfor
        }

        // The maximum of each query over its CG threads.
        var top = vec4(NEVER);
#for c in 0..KEYS
        let real_#{c} = t0 + cg + #{c * CG}u < at.end;
#for r in 0..ROWS
#if CAUSAL || BIAS
        s_#{r}_#{c} = masked_score(at, s_#{r}_#{c}, block + rg + #{r * RG}u, t0 + cg + #{c * CG}u);
#else
        s_#{r}_#{c} = select(NEVER, s_#{r}_#{c} * p.scale, real_#{c});
#endif
        top[#{r}] = max(top[#{r}], s_#{r}_#{c});
#endfor
#endfor
        // Where there is room, apart from what the slower ones still read.
#if RED < (BQ + BK) * ST
        workgroupBarrier();
#endif
        sh[#{RED}u + tid] = top;
        workgroupBarrier();
        for (var c = 0u; c < #{CG}u; c++) {
            top = max(top, sh[#{RED}u + rg * #{CG}u + c]);
        }

#for r in 0..ROWS
        let new_#{r} = max(m_#{r}, top[#{r}]);
        let shrink_#{r} = weight(m_#{r} - new_#{r});
        m_#{r} = new_#{r};
        l_#{r} *= shrink_#{r};
#for n in 0..NV
        o_#{r}_#{n} *= shrink_#{r};
#endfor
#for c in 0..KEYS
        let w_#{r}_#{c} = weight(s_#{r}_#{c} - new_#{r});
        l_#{r} += w_#{r}_#{c};
#endfor
#endfor

        for (var v0 = 0u; v0 < #{BK}u; v0 += #{VK}u) {
#for n in 0..VN
            let ve_#{n} = tid + #{n * THREADS}u;
#if VST == V4
            let vi_#{n} = ve_#{n} % #{VST}u;
#else
            let vi_#{n} = min(ve_#{n} % #{VST}u, #{V4 - 1}u);
#endif
            let vj_#{n} = v0 + ve_#{n} / #{VST}u;
            let vt_#{n} = t0 + vj_#{n} % #{KEYS}u * #{CG}u + vj_#{n} / #{KEYS}u;
            let v_#{n} = load_v(at, row_of_key(at, key_token(at, vt_#{n}), p.v), vi_#{n});
#endfor
            workgroupBarrier();
            if cg / #{NEAR}u == v0 / #{VK}u {
                let at_w = rg * #{NEAR}u + ((cg % #{NEAR}u) ^ turn);
#for r in 0..ROWS
#if KEYS == 4
                sh[at_w + #{r * RG * NEAR}u] = vec4(w_#{r}_0, w_#{r}_1, w_#{r}_2, w_#{r}_3);
#elif r % 2
                sh[at_w + #{r / 2 * RG * NEAR}u] = vec4(w_#{r - 1}_0, w_#{r - 1}_1, w_#{r}_0, w_#{r}_1);
#endif
#endfor
            }
#for n in 0..VN
#if (n + 1) * THREADS > VK * VST
            if ve_#{n} < #{VK * VST}u {
                sh[#{VS}u + ve_#{n}] = v_#{n};
            }
#else
            sh[#{VS}u + ve_#{n}] = v_#{n};
#endif
#endfor
            workgroupBarrier();
#for u in 0..VK / 4
#if KEYS == 4
#for r in 0..ROWS
            let p_#{u}_#{r} = sh[rg * #{NEAR}u + (#{u}u ^ turn) + #{r * RG * NEAR}u];
#endfor
#else
#for h in 0..2
#for r in 0..ROWS / 2
            let e_#{u}_#{r}_#{h} = sh[rg * #{NEAR}u + (#{u * 2 + h}u ^ turn) + #{r * RG * NEAR}u];
#endfor
#endfor
#for r in 0..ROWS / 2
            let p_#{u}_#{2 * r} = vec4(e_#{u}_#{r}_0.xy, e_#{u}_#{r}_1.xy);
            let p_#{u}_#{2 * r + 1} = vec4(e_#{u}_#{r}_0.zw, e_#{u}_#{r}_1.zw);
#endfor
#endif
#for n in 0..NV
#for c in 0..4
            let x_#{u}_#{n}_#{c} = sh[cg + #{VS + (u * 4 + c) * VST + n * CG}u];
#for r in 0..ROWS
            o_#{r}_#{n} = fma(vec4(p_#{u}_#{r}[#{c}]), x_#{u}_#{n}_#{c}, o_#{r}_#{n});
#endfor
#endfor
#endfor
#endfor
        }
        // The next tile's first barrier keeps its stores behind these reads.
    }

    workgroupBarrier();
    var sums = vec4(0.0);
#for r in 0..ROWS
    sums[#{r}] = l_#{r};
#endfor
    sh[#{RED}u + tid] = sums;
    workgroupBarrier();
    sums = vec4(0.0);
    for (var c = 0u; c < #{CG}u; c++) {
        sums += sh[#{RED}u + rg * #{CG}u + c];
    }
#for r in 0..ROWS
    let token_#{r} = query_token(at, block + rg + #{r * RG}u);
    if token_#{r} != NOWHERE {
        let start = result_row(at, token_#{r});
#if SPLIT
        if cg == 0u {
            y[start + #{V4}u] = vec4(m_#{r}, sums[#{r}], 0.0, 0.0);
        }
        let share = 1.0;
#else
        let share = 1.0 / sums[#{r}];
#endif
#for n in 0..NV
        if cg + #{n * CG}u < #{V4}u {
            y[start + cg + #{n * CG}u] = o_#{r}_#{n} * share;
        }
#endfor
    }
#endfor
}
#endif
