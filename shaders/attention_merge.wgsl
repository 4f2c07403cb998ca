// The results of an attention whose keys were split, combined.
// x: (splits, rows, width + 4): the sum of v weighted by exp2(score - m), then (m, l, 0, 0), l the sum of the weights
// y: (rows, width)
//
// One vec4 of the result an invocation; the splits in order, twice: the largest m, then the sums.
struct Params {
    base: vec4<u32>,
    splits: u32,
    rows: u32,
    // In vec4s.
    width: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let e = (wid.x + p.base.x) * #{THREADS}u + lane;
    if e >= p.rows * p.width {
        return;
    }
    let row = e / p.width;
    let i = e % p.width;
    let stride = p.rows * (p.width + 1u);
    let start = row * (p.width + 1u);

    var m = x[start + p.width].x;
    for (var s = 1u; s < p.splits; s++) {
        m = max(m, x[start + s * stride + p.width].x);
    }
    var sum = 0.0;
    var o = vec4(0.0);
    for (var s = 0u; s < p.splits; s++) {
        let at = start + s * stride;
        let ml = x[at + p.width];
        let share = exp2(max(ml.x - m, -100.0));
        sum = fma(share, ml.y, sum);
        o = fma(vec4(share), x[at + i], o);
    }
    y[e] = o / sum;
}
