// Loads and stores of 64 bits, for CPUs: lavapipe takes as long for an element of 64 bits as for one of 32.
// Four f32 that came as two.
fn floats(v: vec2<u64>) -> vec4<f32> {
    let low = bitcast<vec2<f32>>(vec2<u32>(v));
    let high = bitcast<vec2<f32>>(vec2<u32>(v >> vec2<u32>(32u)));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}

// Back.
fn pairs(v: vec4<f32>) -> vec2<u64> {
    let low = vec2<u64>(bitcast<vec2<u32>>(v.xz));
    let high = vec2<u64>(bitcast<vec2<u32>>(v.yw));
    return low | (high << vec2<u32>(32u));
}

// Four f16.
fn halves(v: u64) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(u32(v)), unpack2x16float(u32(v >> 32u)));
}
