// One column a lane, ROWS rows: no barrier, no subgroup operation.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tile_of(wid.x + p.base.x) * vec2<u32>(#{ROWS}u, 64u);
    let batch = wid.z + p.base.z;
    let col = tile.y + lane;
    if col >= p.n {
        return;
    }
    let w_0 = p.w_offset + batch * p.w_batch + col * p.w_row;
#for r in 0..ROWS
    let x_#{r} = p.x_offset + batch * p.x_batch + min(tile.x + #{r}u, p.m - 1u) * p.x_row;
    var acc_#{r} = 0.0;
#endfor
    for (var k = 0u; k < p.k; k += 4u) {
        let b = load_w(w_0, k);
#for r in 0..ROWS
        let a_#{r} = load_x(x_#{r}, k);
        acc_#{r} = fma(a_#{r}.w, b.w, fma(a_#{r}.z, b.z, fma(a_#{r}.y, b.y, fma(a_#{r}.x, b.x, acc_#{r}))));
#endfor
    }
#for r in 0..ROWS
    if tile.x + #{r}u < p.m {
        store1(batch, tile.x + #{r}u, col, acc_#{r});
    }
#endfor
}
