//! From impasto's layouts to those of other libraries.

/// `(a, b, c)` to `(a, c, b)`, row-major: `rows` matrices `(b, c)` transposed, for libraries of other layouts.
pub(super) fn transposed(values: &[f32], b: usize, c: usize) -> Vec<f32> {
    let one =
        |m: &[f32]| (0..c).flat_map(|j| (0..b).map(move |i| (i, j))).map(|(i, j)| m[i * c + j]).collect::<Vec<_>>();
    values.chunks(b * c).flat_map(one).collect()
}

/// `(batch, tokens, heads, width)` to `(batch, heads, tokens, width)`; swap `tokens` and `heads` to go back.
pub(super) fn heads_first(values: &[f32], tokens: usize, heads: usize, width: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(values.len());
    for one in values.chunks(tokens * heads * width) {
        for (h, t) in (0..heads * tokens).map(|i| (i / tokens, i % tokens)) {
            y.extend(&one[(t * heads + h) * width..][..width]);
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_go_there_and_back() {
        let values: Vec<f32> = (0..2 * 3 * 4 * 5).map(|i| i as f32).collect();
        assert_eq!(transposed(&values[..6], 2, 3), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transposed(&transposed(&values, 12, 5), 5, 12), values);
        assert_eq!(heads_first(&heads_first(&values, 3, 4, 5), 4, 3, 5), values);
    }
}
