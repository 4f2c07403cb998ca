// Statistics of upsampled masks without writing them: how many pixels of the bilinear upsampling (as torch,
// align_corners=False) of logits to out_height x out_width exceed three levels, and the box of those above the middle one.
// logits: (masks, height, width); result: (masks, 8) u32: above + offset, above - offset, above, xmin, ymin, xmax, ymax, 0.
//
// Output pixels that sample the same four logits form a cell. Within a cell no value leaves the range of the four,
// so where that range does not meet the levels the whole cell counts at once; only the cells on a contour are sampled.
// STAGE 0 makes partial results of bands of ROWS cell rows, STAGE 1 reduces them: integers, so any order gives the same.
struct Params {
    base: vec4<u32>,
    masks: u32,
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    bands: u32,
    scale_y: f32,     // in / out, rounded as torch does
    scale_x: f32,
    high: f32,        // threshold + offset
    low: f32,         // threshold - offset
    threshold: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
#if STAGE == 1
@group(0) @binding(1) var<storage, read> partial: array<u32>;
@group(0) @binding(2) var<storage, read_write> stats: array<u32>;

// One number of one mask an invocation.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.masks * 8u {
        return;
    }
    let kind = i % 8u;
    let first = i / 8u * p.bands * 8u + kind;
    var value = partial[first];
    for (var band = 1u; band < p.bands; band++) {
        let other = partial[first + band * 8u];
        if kind == 3u || kind == 4u {
            value = min(value, other);
        } else if kind == 5u || kind == 6u {
            value = max(value, other);
        } else {
            value += other;
        }
    }
    stats[i] = value;
}
#else
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> partial: array<u32>;

// Where an output row or column samples, in input pixels.
fn source(d: u32, scale: f32) -> f32 {
    return max((f32(d) + 0.5) * scale - 0.5, 0.0);
}

// The first of `size` output pixels that samples at `cell` (of `cells`) or after it. The estimate may be off by a
// rounding; the loops make it agree with source() exactly.
fn first_of(cell: u32, cells: u32, scale: f32, size: u32) -> u32 {
    if cell == 0u {
        return 0u;
    }
    if cell >= cells {
        return size;
    }
    var d = min(u32(max((f32(cell) + 0.5) / scale - 0.5, 0.0)), size);
    while d > 0u && source(d - 1u, scale) >= f32(cell) {
        d--;
    }
    while d < size && source(d, scale) < f32(cell) {
        d++;
    }
    return d;
}

struct Stats { above: vec3<u32>, low: vec2<u32>, high: vec2<u32> }

// The four logits of a cell.
fn corners(image: u32, cy: u32, cx: u32) -> vec4<f32> {
    let top = image + cy * p.width;
    let bottom = image + min(cy + 1u, p.height - 1u) * p.width;
    let right = min(cx + 1u, p.width - 1u);
    return vec4(logits[top + cx], logits[top + right], logits[bottom + cx], logits[bottom + right]);
}

// 0: on a contour; 1: no pixel above any level; 2: all above all.
fn side(v: vec4<f32>) -> u32 {
    let low = min(min(v.x, v.y), min(v.z, v.w));
    let high = max(max(v.x, v.y), max(v.z, v.w));
    // Interpolation rounds: a few units in the last place beyond the range.
    let slack = max(abs(low), abs(high)) * 1e-6;
    return select(select(0u, 1u, high + slack <= p.low), 2u, low - slack > p.high);
}

// Adds pixels x0 .. x1 of rows y0 .. y1, all above all levels.
fn add_all(s: Stats, x0: u32, x1: u32, y0: u32, y1: u32) -> Stats {
    if x0 >= x1 || y0 >= y1 {
        return s;
    }
    return Stats(s.above + (x1 - x0) * (y1 - y0), min(s.low, vec2(x0, y0)), max(s.high, vec2(x1, y1) - 1u));
}

// Samples pixels x0 .. x1 of one row, torch's order of operations.
fn add_row(s: Stats, v: vec4<f32>, cx: u32, cy: u32, x0: u32, x1: u32, dy: u32) -> Stats {
    let t = clamp(source(dy, p.scale_y) - f32(cy), 0.0, 1.0);
    var r = s;
    for (var dx = x0; dx < x1; dx++) {
        let u = clamp(source(dx, p.scale_x) - f32(cx), 0.0, 1.0);
        let value = (v.x * (1.0 - u) + v.y * u) * (1.0 - t) + (v.z * (1.0 - u) + v.w * u) * t;
        r.above += vec3<u32>(vec3(value) > vec3(p.high, p.low, p.threshold));
        if value > p.threshold {
            r.low = min(r.low, vec2(dx, dy));
            r.high = max(r.high, vec2(dx, dy));
        }
    }
    return r;
}

