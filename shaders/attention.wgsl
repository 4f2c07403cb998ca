// Attention, softmax(scale q k^T) v, in one pass over the keys (online softmax): no score matrix in memory.
// q, k, v: rows of a head's width, anywhere (offset, batch, row and head strides, counted in vec4s); v may be narrower or wider
// y: (batch, queries, heads * width of v), or with SPLIT the partial results that attention_merge combines:
//    (split, batch, queries, heads, width of v + 4), each row the sum of weighted v, then (m, l, 0, 0)
//
// This file: operands and where a workgroup works. The loops: attention_tile.wgsl (workgroup memory, TILE) and
// attention_lane.wgsl (no barrier, LANE). Workgroup (x, y, z): block of queries, head, (batch, window or split).
//
// Scores are in log2 units (`scale` has log2 e in it), so that weights are exp2(score - m). A key beyond the
// end scores NEVER, which is finite: no infinity can meet another. Such keys, and queries beyond the end, are read as
// the last real one: no branch, and no address outside.
//
// WINDOW: keys and queries are those of one window of a grid, found by index arithmetic; the queries' grid is `pool`
// times coarser. A window over the grid's edge has padded keys (PAD), which count, all with the same k and v from `pad`:
// a TILE loads them as NOWHERE keys; a LANE goes through the real ones, and counts the padded ones as one key.
//
// CAUSAL: query t meets the keys up to t; the define is the queries of a workgroup. BIAS is added to scores. SHARE heads
// of q have one head of k and v.
struct Params {
    base: vec4<u32>,
    // offset, batch, row, head
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    batch: u32,
    heads: u32,
    // In vec4s.
    width: u32,
    scale: f32,
    // Of one batch element or window.
    queries: u32,
    keys: u32,
    // Queries of one batch element.
    tokens: u32,
    splits: u32,
    split_keys: u32,
    // Side of a window of keys, of one of queries.
    key_side: u32,
    query_side: u32,
    // Windows of one batch element in x.
    across: u32,
    windows: u32,
    // Inverses of the sides.
    key_inverse: f32,
    query_inverse: f32,
    // Of a head of v and of the result, in vec4s.
    values: u32,
    // (x, y)
    key_grid: vec2<u32>,
    query_grid: vec2<u32>,
    // offset, head, row, batch; in elements
    bias: vec4<u32>,
}
@group(0) @binding(0) var<uniform> p: Params;
#if INT64
#import wide
alias Four = vec2<u64>;
#else
alias Four = vec4<f32>;
fn floats(v: vec4<f32>) -> vec4<f32> {
    return v;
}
#endif
@group(0) @binding(1) var<storage, read> q: array<Four>;
@group(0) @binding(2) var<storage, read> k: array<Four>;
@group(0) @binding(3) var<storage, read> v: array<Four>;
#if PAD
@group(0) @binding(4) var<storage, read> pad: array<Four>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
#elif BIAS
@group(0) @binding(4) var<storage, read> bias: array<f32>;
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
#if LANE && WINDOW
    // Sides of the part of the window that lies on the grid: keys, queries.
    key_part: vec2<u32>,
    query_part: vec2<u32>,
#endif
    // The keys of this workgroup.
    first: u32,
    end: u32,
}

