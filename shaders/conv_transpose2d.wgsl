// Transposed 2 x 2 convolution with stride 2 of NHWC images: a matrix product (shared/implicit_gemm.wgsl with one
// tap) whose column (ky, kx, o) of pixel (y, x) is stored at (2y + ky, 2x + kx, o).
// y = activation(conv_transpose(x) + bias + skip)
// x: (n, h, w, cin); weight: (2, 2, cout, cin); bias: (cout); skip: (1 or n, 2h, 2w, cout); y: (n, 2h, 2w, cout)
#import implicit_gemm

#if VEC_OUT
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
#if EXTRA
@group(0) @binding(4) var<storage, read> skip: array<vec4<f32>>;
#endif
@group(0) @binding(#{4 + (EXTRA > 0)}) var<storage, read_write> y: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#if EXTRA
@group(0) @binding(4) var<storage, read> skip: array<f32>;
#endif
@group(0) @binding(#{4 + (EXTRA > 0)}) var<storage, read_write> y: array<f32>;
#endif

// The output pixel of input pixel m and quadrant 2 * ky + kx.
fn upsampled(m: u32, quadrant: u32) -> u32 {
    let line = m / p.out_width;
    let left = m % p.out_width;
    return (line * 2u + quadrant / 2u) * p.out_width * 2u + left * 2u + quadrant % 2u;
}

// The bias of columns c to c + 3.
fn bias_of(c: u32) -> vec4<f32> {
    let channels = p.columns / 4u;
#if VEC_OUT
    return bias[c % channels / 4u];
#else
    return vec4(bias[c % channels], bias[(c + 1u) % channels], bias[(c + 2u) % channels], bias[(c + 3u) % channels]);
#endif
}

// Writes pixel m, columns c to c + 3; the bias is in the sum.
fn store(m: u32, c: u32, sum: vec4<f32>) {
    let channels = p.columns / 4u;
    // Columns are a multiple of 4: all four exist, with channels that are none perhaps in different quadrants.
#for i in 0..1 + 3 * !VEC_OUT
    let o#{i} = (c + #{i}u) % channels;
    let at#{i} = upsampled(m, (c + #{i}u) / channels);
#if EXTRA == 2
    let repeated#{i} = at#{i} % p.extra;
#else
    let repeated#{i} = at#{i};
#endif
#endfor
#if VEC_OUT
#if EXTRA
    y[(at0 * channels + o0) / 4u] = activate(sum + skip[(repeated0 * channels + o0) / 4u]);
#else
    y[(at0 * channels + o0) / 4u] = activate(sum);
#endif
#else
    var v = sum;
#if EXTRA
#for i in 0..4
    v[#{i}] += skip[repeated#{i} * channels + o#{i}];
#endfor
#endif
    v = activate(v);
#for i in 0..4
    y[at#{i} * channels + o#{i}] = v[#{i}];
#endfor
#endif
}
