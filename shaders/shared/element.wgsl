// What a row consists of: vec4s, or with VEC 1 single values; and the sum of one.
#if VEC == 4
alias Element = vec4<f32>;
fn total(v: vec4<f32>) -> f32 {
    return dot(v, vec4<f32>(1.0));
}
#else
alias Element = f32;
fn total(v: f32) -> f32 {
    return v;
}
#endif
