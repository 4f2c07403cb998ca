// What a device can do at best, one thing at a time: the roofs that `impasto bench` holds kernels against.
// x: any values; y: one value an invocation, or a copy of x (PROBE 4).
// PROBE 0 f32 multiply-adds, 1 pairs of f16 (F16; else of f32), 2 packed int8 dot products, 3 reads of workgroup memory,
// 4 a copy of device memory.
//
// Arithmetic: CHAINS independent sums an invocation, unrolled, so that neither latency nor the loop shows.
// Tried, lavapipe: 8 chains 0.9 of 12, 16 chains spill and halve it.
#if F16
enable f16;
alias Pair = vec2<f16>;
#else
alias Pair = vec2<f32>;
#endif

struct Params {
    base: vec4<u32>,
    iterations: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
#if PROBE == 4
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#endif
#if PROBE == 3
var<workgroup> sh: array<vec4<f32>, #{2 * THREADS}>;
#endif

@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * #{THREADS}u + lane;
#if PROBE == 0
    let m = x[i & 1u];
    let b = x[2u];
#for c in 0..CHAINS
    var a_#{c} = x[#{c % 4}u] + #{c}.0;
#endfor
    for (var n = 0u; n < p.iterations; n += 1u) {
#for u in 0..UNROLL
#for c in 0..CHAINS
        a_#{c} = fma(a_#{c}, m, b);
#endfor
#endfor
    }
    var sum = 0.0;
#for c in 0..CHAINS
    sum += a_#{c};
#endfor
    y[i] = sum;
#elif PROBE == 1
    let m = Pair(vec2(x[i & 1u], x[~i & 1u]));
    let b = Pair(vec2(x[2u], x[3u]));
#for c in 0..CHAINS
    var a_#{c} = Pair(vec2(x[#{c % 4}u]));
#endfor
    for (var n = 0u; n < p.iterations; n += 1u) {
#for u in 0..UNROLL
#for c in 0..CHAINS
        a_#{c} = fma(a_#{c}, m, b);
#endfor
#endfor
    }
    var sum = vec2<f32>();
#for c in 0..CHAINS
    sum += vec2<f32>(a_#{c});
#endfor
    y[i] = sum.x + sum.y;
#elif PROBE == 2
    let b = bitcast<u32>(x[i & 3u]);
#for c in 0..CHAINS
    var a_#{c} = #{c + 1};
#endfor
    for (var n = 0u; n < p.iterations; n += 1u) {
#for u in 0..UNROLL
#for c in 0..CHAINS
        a_#{c} += dot4I8Packed(bitcast<u32>(a_#{c}), b);
#endfor
#endfor
    }
    var sum = 0;
#for c in 0..CHAINS
    sum ^= a_#{c};
#endfor
    y[i] = f32(sum & 0xffff);
#elif PROBE == 3
    let mine = x[i & 3u];
    sh[lane] = vec4<f32>(mine, 1.0, 2.0, 3.0);
    sh[lane + #{THREADS}u] = vec4<f32>(mine);
    workgroupBarrier();
#for c in 0..4
    var a_#{c} = vec4<f32>();
#endfor
    for (var n = 0u; n < p.iterations; n += 1u) {
        // Another place at each turn, so that no read can be kept; within #{THREADS} of the lane.
        let at = lane + n % #{THREADS - UNROLL * 4}u;
#for u in 0..UNROLL
#for c in 0..4
        a_#{c} += sh[at + #{u * 4 + c}u];
#endfor
#endfor
    }
    let sum = a_0 + a_1 + a_2 + a_3;
    y[i] = sum.x + sum.y + sum.z + sum.w;
#else
    // Neighbours read neighbours, four loads in flight.
    let first = (wid.x + p.base.x) * #{4 * THREADS}u + lane;
#for c in 0..4
    let at_#{c} = min(first + #{c * THREADS}u, p.count - 1u);
    let v_#{c} = x[at_#{c}];
#endfor
#for c in 0..4
    y[at_#{c}] = v_#{c};
#endfor
#endif
}