fn place(id: vec3<u32>) -> Place {
    var at: Place;
    at.head = id.y;
    at.end = p.keys;
#if WINDOW
    at.batch = id.z / p.windows;
    let w = id.z % p.windows;
    at.window = vec2(w % p.across, w / p.across);
#if LANE
    at.key_part = min(vec2(p.key_side), p.key_grid - at.window * p.key_side);
    at.query_part = min(vec2(p.query_side), p.query_grid - at.window * p.query_side);
    at.end = at.key_part.x * at.key_part.y;
#endif
#elif SPLIT
    at.batch = id.z / p.splits;
    at.split = id.z % p.splits;
    at.first = at.split * p.split_keys;
    at.end = min(p.keys, at.first + p.split_keys);
#else
    at.batch = id.z;
#endif
#if CAUSAL
    // Not beyond the last query; but one key at least, with which the sums begin: it may be masked.
    at.end = max(at.first + 1u, min(at.end, (id.x + 1u) * #{CAUSAL}u));
#endif
    return at;
}

// (t % side, t / side): exact for t < 2^20, where half an integer divided by `side` stays off the integers in f32.
fn cell(t: u32, side: u32, inverse: f32) -> vec2<u32> {
    let y = u32((f32(t) + 0.5) * inverse);
    return vec2(t - y * side, y);
}

// The token of query t, or NOWHERE if there is none.
fn query_token(at: Place, t: u32) -> u32 {
#if LANE && WINDOW
    let xy = at.window * p.query_side + cell(t, at.query_part.x, 1.0 / f32(at.query_part.x));
    return select(NOWHERE, xy.y * p.query_grid.x + xy.x, t < at.query_part.x * at.query_part.y);
#elif WINDOW
    let xy = at.window * p.query_side + cell(t, p.query_side, p.query_inverse);
    let inside = (t < p.queries) & all(xy < p.query_grid);
    return select(NOWHERE, xy.y * p.query_grid.x + xy.x, inside);
#else
    return select(NOWHERE, t, t < p.queries);
#endif
}

// The token of key t, or NOWHERE for a padded one.
fn key_token(at: Place, t: u32) -> u32 {
    let real = min(t, at.end - 1u);
#if LANE && WINDOW
    let xy = at.window * p.key_side + cell(real, at.key_part.x, 1.0 / f32(at.key_part.x));
    return xy.y * p.key_grid.x + xy.x;
#elif WINDOW
    let xy = at.window * p.key_side + cell(real, p.key_side, p.key_inverse);
    let token = xy.y * p.key_grid.x + xy.x;
#if PAD
    return select(NOWHERE, token, all(xy < p.key_grid));
#else
    return token;
#endif
#else
    return real;
#endif
}

// Where a head's row of a token starts: of a query that is none, of any other; of a padded key, NOWHERE.
fn query_row(at: Place, token: u32) -> u32 {
    let row = select(token, 0u, token == NOWHERE);
    return p.q.x + at.batch * p.q.y + row * p.q.z + at.head * p.q.w;
}

fn row_of_key(at: Place, token: u32, o: vec4<u32>) -> u32 {
#if SHARE
    let row = o.x + at.batch * o.y + token * o.z + at.head / #{SHARE}u * o.w;
#else
    let row = o.x + at.batch * o.y + token * o.z + at.head * o.w;
#endif
#if PAD && TILE
    return select(row, NOWHERE, token == NOWHERE);
#else
    return row;
#endif
}

fn load_k(at: Place, row: u32, i: u32) -> vec4<f32> {
#if PAD && TILE
    if row == NOWHERE {
        return floats(pad[p.k.x + at.head * p.k.w + i]);
    }
#endif
    return floats(k[row + i]);
}

fn load_v(at: Place, row: u32, i: u32) -> vec4<f32> {
#if PAD && TILE
    if row == NOWHERE {
        return floats(pad[p.v.x + at.head * p.v.w + i]);
    }
#endif
    return floats(v[row + i]);
}

#if CAUSAL || BIAS
// The score of query t and a key, either of which may be beyond the end, from their product.
fn masked_score(at: Place, product: f32, t: u32, key: u32) -> f32 {
#if BIAS
    let b = p.bias.x + at.batch * p.bias.w + at.head * p.bias.y + min(t, p.queries - 1u) * p.bias.z + min(key, at.end - 1u);
    let score = fma(product, p.scale, bias[b] * 1.44269504089);
#else
    let score = product * p.scale;
#endif
#if CAUSAL
    return select(NEVER, score, (key < at.end) & (key <= t));
#else
    return select(NEVER, score, key < at.end);
#endif
}
#endif

// exp2 of a difference from a maximum. Below 2^-100 nothing is left of a weight. Not further: 2^-126 times a value is
// denormal, and costs a CPU a hundred cycles. Windows of 14 were three times slower by their keys beyond the end.
fn weight(x: f32) -> f32 {
    return exp2(max(x, -100.0));
}

// Where the result of a query starts.
fn result_row(at: Place, token: u32) -> u32 {
    let row = select(token, 0u, token == NOWHERE);
#if SPLIT
    return (((at.split * p.batch + at.batch) * p.tokens + row) * p.heads + at.head) * (p.values + 1u);
#else
    return ((at.batch * p.tokens + row) * p.heads + at.head) * p.values;
#endif
}
