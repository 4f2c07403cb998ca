// For adapters that are a CPU: no barrier and no workgroup memory; ROWS x COLS outputs in registers a lane, along k
// in steps of 4.
//
// LANES 8 or 4: a workgroup is one subgroup. A lane loads ROWS / LANES rows of x and gets the others by
// subgroupBroadcast, which is one permutation; and COLS rows of w, which are its columns. So a subgroup loads an
// element of its LANES * COLS columns and ROWS rows once. LANES 1: each lane loads all its ROWS rows.
//
// What bounds it on lavapipe (Mesa 22.3, read from its machine code): a load or store is a loop over the lanes of some 9
// instructions an element, whatever the address and its bits (so INT64 has two f32 as one element: 1.1 to 1.15 times
// as fast), and FMA is a multiplication and an addition. 32 x 4 has 8 loads for 128 sums, and its loop of 2000
// instructions still fits the decoder's cache: 0.27 to 0.32 of the rate of `roofline`'s multiply-adds, in turns with
// them; 48 x 4 is 1.05 times as fast, and takes 1.5 times as long to compile.
// Tried, 32 x 4 being 1: 16 x 4 0.8; 40 x 4 and 56 x 4 1.03; 32 x 8, 64 x 4 and 64 x 8 0.7 to 1; k by 8 0.9, by 16 0.75;
// k by 2 with 32 x 4, 48 x 4, 64 x 4 and 32 x 8 0.80 to 0.85; one loop over the rows for the epilogue (an array read by
// index): compiles slower than its unrolling.
// SwiftShader, LANES 4: 8 x 8 3.6 GFLOP/s, 8 x 16 2.8, 4 x 8 2.2, 16 x 8 3.1, tile64 1.6.
// LANES 1: 8 x 4 8.5 on lavapipe, 8 x 8 5.9, 4 x 4 6.4.
@compute @workgroup_size(#{GROUP})
#if LANES > 1
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
#else
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#endif
    let tile = tile_of(wid + p.base.xyz) * vec2<u32>(#{ROWS}u, #{GROUP * COLS}u);
    let batch = wid.z + p.base.z;
    let col = tile.y + lane * #{COLS}u;

    // Rows and columns beyond the edge repeat the last one; they are never stored.
#for r in 0..ROWS / LANES
#if LANES > 1
    let x_#{r} = p.x_offset + batch * p.x_batch + min(tile.x + #{r * LANES}u + lane, p.m - 1u) * p.x_row;
#else
    let x_#{r} = p.x_offset + batch * p.x_batch + min(tile.x + #{r}u, p.m - 1u) * p.x_row;
#endif
#endfor
#for c in 0..COLS
    let w_#{c} = p.w_offset + batch * p.w_batch + min(col + #{c}u, p.n - 1u) * p.w_row;
#endfor
#for q in 0..COLS / 4
    let bias_#{q} = load_bias(batch, col + #{q * 4}u);
#for c in q * 4..q * 4 + 4
#for r in 0..ROWS
    var acc_#{r}_#{c} = bias_#{q}[#{c % 4}];
#endfor
#endfor
#endfor

    // min(): Mesa's lavapipe inlines a uniform that alone bounds a loop, which compiles the shader anew at every
    // dispatch (0.2 s, or 3 ms from its cache). k is never longer than x.
#if VEC_K
    let end = min(p.k, arrayLength(&x) * 4u);
#else
    let end = min(p.k, arrayLength(&x));
#endif
    for (var k = 0u; k < end; k += 4u) {
#for c in 0..COLS
        let b_#{c} = load_w(w_#{c}, k);
#endfor
#for g in 0..ROWS / LANES
        let mine_#{g} = load_x(x_#{g}, k);
#for l in 0..LANES
#if LANES > 1
        let a_#{g}_#{l} = subgroupBroadcast(mine_#{g}, #{l}u);
#else
        let a_#{g}_#{l} = mine_#{g};
#endif
#for c in 0..COLS
        acc_#{g * LANES + l}_#{c} = fma(a_#{g}_#{l}.w, b_#{c}.w, fma(a_#{g}_#{l}.z, b_#{c}.z, fma(a_#{g}_#{l}.y, b_#{c}.y, fma(a_#{g}_#{l}.x, b_#{c}.x, acc_#{g * LANES + l}_#{c}))));
#endfor
#endfor
#endfor
    }

#for r in 0..ROWS
    if tile.x + #{r}u < p.m {
#for q in 0..COLS / 4
        if col + #{q * 4}u < p.n {
            store4(batch, tile.x + #{r}u, col + #{q * 4}u, vec4<f32>(acc_#{r}_#{q * 4}, acc_#{r}_#{q * 4 + 1}, acc_#{r}_#{q * 4 + 2}, acc_#{r}_#{q * 4 + 3}));
        }
#endfor
    }
#endfor
}
