// By matrix units: a workgroup is four subgroups of 32 and computes TILE x TILE outputs, a subgroup a quarter of
// them in fragments of COOP x COOP, along k in steps of STEP. COOP 8: f32 (Metal). COOP 16: f16 operands, clamped to
// its range, and f32 sums (Vulkan). No subgroup operation may stand beside these: NVIDIA's driver 595 dies of it.
//
// Staged rows lie along k as in memory, so x is a row-major matrix (coopLoadT) and w, which is (n, k), a
// column-major one of (k, n) (coopLoad); 16 bytes between rows keep them on distinct banks. Fragments are named, not
// indexed: indexed ones end in memory. Sums go out through workgroup memory, a fragment a subgroup at a time, since
// nothing else tells which thread holds what; and they start there, from zeros.
#define F16 0
#define STRIDE (STEP + 4 + 4 * F16)
#define SIDE (TILE / 2 / COOP)
#define QUADS (STEP / 4)
#define LOADS (TILE * QUADS / 128)
#define CELLS (COOP * COOP)

alias Operand = f#{32 - 16 * F16};
var<workgroup> staged_x: array<Operand, #{TILE * STRIDE}>;
var<workgroup> staged_w: array<Operand, #{TILE * STRIDE}>;
var<workgroup> cells: array<f32, #{4 * CELLS}>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tile_of(wid + p.base.xyz) * #{TILE}u;
    let batch = wid.z + p.base.z;
    let subgroup = lane / 32u;
    // The quarter of this subgroup, and its cells.
    let quarter = vec2<u32>(subgroup / 2u, subgroup % 2u) * #{TILE / 2}u;
    let own = subgroup * #{CELLS}u;

    // Rows and columns beyond the edge repeat the last one; they are never stored.
#for i in 0..LOADS
    let row_#{i} = (lane + #{i * 128}u) / #{QUADS}u;
    let x_#{i} = p.x_offset + batch * p.x_batch + min(tile.x + row_#{i}, p.m - 1u) * p.x_row;
    let w_#{i} = p.w_offset + batch * p.w_batch + min(tile.y + row_#{i}, p.n - 1u) * p.w_row;
#endfor
    let quad = lane % #{QUADS}u * 4u;

    for (var i = lane; i < #{4 * CELLS}u; i += 128u) {
        cells[i] = 0.0;
    }
    workgroupBarrier();
#for i in 0..SIDE
#for j in 0..SIDE
    var acc_#{i}_#{j} = coopLoadT<coop_mat#{COOP}x#{COOP}<f32, C>>(&cells[own], #{COOP}u);
#endfor
#endfor

    for (var k = 0u; k < p.k; k += #{STEP}u) {
#for i in 0..LOADS
        let a_#{i} = load_x(x_#{i}, k + quad);
        let b_#{i} = load_w(w_#{i}, k + quad);
#endfor
        workgroupBarrier();
#for i in 0..LOADS
        stage(row_#{i} * #{STRIDE}u + quad, a_#{i}, b_#{i});
#endfor
        workgroupBarrier();
#for s in 0..STEP / COOP
#for i in 0..SIDE
        let x_#{s}_#{i} = coopLoadT<coop_mat#{COOP}x#{COOP}<Operand, A>>(&staged_x[(quarter.x + #{i * COOP}u) * #{STRIDE}u + #{s * COOP}u], #{STRIDE}u);
#endfor
#for j in 0..SIDE
        let w_#{s}_#{j} = coopLoad<coop_mat#{COOP}x#{COOP}<Operand, B>>(&staged_w[(quarter.y + #{j * COOP}u) * #{STRIDE}u + #{s * COOP}u], #{STRIDE}u);
#for i in 0..SIDE
        acc_#{i}_#{j} = coopMultiplyAdd(x_#{s}_#{i}, w_#{s}_#{j}, acc_#{i}_#{j});
#endfor
#endfor
#endfor
    }

#for i in 0..SIDE
#for j in 0..SIDE
    workgroupBarrier();
    coopStoreT(acc_#{i}_#{j}, &cells[own], #{COOP}u);
    workgroupBarrier();
    store_cells(batch, tile + quarter + vec2<u32>(#{i * COOP}u, #{j * COOP}u), own, lane % 32u);
#endfor
#endfor
}

fn stage(at: u32, x4: vec4<f32>, w4: vec4<f32>) {
#if F16
    let a = vec4<f16>(clamp(x4, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
    let b = vec4<f16>(clamp(w4, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
#else
    let a = x4;
    let b = w4;
#endif
#for i in 0..4
    staged_x[at + #{i}u] = a[#{i}];
    staged_w[at + #{i}u] = b[#{i}];
#endfor
}

// The fragment whose first output is at `corner`: fours of a row go to the lanes in turn.
fn store_cells(batch: u32, corner: vec2<u32>, own: u32, lane: u32) {
    for (var four = lane; four < #{CELLS / 4}u; four += 32u) {
        let row = corner.x + four / #{COOP / 4}u;
        let col = corner.y + four % #{COOP / 4}u * 4u;
        let at = own + four * 4u;
        if row < p.m && col < p.n {
            store4(batch, row, col, load_bias(batch, col) + vec4<f32>(cells[at], cells[at + 1u], cells[at + 2u], cells[at + 3u]));
        }
    }
}
