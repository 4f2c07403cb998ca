// The way without barriers: an invocation owns BLOCKS queries; STEP keys at a time, their scores in registers.
//
// On a CPU a load is a loop over the lanes and costs as much as a hundred multiply-adds, whatever its width up to vec4:
// what counts is multiply-adds a load. With LANES (the subgroup size, and the workgroup's), each lane loads KEYS other
// keys and broadcasts hand them round: BLOCKS + KEYS loads serve LANES * BLOCKS * KEYS * 4 multiply-adds of a lane.
// Without, every invocation loads every key itself.
//
// The sums of weighted v wait in y from one step to the next: in registers, the width would be unrolled, and every load
// of the text costs lavapipe 20 ms of compilation. One text serves every width.
// Tried, lavapipe, 1024 x 1024 x 96, GFLOP/s a core, BLOCKS x KEYS: 4 x 4 12.1 (the choice), 4 x 8 13.4 (but 2.4 s to
// compile, not 0.9), 8 x 4 8.6, 8 x 2 8.6, 4 x 2 8.1, 2 x 4 6.7, 1 x 4 7 to 8; sums in registers, 2 x 1: 9.3, and 4 s.
// SwiftShader, 256 x 256 x 96: LANES 4, 4 x 4 1.9, 4 x 8 1.5, 2 x 4 0.9; without, 4 x 4 1.1, 2 x 8 0.7, 1 x 8 0.3.
// Parameters read once at the top, as matmul_lanes does: the same.
// a * b + c in the place of fma is a third slower on SwiftShader, the same on lavapipe.
#if LANE
#if LANES
#define GROUP LANES
#define STEP LANES * KEYS
#else
#define STEP KEYS
#endif

@compute @workgroup_size(#{GROUP})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = wid + p.base.xyz;
    let at = place(id);
    let block = id.x * #{GROUP * BLOCKS}u + lane;
#if WINDOW
    if id.x * #{GROUP * BLOCKS}u >= at.query_part.x * at.query_part.y {
        return;
    }
#endif
#for b in 0..BLOCKS
    let token_#{b} = query_token(at, block + #{b * GROUP}u);
    let from_#{b} = query_row(at, token_#{b});
    let row_#{b} = result_row(at, token_#{b});
    var m_#{b} = NEVER;
    var l_#{b} = 0.0;
#endfor
#if PAD
    // The padded keys of a window: one key that counts as often as there are.
    let padded = p.keys - at.end;
    if padded > 0u {
#for b in 0..BLOCKS
        m_#{b} = 0.0;
        l_#{b} = f32(padded);
#endfor
        for (var i = 0u; i < p.width; i++) {
            let pad_k = floats(pad[p.k.x + at.head * p.k.w + i]);
            let pad_v = floats(pad[p.v.x + at.head * p.v.w + i]) * f32(padded);
#for b in 0..BLOCKS
            m_#{b} += dot(floats(q[from_#{b} + i]), pad_k);
            if token_#{b} != NOWHERE {
                y[row_#{b} + i] = pad_v;
            }
#endfor
        }
#for b in 0..BLOCKS
        m_#{b} *= p.scale;
#endfor
    }
#endif

    for (var t0 = at.first; t0 < at.end; t0 += #{STEP}u) {
#for c in 0..KEYS
#if LANES
        let key_#{c} = key_token(at, t0 + lane + #{c * LANES}u);
#else
        let key_#{c} = key_token(at, t0 + #{c}u);
#endif
        let kr_#{c} = row_of_key(at, key_#{c}, p.k);
        let vr_#{c} = row_of_key(at, key_#{c}, p.v);
#endfor
#for b in 0..BLOCKS
#for j in 0..STEP
        var s_#{b}_#{j} = 0.0;
#endfor
#endfor
        for (var i = 0u; i < p.width; i++) {
#for b in 0..BLOCKS
            let q_#{b} = floats(q[from_#{b} + i]);
#endfor
#for c in 0..KEYS
            let k_#{c} = load_k(at, kr_#{c}, i);
#endfor
#for j in 0..STEP
#if LANES
            let kj_#{j} = subgroupBroadcast(k_#{j / LANES}, #{j % LANES}u);
#else
            let kj_#{j} = k_#{j};
#endif
#for b in 0..BLOCKS
            s_#{b}_#{j} = fma(q_#{b}.x, kj_#{j}.x, s_#{b}_#{j});
            s_#{b}_#{j} = fma(q_#{b}.y, kj_#{j}.y, s_#{b}_#{j});
            s_#{b}_#{j} = fma(q_#{b}.z, kj_#{j}.z, s_#{b}_#{j});
            s_#{b}_#{j} = fma(q_#{b}.w, kj_#{j}.w, s_#{b}_#{j});
#endfor
#endfor
        }

        let last = t0 + #{STEP}u >= at.end;
#for b in 0..BLOCKS
        var new_#{b} = m_#{b};
#for j in 0..STEP
#if CAUSAL || BIAS
        s_#{b}_#{j} = masked_score(at, s_#{b}_#{j}, token_#{b}, t0 + #{j}u);
#else
        s_#{b}_#{j} = select(NEVER, s_#{b}_#{j} * p.scale, t0 + #{j}u < at.end);
#endif
        new_#{b} = max(new_#{b}, s_#{b}_#{j});
#endfor
        let shrink_#{b} = weight(m_#{b} - new_#{b});
        m_#{b} = new_#{b};
        l_#{b} *= shrink_#{b};
#for j in 0..STEP
        s_#{b}_#{j} = weight(s_#{b}_#{j} - new_#{b});
        l_#{b} += s_#{b}_#{j};
#endfor
#if SPLIT
        let share_#{b} = 1.0;
#else
        let share_#{b} = select(1.0, 1.0 / l_#{b}, last);
#endif
#endfor

        for (var i = 0u; i < p.values; i++) {
#for b in 0..BLOCKS
            // Nothing is there yet at the first step.
#if PAD
            var o_#{b} = select(vec4(0.0), y[row_#{b} + i] * shrink_#{b}, (t0 > at.first) | (padded > 0u));
#else
            var o_#{b} = select(vec4(0.0), y[row_#{b} + i] * shrink_#{b}, t0 > at.first);
#endif
#endfor
#for c in 0..KEYS
            let v_#{c} = load_v(at, vr_#{c}, i);
#endfor
#for j in 0..STEP
#if LANES
            let vj_#{j} = subgroupBroadcast(v_#{j / LANES}, #{j % LANES}u);
#else
            let vj_#{j} = v_#{j};
#endif
#for b in 0..BLOCKS
            o_#{b} = fma(vec4(s_#{b}_#{j}), vj_#{j}, o_#{b});
#endfor
#endfor
#for b in 0..BLOCKS
            if token_#{b} != NOWHERE {
                y[row_#{b} + i] = o_#{b} * share_#{b};
            }
#endfor
        }
    }

#if SPLIT
#for b in 0..BLOCKS
    if token_#{b} != NOWHERE {
        y[row_#{b} + p.values] = vec4(m_#{b}, l_#{b}, 0.0, 0.0);
    }
#endfor
#endif
}
#endif
