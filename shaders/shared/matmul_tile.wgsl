// Products by tiles in workgroup memory, whose layout and inner loop are `tile` and `tile_step`.
//
// F16: the rule chooses it only for calls that vouch for x (`Precision::Half`), and stored weights fit.
#import tile

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tile_of(wid + p.base.xyz) * vec2<u32>(#{TILE_M}u, #{TILE_N}u);
    let batch = wid.z + p.base.z;

#import tile_lane
    // Where it loads from: with VEC_K in vec4s and of its quad, so that an address is one addition. Rows and columns beyond
    // the edge repeat the last one; they are never stored.
#for h in 0..HEIGHT
#for i in 0..LOADS_X
    let row_#{i}_#{h} = min(tile.x + x_first + #{i * NEXT_X + h}u, p.m - 1u);
    let x_at_#{i}_#{h} = ((p.x_offset + batch * p.x_batch + row_#{i}_#{h} * p.x_row) >> #{2 * VEC_K}u) + quad * #{VEC_K}u;
#endfor
#for i in 0..LOADS_W
    let col_#{i}_#{h} = min(tile.y + w_first + #{i * NEXT_W + h}u, p.n - 1u);
    let w_at_#{i}_#{h} = ((p.w_offset + batch * p.w_batch + col_#{i}_#{h} * p.w_row) >> #{2 * VEC_K}u) + quad * #{VEC_K}u;
#endfor
#endfor

#for c in 0..TN / 4
    let col_#{c} = tile.y + (tx + #{c * (TILE_N / TN)}u) * 4u;
    let bias_#{c} = load_bias(batch, col_#{c});
#for r in 0..TM
    var acc_#{r}_#{c} = bias_#{c};
#endfor
#endfor

    for (var k = 0u; k < p.k; k += #{STEP}u) {
        let fours = (p.k - k + 3u) >> 2u;
#for h in 0..HEIGHT
#for i in 0..LOADS_X
        var x_#{i}_#{h}: vec4<f32>;
#endfor
#for i in 0..LOADS_W
        var w_#{i}_#{h}: vec4<f32>;
#endfor
#endfor
#if TAIL
        if k + quad * 4u < p.k {
#else
        {
#endif
#for h in 0..HEIGHT
#if VEC_K
#for i in 0..LOADS_W
            w_#{i}_#{h} = weight4(w_at_#{i}_#{h} + (k >> 2u));
#endfor
#for i in 0..LOADS_X
            x_#{i}_#{h} = x[x_at_#{i}_#{h} + (k >> 2u)];
#endfor
#else
#for i in 0..LOADS_W
            w_#{i}_#{h} = load_w(w_at_#{i}_#{h}, k + quad * 4u);
#endfor
#for i in 0..LOADS_X
            x_#{i}_#{h} = load_x(x_at_#{i}_#{h}, k + quad * 4u);
#endfor
#endif
#endfor
        }
#import tile_step
    }

#for r in 0..TM
    let row_#{r} = tile.x + (ty + #{r / 4 * FAR}u) * 4u + #{r % 4}u;
    if row_#{r} < p.m {
#for c in 0..TN / 4
        if col_#{c} < p.n {
            store4(batch, row_#{r}, col_#{c}, acc_#{r}_#{c});
        }
#endfor
    }
#endfor
}
