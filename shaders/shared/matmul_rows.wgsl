// Few rows: 64 threads are 64 / LANES teams; a team computes ROWS rows of COLS columns. Its lanes go along k in
// vec4, so a weight is read once, coalesced, and never staged; at the end the lanes' sums are added in a fixed
// order, one output a thread. ROWS * COLS <= LANES.
#define TEAMS (64 / LANES)
#define SUMS (ROWS * COLS)

// One lane more than there are: the adding threads then hit distinct banks.
var<workgroup> sums: array<f32, #{TEAMS * SUMS * (LANES + 1)}>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tile = tile_of(wid + p.base.xyz) * vec2<u32>(#{ROWS}u, #{COLS * TEAMS}u);
    let batch = wid.z + p.base.z;
    let lane = thread % #{LANES}u;
    let team = thread / #{LANES}u;

#for r in 0..ROWS
    let x_#{r} = p.x_offset + batch * p.x_batch + min(tile.x + #{r}u, p.m - 1u) * p.x_row;
#endfor
#for c in 0..COLS
    let w_#{c} = p.w_offset + batch * p.w_batch + min(tile.y + team * #{COLS}u + #{c}u, p.n - 1u) * p.w_row;
#for r in 0..ROWS
    var acc_#{r}_#{c} = 0.0;
#endfor
#endfor

    for (var k = lane * 4u; k < p.k; k += #{LANES * 4}u) {
#for c in 0..COLS
        let b_#{c} = load_w(w_#{c}, k);
#endfor
#for r in 0..ROWS
        let a_#{r} = load_x(x_#{r}, k);
#for c in 0..COLS
        acc_#{r}_#{c} = fma(a_#{r}.w, b_#{c}.w, fma(a_#{r}.z, b_#{c}.z, fma(a_#{r}.y, b_#{c}.y, fma(a_#{r}.x, b_#{c}.x, acc_#{r}_#{c}))));
#endfor
#endfor
    }

    let first = team * #{SUMS * (LANES + 1)}u + lane;
#for r in 0..ROWS
#for c in 0..COLS
    sums[first + #{(r * COLS + c) * (LANES + 1)}u] = acc_#{r}_#{c};
#endfor
#endfor
    workgroupBarrier();

    if thread >= #{TEAMS * SUMS}u {
        return;
    }
    let begin = thread * #{LANES + 1}u;
    let row = tile.x + thread % #{SUMS}u / #{COLS}u;
    let col = tile.y + thread / #{SUMS}u * #{COLS}u + thread % #{COLS}u;
    if row < p.m && col < p.n {
#if GLU
        // The next thread's column is the other half of the pair.
        if (col & 1u) == 0u {
            store1(batch, row, col, total(begin, load_bias(batch, col).x), total(begin + #{LANES + 1}u, load_bias(batch, col).y));
        }
#else
        store1(batch, row, col, total(begin, load_bias(batch, col).x), 0.0);
#endif
    }
}

// The sums of a team's lanes on top of the bias, in order.
fn total(begin: u32, bias: f32) -> f32 {
    var sum = bias;
    for (var i = 0u; i < #{LANES}u; i += 1u) {
        sum += sums[begin + i];
    }
    return sum;
}
