// The way without barriers: an invocation owns BLOCKS queries, whole, in registers; STEP keys at a time.
//
// With LANES (the subgroup size, and the workgroup's), each lane loads another key's k and v, and broadcasts hand them
// round: a load serves LANES * BLOCKS queries. Without, every invocation loads every key itself.
#if LANE
#if LANES
#define GROUP LANES
#define STEP LANES
#endif

@compute @workgroup_size(#{GROUP})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = wid + p.base.xyz;
    let at = place(id);
    let block = id.x * #{GROUP * BLOCKS}u + lane;
#for b in 0..BLOCKS
    let token_#{b} = query_token(at, block + #{b * GROUP}u);
    var m_#{b} = NEVER;
    var l_#{b} = 0.0;
#for i in 0..D4
    let q_#{b}_#{i} = load_q(at, token_#{b}, #{i}u);
    var o_#{b}_#{i} = vec4(0.0);
#endfor
#endfor

    for (var t0 = at.first; t0 < at.end; t0 += #{STEP}u) {
#if LANES
        let key = key_token(at, min(t0 + lane, at.end - 1u));
#else
#for j in 0..STEP
        let key_#{j} = key_token(at, min(t0 + #{j}u, at.end - 1u));
#endfor
#endif
#for b in 0..BLOCKS
#for j in 0..STEP
        var s_#{b}_#{j} = 0.0;
#endfor
#endfor
#for i in 0..D4
#if LANES
        let k_#{i} = load_k(at, key, #{i}u);
#endif
#for j in 0..STEP
#if LANES
        let k_#{i}_#{j} = subgroupBroadcast(k_#{i}, #{j}u);
#else
        let k_#{i}_#{j} = load_k(at, key_#{j}, #{i}u);
#endif
#for b in 0..BLOCKS
        s_#{b}_#{j} = fma(q_#{b}_#{i}.x, k_#{i}_#{j}.x, s_#{b}_#{j});
        s_#{b}_#{j} = fma(q_#{b}_#{i}.y, k_#{i}_#{j}.y, s_#{b}_#{j});
        s_#{b}_#{j} = fma(q_#{b}_#{i}.z, k_#{i}_#{j}.z, s_#{b}_#{j});
        s_#{b}_#{j} = fma(q_#{b}_#{i}.w, k_#{i}_#{j}.w, s_#{b}_#{j});
#endfor
#endfor
#endfor

#for b in 0..BLOCKS
        var new_#{b} = m_#{b};
#for j in 0..STEP
        s_#{b}_#{j} = select(NEVER, s_#{b}_#{j}, t0 + #{j}u < at.end);
        new_#{b} = max(new_#{b}, s_#{b}_#{j});
#endfor
        let shrink_#{b} = weight(m_#{b} - new_#{b});
        m_#{b} = new_#{b};
        l_#{b} *= shrink_#{b};
#for j in 0..STEP
        let w_#{b}_#{j} = weight(s_#{b}_#{j} - new_#{b});
        l_#{b} += w_#{b}_#{j};
#endfor
#endfor

#for i in 0..D4
#if LANES
        let v_#{i} = load_v(at, key, #{i}u);
#endif
#for b in 0..BLOCKS
        o_#{b}_#{i} *= shrink_#{b};
#endfor
#for j in 0..STEP
#if LANES
        let v_#{i}_#{j} = subgroupBroadcast(v_#{i}, #{j}u);
#else
        let v_#{i}_#{j} = load_v(at, key_#{j}, #{i}u);
#endif
#for b in 0..BLOCKS
        o_#{b}_#{i} = fma(vec4(w_#{b}_#{j}), v_#{i}_#{j}, o_#{b}_#{i});
#endfor
#endfor
#endfor
    }

#for b in 0..BLOCKS
    if token_#{b} != NOWHERE {
        let start = row_of(at, token_#{b});
#if SPLIT
        y[start + #{D4}u] = vec4(m_#{b}, l_#{b}, 0.0, 0.0);
        let share = 1.0;
#else
        let share = 1.0 / l_#{b};
#endif
#for i in 0..D4
        y[start + #{i}u] = o_#{b}_#{i} * share;
#endfor
    }
#endfor
}
#endif
