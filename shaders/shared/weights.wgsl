// Reads weights `w` as f32. W 0 f32, 1 f16 pairs, 2 q8 (quants four to a word; from word p.scales on one f16
// scale for 32 quants, two to a word), 3 q4, 4 q4k, 5 q5, 6 q5k, 7 q6k (low halves of quants eight to a word, then the rest
// of each, then scales: `DType` in shape.rs has the layouts). For 3 and more p.scales is the word behind the low halves.
// With VEC_K, `w` of f32 and f16 is an array of four elements; else of single words.
#if W == 4 || W == 6
// d s and e t of part i of 32 elements. Both are exact in f32: 11 by 6 bits.
fn part(i: u32) -> vec2<f32> {
#if W == 6
    let scales = p.scales + (p.scales >> 2u);
#else
    let scales = p.scales;
#endif
    let st = w[scales + (i >> 1u)] >> ((i & 1u) * 16u);
    let de = unpack2x16float(w[scales + (p.scales >> 3u) + (i >> 3u)]);
    return de * vec2<f32>(f32(st & 0xffu), f32((st >> 8u) & 0xffu));
}
#endif

#if W == 5
// d and m of block i of 32 elements.
fn part(i: u32) -> vec2<f32> {
    return unpack2x16float(w[p.scales + (p.scales >> 2u) + i]);
}
#endif
#if W == 7
// d s of part i of 16 elements: exact, 11 by 7 bits.
fn part(i: u32) -> f32 {
    let scales = p.scales + (p.scales >> 1u);
    let s = unpack4xI8(w[scales + (i >> 2u)])[i & 3u];
    let d = unpack2x16float(w[scales + (p.scales >> 3u) + (i >> 5u)]);
    return f32(s) * select(d.x, d.y, (i & 16u) != 0u);
}
#endif

#if VEC_K
// Elements 4i .. 4i+3.
fn weight4(i: u32) -> vec4<f32> {
#if W >= 3
    let low = (w[i >> 1u] >> ((i & 1u) * 4u)) & 0x0f0f0f0fu;
#if W == 5 || W == 6
    let bits = low | (((w[p.scales + (i >> 3u)] >> (i & 7u)) & 0x01010101u) << 4u);
#elif W == 7
    let bits = low | (((w[p.scales + (i >> 2u)] >> ((i & 3u) * 2u)) & 0x03030303u) << 4u);
#else
    let bits = low;
#endif
    let quants = vec4<f32>(unpack4xU8(bits));
#if W == 4 || W == 6
    let st = part(i >> 3u);
    return st.x * quants - st.y;
#elif W == 5
    let dm = part(i >> 3u);
    return dm.x * quants + dm.y;
#elif W == 7
    return part(i >> 2u) * (quants - 32.0);
#else
    let pair = unpack2x16float(w[p.scales + (i >> 4u)]);
    return (quants - 8.0) * select(pair.x, pair.y, (i & 8u) != 0u);
#endif
#elif W == 2
    let pair = unpack2x16float(w[p.scales + (i >> 4u)]);
    return vec4<f32>(unpack4xI8(w[i])) * select(pair.x, pair.y, (i & 8u) != 0u);
#elif W == 1
#if INT64
    return halves(w[i]);
#else
    return vec4<f32>(unpack2x16float(w[i].x), unpack2x16float(w[i].y));
#endif
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
    let low = (w[i >> 3u] >> ((i & 3u) * 8u + (i & 4u))) & 15u;
#if W == 5 || W == 6
    let quant = f32(low | (((w[p.scales + (i >> 5u)] >> ((i & 3u) * 8u + ((i >> 2u) & 7u))) & 1u) << 4u));
#elif W == 7
    let quant = f32(low | (((w[p.scales + (i >> 4u)] >> ((i & 3u) * 8u + ((i >> 2u) & 3u) * 2u)) & 3u) << 4u));
#else
    let quant = f32(low);
#endif
#if W == 4 || W == 6
    let st = part(i >> 5u);
    return st.x * quant - st.y;
#elif W == 5
    let dm = part(i >> 5u);
    return dm.x * quant + dm.y;
#elif W == 7
    return part(i >> 4u) * (quant - 32.0);
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
