// Reads weights `w` as f32. W 0 f32, 1 f16 pairs, 2 q8 (quants four to a word; from word p.scales on one f16
// scale for 32 quants, two to a word), 3 q4, 4 q4k (quants eight to a word: `DType` in shape.rs has the layouts).
// With VEC_K, `w` of f32 and f16 is an array of four elements; else of single words.
#if W == 4
// d s and e t of part i of 32 elements. Both are exact in f32: 11 by 6 bits.
fn part(i: u32) -> vec2<f32> {
    let st = w[p.scales + (i >> 1u)] >> ((i & 1u) * 16u);
    let de = unpack2x16float(w[p.scales + (p.scales >> 3u) + (i >> 3u)]);
    return de * vec2<f32>(f32(st & 0xffu), f32((st >> 8u) & 0xffu));
}
#endif

#if VEC_K
// Elements 4i .. 4i+3.
fn weight4(i: u32) -> vec4<f32> {
#if W >= 3
    let quants = vec4<f32>(unpack4xU8((w[i >> 1u] >> ((i & 1u) * 4u)) & 0x0f0f0f0fu));
#if W == 4
    let st = part(i >> 3u);
    return st.x * quants - st.y;
#else
    let pair = unpack2x16float(w[p.scales + (i >> 4u)]);
    return (quants - 8.0) * select(pair.x, pair.y, (i & 8u) != 0u);
#endif
#elif W == 2
    let pair = unpack2x16float(w[p.scales + (i >> 4u)]);
    return vec4<f32>(unpack4xI8(w[i])) * select(pair.x, pair.y, (i & 8u) != 0u);
#elif W == 1
#if INT64
    let halves = vec2<u32>(u32(w[i]), u32(w[i] >> 32u));
#else
    let halves = w[i];
#endif
    return vec4<f32>(unpack2x16float(halves.x), unpack2x16float(halves.y));
#elif INT64
    return floats(w[i]);
#else
    return w[i];
#endif
}
#else
// Element i.
fn weight1(i: u32) -> f32 {
#if W >= 3
    let quant = f32((w[i >> 3u] >> ((i & 3u) * 8u + (i & 4u))) & 15u);
#if W == 4
    let st = part(i >> 5u);
    return st.x * quant - st.y;
#else
    let pair = unpack2x16float(w[p.scales + (i >> 6u)]);
    return (quant - 8.0) * select(pair.x, pair.y, (i & 32u) != 0u);
#endif
#elif W == 2
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
