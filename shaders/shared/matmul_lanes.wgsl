// For adapters that are a CPU: no barrier and no workgroup memory; ROWS x COLS outputs in registers a lane, along k
// in steps of 4, or of 8 BY_EIGHT.
//
// LANES 8 or 4: a workgroup is one subgroup. A lane loads ROWS / LANES rows of x and gets the others by
// subgroupBroadcast, which is one permutation; and COLS rows of w, which are its columns. So a subgroup loads an
// element of its LANES * COLS columns and ROWS rows once. LANES 1: each lane loads all its ROWS rows.
//
// What bounds it on lavapipe (Mesa 22.3, read from its machine code): a load or store is a loop over the lanes of some 20
// instructions and 8 for each element of a vector, of 32 bits or 64 (hence INT64, and BY_EIGHT: four elements of two f32
// each); FMA is a multiplication and an addition; and a sum takes a load, a blend and a store a step. A third of the time
// goes to loads, half to sums, 14 % to the stores where k is 192. 0.30 to 0.36 of the rate of `roofline`'s multiply-adds,
// in turns with them.
// Tried, 48 x 8 by eight being 1 where k is 384: 24 x 8 0.9, 32 x 8 0.93, 40 x 8 0.96, 24 x 12 0.95, 32 x 12 1.0 (compiles
// longer), 16 x 8 and 16 x 12 0.85, 16 x 16 0.8, 40 x 4 0.83; by four, 48 x 4 0.85, 32 x 4 0.8, 48 x 8 0.82. A loop over the
// halves of what was loaded 0.75; sums in order of four columns 0.98; stores of all rows unrolled 0.97, and four times the
// compilation of stores; of all columns of a band a turn 1, a tenth more to compile in all.
// SwiftShader, LANES 4: 8 x 8 3.6 GFLOP/s, 8 x 16 2.8, 4 x 8 2.2, 16 x 8 3.1, tile64 1.6.
// LANES 1: 8 x 4 8.5 on lavapipe, 8 x 8 5.9, 4 x 4 6.4.
#if BY_EIGHT
#define FOURS 2
#else
#define FOURS 1
#endif
// Stores go by BANDS of 16 rows, four columns of each a turn.
#define BANDS (ROWS / 16)
#define TURNS (BANDS * COLS / 4)
alias Step = array<vec4<f32>, #{FOURS}>;

// What a step reads of a row of x from element k on.
fn step_x(row: u32, k: u32) -> Step {
#if BY_EIGHT
    let v = x[(row + k) >> 3u];
    return Step(floats(v.xy), floats(v.zw));
#else
    return Step(load_x(row, k));
#endif
}

// The same of w.
fn step_w(row: u32, k: u32) -> Step {
#if BY_EIGHT
    let v = w[(row + k) >> 3u];
#if W == 1
    return Step(halves(v.x), halves(v.y));
#else
    return Step(floats(v.xy), floats(v.zw));
#endif
#else
    return Step(load_w(row, k));
#endif
}

@compute @workgroup_size(#{GROUP})
#if LANES > 1
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
#else
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
#endif
    p = params;
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
    // dispatch (0.2 s, or 3 ms from its cache). k is never longer than x. `params`, as Chrome takes a private variable
    // for a value that differs between lanes, and broadcasts must not be under one.
#if VEC_K
    let end = min(params.k, arrayLength(&x) * #{4 * FOURS}u);
#else
    let end = min(params.k, arrayLength(&x));
#endif
    for (var k = 0u; k < end; k += #{4 * FOURS}u) {
#for c in 0..COLS
        let b_#{c} = step_w(w_#{c}, k);
#endfor
#for g in 0..ROWS / LANES
        let mine_#{g} = step_x(x_#{g}, k);
#for l in 0..LANES
#for f in 0..FOURS
#if LANES > 1
        let a_#{g}_#{l}_#{f} = subgroupBroadcast(mine_#{g}[#{f}], #{l}u);
#else
        let a_#{g}_#{l}_#{f} = mine_#{g}[#{f}];
#endif
#for c in 0..COLS
        acc_#{g * LANES + l}_#{c} = fma(a_#{g}_#{l}_#{f}.w, b_#{c}[#{f}].w, fma(a_#{g}_#{l}_#{f}.z, b_#{c}[#{f}].z, fma(a_#{g}_#{l}_#{f}.y, b_#{c}[#{f}].y, fma(a_#{g}_#{l}_#{f}.x, b_#{c}[#{f}].x, acc_#{g * LANES + l}_#{c}))));
#endfor
#endfor
#endfor
#endfor
    }

#if ROWS > 16
    // In a loop: unrolled, the stores would be most of what a driver compiles.
    for (var turn = 0u; turn < #{TURNS}u; turn += 1u) {
        let row = tile.x + turn % #{BANDS}u * 16u;
        let four = col + turn / #{BANDS}u * 4u;
#for r in 0..16
        var sum_#{r} = vec4<f32>(acc_#{r}_0, acc_#{r}_1, acc_#{r}_2, acc_#{r}_3);
#for t in 1..TURNS
        sum_#{r} = select(sum_#{r}, vec4<f32>(acc_#{t % BANDS * 16 + r}_#{t / BANDS * 4}, acc_#{t % BANDS * 16 + r}_#{t / BANDS * 4 + 1}, acc_#{t % BANDS * 16 + r}_#{t / BANDS * 4 + 2}, acc_#{t % BANDS * 16 + r}_#{t / BANDS * 4 + 3}), turn == #{t}u);
#endfor
        if row + #{r}u < p.m && four < p.n {
            store4(batch, row + #{r}u, four, sum_#{r});
        }
#endfor
    }
#else
#for r in 0..ROWS
    if tile.x + #{r}u < p.m {
#for q in 0..COLS / 4
        if col + #{q * 4}u < p.n {
            store4(batch, tile.x + #{r}u, col + #{q * 4}u, vec4<f32>(acc_#{r}_#{q * 4}, acc_#{r}_#{q * 4 + 1}, acc_#{r}_#{q * 4 + 2}, acc_#{r}_#{q * 4 + 3}));
        }
#endfor
    }
#endfor
#endif
}
