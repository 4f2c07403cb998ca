//! Masks as polygons.

use super::Mask;

/// A closed line along the edges of pixels: filling all contours of a mask by the even-odd rule gives the mask back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contour {
    /// Corners, in pixel corners: pixel `(x, y)` covers `x..x + 1` by `y..y + 1`. Neighbours differ along one axis
    /// only; no corner comes twice.
    pub points: Vec<[u32; 2]>,
    /// Whether this bounds a hole. Outer contours run clockwise on the screen (y down), holes the other way.
    pub hole: bool,
}

impl Contour {
    /// The corners as COCO lists them: `[x0, y0, x1, y1, ...]`.
    pub fn to_flat(&self) -> Vec<u32> {
        self.points.iter().flatten().copied().collect()
    }

    /// The number of pixels inside the line.
    pub fn area(&self) -> u64 {
        self.twice_signed_area().unsigned_abs() / 2
    }

    fn twice_signed_area(&self) -> i64 {
        let next = self.points.iter().cycle().skip(1);
        let cross = |([ax, ay], [bx, by]): (&[u32; 2], &[u32; 2])| {
            i64::from(*ax) * i64::from(*by) - i64::from(*bx) * i64::from(*ay)
        };
        self.points.iter().zip(next).map(cross).sum()
    }
}

/// The outlines of a mask: those of its parts, and those of the holes in them, in the order in which a scan of the
/// rows meets them.
///
/// Lines follow pixel edges exactly and do not touch themselves: where pixels meet at a corner only, the line is split
/// in two there. COCO's polygon form has no holes (readers take the union of all lists), so a mask with holes is
/// written as [`Rle`](super::Rle) when it has to survive that.
pub fn contours(mask: &Mask) -> Vec<Contour> {
    let mut out = Vec::new();
    // Upper edges that are done: every closed line has one.
    let mut done = mask.clone();
    for y in 0..mask.height() {
        done.row_mut(y).fill(0);
    }
    for y in 0..mask.height() {
        for (start, end) in mask.runs(y) {
            for x in start..end {
                let edge = y == 0 || !mask.get(x, y - 1);
                if edge && !done.get(x, y) {
                    split(trace(mask, &mut done, x, y), &mut out);
                }
            }
        }
    }
    out
}

/// Steps right, down, left, up.
const STEPS: [[i64; 2]; 4] = [[1, 0], [0, 1], [-1, 0], [0, -1]];

/// Follows the edge from the upper left corner of pixel `(x, y)` with the mask on the right hand: the corners at which
/// it turns. Where two pixels meet at a corner it turns right and stays with its own.
fn trace(mask: &Mask, done: &mut Mask, x: usize, y: usize) -> Vec<[u32; 2]> {
    let set = |x: i64, y: i64| x >= 0 && y >= 0 && mask.get(x as usize, y as usize);
    let (start, mut at, mut heading) = ([x as i64, y as i64], [x as i64, y as i64], 0);
    let mut points = Vec::new();
    loop {
        if heading == 0 {
            done.set(at[0] as usize, at[1] as usize, true);
        }
        let [dx, dy] = STEPS[heading];
        at = [at[0] + dx, at[1] + dy];
        // The pixels ahead of the corner, on the right (-dy, dx) and on the left (dy, -dx) of the heading.
        let pixel = |side: [i64; 2]| {
            let of = |at: i64, d: i64, s: i64| at + (d + s - 1) / 2;
            set(of(at[0], dx, side[0]), of(at[1], dy, side[1]))
        };
        let turn = if !pixel([-dy, dx]) {
            1
        } else if pixel([dy, -dx]) {
            3
        } else {
            0
        };
        if turn != 0 {
            points.push([at[0] as u32, at[1] as u32]);
            heading = (heading + turn) % 4;
        }
        if at == start && heading == 0 {
            return points;
        }
    }
}

