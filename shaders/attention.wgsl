// Attention, softmax(scale q k^T) v, in one pass over the keys (online softmax): no score matrix in memory.
// q, k, v: rows of a head's width, anywhere (offset, batch, row and head strides, counted in vec4s)
// y: (batch, queries, heads * width), or with SPLIT the partial results that attention_merge combines:
//    (split, batch, queries, heads, width + 4), each row the sum of weighted v, then (m, l, 0, 0)
//
// This file: operands and where a workgroup works. The loops: attention_tile.wgsl (workgroup memory, TILE) and
// attention_lane.wgsl (no barrier). Workgroup (x, y, z): block of queries, head, (batch, window or split).
//
// Scores are in log2 units (scale * log2 e is folded into q), so that weights are exp2(score - m). A key beyond the
// end scores NEVER, which is finite: no infinity can meet another.
//
// WINDOW: keys and queries are those of one window of a grid, found by index arithmetic; the queries' grid is POOL
// times coarser. A window over the grid's edge meets PADDED keys (PAD): they count, with k and v from `pad`.
struct Params {
    base: vec4<u32>,
    // offset, batch, row, head
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    batch: u32,
    heads: u32,
    // of one batch element or window
    queries: u32,
    keys: u32,
    // of one batch element
    tokens: u32,
    scale: f32,
    splits: u32,
    split_keys: u32,
    // (x, y)
    grid: vec2<u32>,
    windows: vec2<u32>,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
#if PAD
@group(0) @binding(4) var<storage, read> pad: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
#else
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
#endif

const NEVER: f32 = -1.7e38;
const NOWHERE: u32 = 0xffffffffu;

struct Place {
    batch: u32,
    head: u32,
    split: u32,
    // The window, in windows.
    window: vec2<u32>,
    // The keys of this workgroup.
    first: u32,
    end: u32,
}

fn place(id: vec3<u32>) -> Place {
    var at: Place;
    at.head = id.y;
    at.end = p.keys;
#if WINDOW
    let count = p.windows.x * p.windows.y;
    at.batch = id.z / count;
    let w = id.z % count;
    at.window = vec2(w % p.windows.x, w / p.windows.x);
#elif SPLIT
    at.batch = id.z / p.splits;
    at.split = id.z % p.splits;
    at.first = at.split * p.split_keys;
    at.end = min(p.keys, at.first + p.split_keys);
#else
    at.batch = id.z;
#endif
    return at;
}

// The token of query t, or NOWHERE if there is none.
fn query_token(at: Place, t: u32) -> u32 {
    if t >= p.queries {
        return NOWHERE;
    }
#if WINDOW
#define SIDE WINDOW / POOL
    let xy = at.window * #{SIDE}u + vec2(t % #{SIDE}u, t / #{SIDE}u);
    let size = p.grid / #{POOL}u;
    if xy.x >= size.x || xy.y >= size.y {
        return NOWHERE;
    }
    return xy.y * size.x + xy.x;
#else
    return t;
#endif
}

// The token of key t < p.keys, or NOWHERE for a padded one.
fn key_token(at: Place, t: u32) -> u32 {
#if WINDOW
    let xy = at.window * #{WINDOW}u + vec2(t % #{WINDOW}u, t / #{WINDOW}u);
#if PAD
    if xy.x >= p.grid.x || xy.y >= p.grid.y {
        return NOWHERE;
    }
#endif
    return xy.y * p.grid.x + xy.x;
#else
    return t;
#endif
}

// Four elements of a query, scaled; zero where there is no query.
fn load_q(at: Place, token: u32, i: u32) -> vec4<f32> {
    if token == NOWHERE {
        return vec4(0.0);
    }
    return q[p.q.x + at.batch * p.q.y + token * p.q.z + at.head * p.q.w + i] * p.scale;
}

fn load_k(at: Place, token: u32, i: u32) -> vec4<f32> {
    let h = p.k.x + at.head * p.k.w + i;
#if PAD
    if token == NOWHERE {
        return pad[h];
    }
#endif
    return k[h + at.batch * p.k.y + token * p.k.z];
}

fn load_v(at: Place, token: u32, i: u32) -> vec4<f32> {
    let h = p.v.x + at.head * p.v.w + i;
#if PAD
    if token == NOWHERE {
        return pad[h];
    }
#endif
    return v[h + at.batch * p.v.y + token * p.v.z];
}

// exp2 of a difference from a maximum. Below 2^-126 nothing is left of a weight, and drivers differ.
fn weight(x: f32) -> f32 {
    return exp2(max(x, -126.0));
}

// Where the result of a query starts.
fn row_of(at: Place, token: u32) -> u32 {
#if SPLIT
    return (((at.split * p.batch + at.batch) * p.tokens + token) * p.heads + at.head) * #{D4 + 1}u;
#else
    return ((at.batch * p.tokens + token) * p.heads + at.head) * #{D4}u;
#endif
}
