// Depthwise convolution of NHWC images, stride 1, zero padding that keeps the size (odd kernels).
// x, y: (n, h, w, c); weight: (kh, kw, c); bias: (c)
//
// An invocation makes STRIP neighbouring outputs of VEC channels: each input is loaded once a kernel row and used
// for all the outputs it reaches. KW is the kernel width: its loop is unrolled, so that weights stay in registers.
struct Params {
    base: vec4<u32>,
    rows: u32,     // n * h
    height: u32,
    width: u32,
    cols: u32,     // channels / VEC
    strips: u32,   // width / STRIP, rounded up
    taps: u32,     // kernel height
}
#if VEC == 4
alias Element = vec4<f32>;
#else
alias Element = f32;
#endif
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> weight: array<Element>;
@group(0) @binding(3) var<storage, read> bias: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.rows * p.strips * p.cols {
        return;
    }
    let c = i % p.cols;
    let row = i / p.cols / p.strips;
    let left = i / p.cols % p.strips * #{STRIP}u;
    let line = row % p.height;
#for s in 0..STRIP
    var sum#{s} = bias[c];
#endfor
    for (var ky = 0u; ky < p.taps; ky++) {
        // Unsigned: rows and columns before the image wrap to large numbers.
        let iy = line + ky - p.taps / 2u;
        if iy >= p.height {
            continue;
        }
        let start = (row + ky - p.taps / 2u) * p.width;
#for k in 0..KW
        let w#{k} = weight[(ky * #{KW}u + #{k}u) * p.cols + c];
#endfor
#for j in 0..STRIP + KW - 1
        {
            let ix = left + #{j}u - #{KW / 2}u;
            let ok = ix < p.width;
            let v = select(Element(), x[select(0u, (start + ix) * p.cols + c, ok)], ok);
#for s in 0..STRIP
#if s <= j && j - s < KW
            sum#{s} += v * w#{j - s};
#endif
#endfor
        }
#endfor
    }
#for s in 0..STRIP
    if left + #{s}u < p.width {
        y[(row * p.width + left + #{s}u) * p.cols + c] = sum#{s};
    }
#endfor
}