/// Splits a line at corners that it passes twice, so that each part is simple.
fn split(points: Vec<[u32; 2]>, out: &mut Vec<Contour>) {
    let mut seen = std::collections::HashMap::new();
    let mut line: Vec<[u32; 2]> = Vec::new();
    let mut parts = Vec::new();
    for p in points {
        if let Some(first) = seen.insert(p, line.len()) {
            let part = line.split_off(first);
            for q in &part[1..] {
                seen.remove(q);
            }
            seen.insert(p, first);
            parts.push(part);
        }
        line.push(p);
    }
    parts.push(line);
    // The last part holds the first corner that the scan met.
    for points in parts.into_iter().rev() {
        let contour = Contour { points, hole: false };
        let hole = contour.twice_signed_area() < 0;
        out.push(Contour { hole, ..contour });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn mask_of(rows: &[&str]) -> Mask {
        let mut mask = Mask::new(rows[0].len(), rows.len()).unwrap();
        for (y, row) in rows.iter().enumerate() {
            for (x, c) in row.bytes().enumerate() {
                mask.set(x, y, c == b'#');
            }
        }
        mask
    }

    /// Even-odd: a pixel is inside if an odd number of vertical edges lies to its left.
    fn fill(contours: &[Contour], w: usize, h: usize) -> Mask {
        let mut flips = vec![0u32; (w + 1) * h];
        for c in contours {
            for (a, b) in c.points.iter().zip(c.points.iter().cycle().skip(1)) {
                for y in a[1].min(b[1])..a[1].max(b[1]) {
                    flips[y as usize * (w + 1) + a[0] as usize] += 1;
                }
            }
        }
        let mut mask = Mask::new(w, h).unwrap();
        for y in 0..h {
            let mut inside = 0;
            for x in 0..w {
                inside += flips[y * (w + 1) + x];
                mask.set(x, y, inside % 2 == 1);
            }
        }
        mask
    }

    #[test]
    fn shapes_give_their_corners() {
        let square = contours(&mask_of(&["....", ".##.", ".##.", "...."]));
        assert_eq!(square, [Contour { points: vec![[3, 1], [3, 3], [1, 3], [1, 1]], hole: false }]);
        assert_eq!(square[0].to_flat(), [3, 1, 3, 3, 1, 3, 1, 1]);
        assert_eq!(square[0].area(), 4);

        let ring = contours(&mask_of(&["###", "#.#", "###"]));
        assert_eq!(ring.iter().map(|c| (c.hole, c.area())).collect::<Vec<_>>(), [(false, 9), (true, 1)]);
        let corner = contours(&mask_of(&["#.", ".#"]));
        assert_eq!(corner.iter().map(|c| (c.hole, c.area())).collect::<Vec<_>>(), [(false, 1), (false, 1)]);
        // A ring closed by a corner only: one part with one hole, though the line passes that corner twice.
        let pinched = contours(&mask_of(&[".##", "#.#", "###"]));
        assert_eq!(pinched.iter().map(|c| (c.hole, c.area())).collect::<Vec<_>>(), [(false, 8), (true, 1)]);
        assert!(contours(&Mask::new(5, 5).unwrap()).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn filling_gives_the_mask_back(w in 1usize..80, h in 1usize..30, density in 1u64..=8, seed: u64) {
            let set = |i: usize| (i as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61 < density;
            let bits: Vec<bool> = (0..w * h).map(set).collect();
            let mask = Mask::from_fn_of(&bits, w, h, |b| b).unwrap();
            let found = contours(&mask);
            assert_eq!(fill(&found, w, h), mask);
            let (mut inside, mut holes) = (0, 0);
            for c in &found {
                *if c.hole { &mut holes } else { &mut inside } += c.area();
                let points: HashSet<_> = c.points.iter().collect();
                assert_eq!(points.len(), c.points.len(), "a corner comes twice");
                let axes: Vec<_> = c.points.iter().zip(c.points.iter().cycle().skip(1)).map(|(a, b)| {
                    assert!((a[0] == b[0]) != (a[1] == b[1]));
                    a[0] == b[0]
                }).collect();
                assert!(axes.iter().zip(axes.iter().cycle().skip(1)).all(|(a, b)| a != b), "two steps along one axis");
            }
            assert_eq!(inside - holes, mask.area());
        }
    }
}
