// Convolution of NHWC images as an implicit matrix product (shared/implicit_gemm.wgsl), with bias, activation
// and residual: y = activation(conv(x) + bias) + residual.
// x: (n, h, w, cin); weight: (cout, kh, kw, cin); bias: (cout); y: (n, oh, ow, cout); residual: (1 or n, oh, ow, cout)
#import implicit_gemm

#if VEC_OUT
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
#if EXTRA
@group(0) @binding(4) var<storage, read> residual: array<vec4<f32>>;
#endif
@group(0) @binding(#{4 + EXTRA}) var<storage, read_write> y: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#if EXTRA
@group(0) @binding(4) var<storage, read> residual: array<f32>;
#endif
@group(0) @binding(#{4 + EXTRA}) var<storage, read_write> y: array<f32>;
#endif

// Writes pixel m, columns c to c + 3.
fn store(m: u32, c: u32, sum: vec4<f32>) {
#if VEC_OUT
    let v = activate(sum + bias[c / 4u]);
#if EXTRA
    y[(m * p.columns + c) / 4u] = v + residual[(m % p.extra * p.columns + c) / 4u];
#else
    y[(m * p.columns + c) / 4u] = v;
#endif
#else
    var b = vec4<f32>();
#for i in 0..4
    if c + #{i}u < p.columns {
        b[#{i}] = bias[c + #{i}u];
    }
#endfor
    let v = activate(sum + b);
#for i in 0..4
    if c + #{i}u < p.columns {
#if EXTRA
        y[m * p.columns + c + #{i}u] = v[#{i}] + residual[m % p.extra * p.columns + c + #{i}u];
#else
        y[m * p.columns + c + #{i}u] = v[#{i}];
#endif
    }
#endfor
#endif
}
