// Maximum over 2 x 2 pixels with stride 2, of some of the channels.
// x: (n, h, w, row) -> y: (n, h / 2, w / 2, c), channels offset .. offset + c. h and w are even, so the rows of all
// images follow each other without a seam. Sizes in elements of VEC channels.
struct Params {
    base: vec4<u32>,
    count: u32,    // elements of y
    width: u32,    // of y
    cols: u32,     // of y
    row: u32,      // of x
    offset: u32,
}
#if VEC == 4
alias Element = vec4<f32>;
#else
alias Element = f32;
#endif
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
    let c = p.offset + i % p.cols;
    let column = i / p.cols % p.width;
    let line = i / p.cols / p.width;
    let top = (line * 4u * p.width + column * 2u) * p.row + c;
    let bottom = top + p.width * 2u * p.row;
    y[i] = max(max(x[top], x[top + p.row]), max(x[bottom], x[bottom + p.row]));
}
