// Reads weights `w` as f32. W 0 f32, 1 f16 pairs, 2 q8 (quants four to a word; from word p.scales on one f16
// scale for 32 quants, two to a word). With VEC_K, `w` is an array of four elements; else of single words.
#if VEC_K
// Elements 4i .. 4i+3.
fn weight4(i: u32) -> vec4<f32> {
#if W == 2
    let pair = unpack2x16float(w[p.scales + (i >> 4u)]);
    return vec4<f32>(unpack4xI8(w[i])) * select(pair.x, pair.y, (i & 8u) != 0u);
#elif W == 1
    let halves = w[i];
    return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
#else
    return w[i];
#endif
}
#else
// Element i.
fn weight1(i: u32) -> f32 {
#if W == 2
    let pair = unpack2x16float(w[p.scales + (i >> 6u)]);
    let quants = unpack4xI8(w[i >> 2u]);
    return f32(quants[i & 3u]) * select(pair.x, pair.y, (i & 32u) != 0u);
#elif W == 1
    let pair = unpack2x16float(w[i >> 1u]);
    return select(pair.x, pair.y, (i & 1u) != 0u);
#else
    return w[i];
#endif
}
#endif
