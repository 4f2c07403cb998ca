// Loads of 64 bits, for CPUs: lavapipe takes as long for an element of 64 bits as for one of 32.
// Four f32 that came as two.
fn floats(v: vec2<u64>) -> vec4<f32> {
    let low = bitcast<vec2<f32>>(vec2<u32>(v));
    let high = bitcast<vec2<f32>>(vec2<u32>(v >> vec2<u32>(32u)));
    return vec4<f32>(low.x, high.x, low.y, high.y);
}
