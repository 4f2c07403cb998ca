//! Quants of a few bits in words, so that a shift and a mask make four bytes of four neighbours.

/// `BITS` (1, 2 or 4) of each quant, from its bit `shift` on, `32 / BITS` quants to a word: byte `b` of a word has
/// elements `b`, `b + 4`, `b + 8` and so on, from its low end up.
pub(super) fn plane<const BITS: usize>(quants: &[u8], shift: u32) -> impl Iterator<Item = u32> {
    let place = move |(i, q): (usize, &u8)| (u32::from(q >> shift) & mask::<BITS>()) << (i % 4 * 8 + i / 4 * BITS);
    quants.chunks(32 / BITS).map(move |chunk| chunk.iter().enumerate().map(place).fold(0, |word, q| word | q))
}

/// The bits of quant `i` in words made by [`plane`].
pub(super) fn bits<const BITS: usize>(words: &[u32], i: usize) -> u8 {
    let (word, i) = (words[i * BITS / 32], i % (32 / BITS));
    (word >> (i % 4 * 8 + i / 4 * BITS) & mask::<BITS>()) as u8
}

const fn mask<const BITS: usize>() -> u32 {
    (1 << BITS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_and_a_mask_give_four_neighbours() {
        let quants: Vec<u8> = (0..64).map(|i| (i * 37 % 64) as u8).collect();
        let (low, one, two): (Vec<u32>, Vec<u32>, Vec<u32>) =
            (plane::<4>(&quants, 0).collect(), plane::<1>(&quants, 4).collect(), plane::<2>(&quants, 4).collect());
        assert_eq!((low.len(), one.len(), two.len()), (8, 2, 4));
        for (i, four) in quants.chunks(4).enumerate() {
            // As the shaders read them.
            let low = low[i / 2] >> (i % 2 * 4) & 0x0f0f_0f0f;
            let two = two[i / 4] >> (i % 4 * 2) & 0x0303_0303;
            let one = one[i / 8] >> (i % 8) & 0x0101_0101;
            assert_eq!((low | two << 4).to_le_bytes(), four);
            assert_eq!((low | one << 4).to_le_bytes(), [four[0] & 31, four[1] & 31, four[2] & 31, four[3] & 31]);
        }
        for (i, q) in quants.iter().enumerate() {
            assert_eq!(bits::<4>(&low, i) | bits::<2>(&two, i) << 4, *q);
            assert_eq!(bits::<1>(&one, i), q >> 4 & 1);
        }
    }
}
