// Convolution of NHWC images as an implicit matrix product (shared/implicit_gemm.wgsl), with bias, activation
// and residual: y = activation(conv(x) + bias) + residual.
// x: (n, h, w, cin); weight: (cout, kh, kw, cin); bias: (cout); y: (n, oh, ow, cout); residual: (1 or n, oh, ow, cout)
#import implicit_gemm

#if VEC_OUT
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
#if EXTRA
@group(0) @binding(4) var<storage, read> residual: array<vec4<f32>>;
#endif
@group(0) @binding(#{4 + (EXTRA > 0)}) var<storage, read_write> y: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#if EXTRA
@group(0) @binding(4) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(#{4 + (EXTRA > 0)}) var<storage, read_write> y: array<f32>;
#endif

// The bias of columns c to c + 3, as far as they exist.
fn bias_of(c: u32) -> vec4<f32> {
#if VEC_OUT
    return bias[min(c, p.columns - 4u) / 4u];
#else
    let last = p.columns - 1u;
    return vec4(bias[min(c, last)], bias[min(c + 1u, last)], bias[min(c + 2u, last)], bias[min(c + 3u, last)]);
#endif
}

// Writes pixel m, columns c to c + 3; the bias is in the sum.
fn store(m: u32, c: u32, sum: vec4<f32>) {
#if EXTRA == 2
    let repeated = m % p.extra;
#else
    let repeated = m;
#endif
    let v = activate(sum);
#if VEC_OUT
#if EXTRA
    y[(m * p.columns + c) / 4u] = v + residual[(repeated * p.columns + c) / 4u];
#else
    y[(m * p.columns + c) / 4u] = v;
#endif
#else
#for i in 0..4
    if c + #{i}u < p.columns {
#if EXTRA
        y[m * p.columns + c + #{i}u] = v[#{i}] + residual[repeated * p.columns + c + #{i}u];
#else
        y[m * p.columns + c + #{i}u] = v[#{i}];
#endif
    }
#endfor
#endif
}
