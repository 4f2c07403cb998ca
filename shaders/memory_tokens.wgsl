// What frames attend to, gathered from the bank: memories, then the tokens of object pointers.
// bank: (slots, cells, dim); places: (n, memories, 2), a slot of the bank and a row of `times`; space: (cells, dim);
// times: (ages, dim); pointers: (n, tokens of them, 2, dim), values then keys.
// values, keys: (n, tokens, dim); keys are values with their positions. Floor: 12 bytes an element. In vec4s.
struct Params {
    base: vec4<u32>,
    count: u32,      // of values
    tokens: u32,     // of an object
    memories: u32,
    cells: u32,
    width: u32,      // of a cell
    slots: u32,
    ages: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bank: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> places: array<f32>;
@group(0) @binding(3) var<storage, read> space: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> times: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> pointers: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> values: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> keys: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (wid.x + p.base.x) * 64u + lane;
    if i >= p.count {
        return;
    }
    let c = i % p.width;
    let row = i / p.width;
    let n = row / p.tokens;
    let token = row % p.tokens;
    let spatial = p.memories * p.cells;
    if token < spatial {
        let place = 2u * (n * p.memories + token / p.cells);
        let cell = token % p.cells;
        let slot = min(u32(places[place]), p.slots - 1u);
        let age = min(u32(places[place + 1u]), p.ages - 1u);
        let v = bank[(slot * p.cells + cell) * p.width + c];
        values[i] = v;
        keys[i] = v + (space[cell * p.width + c] + times[age * p.width + c]);
    } else {
        let at = (n * (p.tokens - spatial) + token - spatial) * 2u * p.width + c;
        values[i] = pointers[at];
        keys[i] = pointers[at + p.width];
    }
}