#if THREADS > 1
var<workgroup> sh_stats: array<atomic<u32>, 8>;
var<workgroup> sh_contour: array<u32, #{THREADS * 8}>;
var<workgroup> sh_count: atomic<u32>;

// A workgroup takes a band: it sorts the cells, and then shares the rows of those on a contour.
@compute @workgroup_size(#{THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let band = wid.x + p.base.x;
    let mask = wid.y + p.base.y;
    let image = mask * p.height * p.width;
    var s = Stats(vec3<u32>(), vec2(p.out_width, p.out_height), vec2<u32>());
    let first_cell = band * #{ROWS}u * p.width;
    let cells = min((band + 1u) * #{ROWS}u, p.height) * p.width - first_cell;
    // A cell is at most this high: the first one is half a cell higher than the others.
    let most = u32(1.5 / p.scale_y) + 2u;
    if lane < 8u {
        atomicStore(&sh_stats[lane], select(0u, 0xffffffffu, lane == 3u || lane == 4u));
    }
    for (var start = 0u; start < cells; start += #{THREADS * 8}u) {
        if lane == 0u {
            atomicStore(&sh_count, 0u);
        }
        workgroupBarrier();
        for (var i = start + lane; i < min(start + #{THREADS * 8}u, cells); i += #{THREADS}u) {
            let cell = first_cell + i;
            let cy = cell / p.width;
            let cx = cell % p.width;
            let kind = side(corners(image, cy, cx));
            if kind == 0u {
                sh_contour[atomicAdd(&sh_count, 1u)] = cell;
            } else if kind == 2u {
                s = add_all(s, first_of(cx, p.width, p.scale_x, p.out_width),
                    first_of(cx + 1u, p.width, p.scale_x, p.out_width),
                    first_of(cy, p.height, p.scale_y, p.out_height),
                    first_of(cy + 1u, p.height, p.scale_y, p.out_height));
            }
        }
        workgroupBarrier();
        let rows = atomicLoad(&sh_count) * most;
        for (var i = lane; i < rows; i += #{THREADS}u) {
            let cell = sh_contour[i / most];
            let cy = cell / p.width;
            let cx = cell % p.width;
            let dy = first_of(cy, p.height, p.scale_y, p.out_height) + i % most;
            if dy < first_of(cy + 1u, p.height, p.scale_y, p.out_height) {
                s = add_row(s, corners(image, cy, cx), cx, cy, first_of(cx, p.width, p.scale_x, p.out_width),
                    first_of(cx + 1u, p.width, p.scale_x, p.out_width), dy);
            }
        }
        workgroupBarrier();
    }
#for k in 0..3
    atomicAdd(&sh_stats[#{k}], s.above[#{k}]);
#endfor
#for k in 0..2
    atomicMin(&sh_stats[#{3 + k}], s.low[#{k}]);
    atomicMax(&sh_stats[#{5 + k}], s.high[#{k}]);
#endfor
    workgroupBarrier();
    if lane < 8u {
        partial[(mask * p.bands + band) * 8u + lane] = atomicLoad(&sh_stats[lane]);
    }
}
#else
// An invocation takes a cell row.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.masks * p.bands {
        return;
    }
    let image = i / p.bands * p.height * p.width;
    let cy = i % p.bands;
    let y0 = first_of(cy, p.height, p.scale_y, p.out_height);
    let y1 = first_of(cy + 1u, p.height, p.scale_y, p.out_height);
    var s = Stats(vec3<u32>(), vec2(p.out_width, p.out_height), vec2<u32>());
    var x1 = 0u;
    for (var cx = 0u; cx < p.width; cx++) {
        let x0 = x1;
        x1 = first_of(cx + 1u, p.width, p.scale_x, p.out_width);
        let v = corners(image, cy, cx);
        let kind = side(v);
        if kind == 2u {
            s = add_all(s, x0, x1, y0, y1);
        } else if kind == 0u {
            for (var dy = y0; dy < y1; dy++) {
                s = add_row(s, v, cx, cy, x0, x1, dy);
            }
        }
    }
#for k in 0..3
    partial[i * 8u + #{k}u] = s.above[#{k}];
#endfor
#for k in 0..2
    partial[i * 8u + #{3 + k}u] = s.low[#{k}];
    partial[i * 8u + #{5 + k}u] = s.high[#{k}];
#endfor
    partial[i * 8u + 7u] = 0u;
}
#endif
#endif
