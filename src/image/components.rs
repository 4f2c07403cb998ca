//! 8-connected components, and what SAM 2 does with small ones.

use super::Mask;
use crate::error::Result;

/// The 8-connected components of a mask, as runs of pixels.
pub struct Components {
    /// `(row, start, end exclusive, component)`, row by row.
    runs: Vec<(usize, usize, usize, usize)>,
    areas: Vec<u64>,
}

impl Components {
    /// Finds the components of the set pixels. They are numbered in the order of their first pixel, row by row.
    pub fn of(mask: &Mask) -> Self {
        let mut runs: Vec<(usize, usize, usize, usize)> = Vec::new();
        let mut parent: Vec<usize> = Vec::new();
        let mut above = 0..0;
        for y in 0..mask.height() {
            let first = runs.len();
            let mut up = above.start;
            for (start, end) in mask.runs(y) {
                let me = parent.len();
                parent.push(me);
                runs.push((y, start, end, me));
                // Runs of the row above that touch this one, corners included. The last of them may touch the next.
                while up < above.end && runs[up].2 < start {
                    up += 1;
                }
                let mut touching = up;
                while touching < above.end && runs[touching].1 <= end {
                    union(&mut parent, runs[touching].3, me);
                    touching += 1;
                }
            }
            above = first..runs.len();
        }
        // A root is the earliest run of its component, so numbers come in order.
        let mut number = vec![usize::MAX; parent.len()];
        let mut areas: Vec<u64> = Vec::new();
        for run in &mut runs {
            let root = find(&mut parent, run.3);
            if number[root] == usize::MAX {
                number[root] = areas.len();
                areas.push(0);
            }
            run.3 = number[root];
            areas[run.3] += (run.2 - run.1) as u64;
        }
        Self { runs, areas }
    }

    /// The number of pixels of each component.
    pub fn areas(&self) -> &[u64] {
        &self.areas
    }

    /// The runs of pixels of the components that `wanted` picks: `(y, start, end)`, `end` exclusive.
    pub fn runs(&self, wanted: impl Fn(usize) -> bool) -> impl Iterator<Item = (usize, usize, usize)> {
        self.runs.iter().filter(move |r| wanted(r.3)).map(|r| (r.0, r.1, r.2))
    }
}

fn find(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

fn union(parent: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(parent, a), find(parent, b));
    parent[a.max(b)] = a.min(b);
}

/// Fills small holes and drops small sprinkles in mask logits `(h, w)`, as `SAM2Transforms.postprocess_masks` does on
/// the low-resolution logits before it enlarges them. Areas are in pixels of these logits; 0 switches a step off.
///
/// A hole is an 8-connected component of `logit <= threshold` of at most `max_hole_area` pixels, wherever it lies (at
/// the border too); it becomes `threshold + 10`. A sprinkle is one of `logit > threshold` of at most
/// `max_sprinkle_area`; it becomes `threshold - 10`. Both are looked for in the logits as given: a sprinkle in a hole
/// that was filled is still a sprinkle. The reference skips all this without CUDA; here it is done everywhere.
///
/// # Errors
/// `Argument` if a side is 0, `Shape` if there are not `w * h` logits.
pub fn fill_holes_and_sprinkles(
    logits: &mut [f32],
    w: usize,
    h: usize,
    threshold: f32,
    max_hole_area: u64,
    max_sprinkle_area: u64,
) -> Result<()> {
    let holes = Mask::from_fn_of(logits, w, h, |v| v <= threshold)?;
    let sprinkles = Mask::from_fn_of(logits, w, h, |v| v > threshold)?;
    replace_small(logits, &holes, max_hole_area, threshold + 10.0);
    replace_small(logits, &sprinkles, max_sprinkle_area, threshold - 10.0);
    Ok(())
}

/// Fills small holes in mask logits `(h, w)`, as `fill_holes_in_mask_scores` does for video: 8-connected components of
/// `logit <= 0` of at most `max_area` pixels become 0.1. An area of 0 changes nothing.
///
/// # Errors
/// `Argument` if a side is 0, `Shape` if there are not `w * h` logits.
pub fn fill_holes(logits: &mut [f32], w: usize, h: usize, max_area: u64) -> Result<()> {
    let holes = Mask::from_fn_of(logits, w, h, |v| v <= 0.0)?;
    replace_small(logits, &holes, max_area, 0.1);
    Ok(())
}

fn replace_small(logits: &mut [f32], of: &Mask, max_area: u64, value: f32) {
    if max_area == 0 {
        return;
    }
    let components = Components::of(of);
    for (y, start, end) in components.runs(|c| components.areas[c] <= max_area) {
        logits[y * of.width()..][start..end].fill(value);
    }
}

/// What [`remove_small_regions`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regions {
    /// Components of the background become foreground.
    Holes,
    /// Components of the foreground become background; the largest stays, whatever its size.
    Islands,
}

/// Removes 8-connected regions of less than `area` pixels from a mask, as `remove_small_regions` of
/// `sam2/utils/amg.py`; says whether it changed.
pub fn remove_small_regions(mask: &mut Mask, area: u64, regions: Regions) -> bool {
    let components = match regions {
        Regions::Holes => Components::of(&inverted(mask)),
        Regions::Islands => Components::of(mask),
    };
    let areas = components.areas();
    // The first of the largest, as argmax.
    let largest = (0..areas.len()).rev().max_by_key(|c| areas[*c]);
    let kept = (regions == Regions::Islands && areas.iter().all(|a| *a < area)).then_some(largest).flatten();
    let mut changed = false;
    for (y, start, end) in components.runs(|c| areas[c] < area && Some(c) != kept) {
        for x in start..end {
            mask.set(x, y, regions == Regions::Holes);
        }
        changed = true;
    }
    changed
}

fn inverted(mask: &Mask) -> Mask {
    let mut out = mask.clone();
    let last = u64::MAX >> (63 - (mask.width() - 1) % 64);
    for y in 0..mask.height() {
        let row = out.row_mut(y);
        row.iter_mut().for_each(|w| *w = !*w);
        if let Some(w) = row.last_mut() {
            *w &= last;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    #[test]
    fn postprocessing_is_that_of_sam2() {
        let fixture = Fixture::open("image/components.safetensors");
        for i in 0..5 {
            let (shape, logits) = fixture.f32(&format!("{i}.logits"));
            let (h, w) = (shape[0], shape[1]);
            let (_, args) = fixture.f32(&format!("{i}.args"));
            let (hole, sprinkle) = (args[1] as u64, args[2] as u64);

            let mut got = logits.clone();
            fill_holes_and_sprinkles(&mut got, w, h, args[0], hole, sprinkle).unwrap();
            assert_ne!(got, logits, "{i} shows nothing");
            assert_eq!(got, fixture.f32(&format!("{i}.image")).1, "{i}");

            let mut got = logits.clone();
            fill_holes(&mut got, w, h, hole).unwrap();
            assert_eq!(got, fixture.f32(&format!("{i}.video")).1, "{i}");

            for (name, regions) in [("holes", Regions::Holes), ("islands", Regions::Islands)] {
                for area in [4, 10000] {
                    let before = Mask::from_logits(&logits, w, h, args[0]).unwrap();
                    let mut mask = before.clone();
                    assert_eq!(remove_small_regions(&mut mask, area, regions), mask != before);
                    assert_eq!(mask.to_bytes(1), fixture.u8(&format!("{i}.{name}{area}")).1, "{i} {name} {area}");
                }
            }
        }
    }

    #[test]
    fn areas_are_inclusive_and_nan_is_neither() {
        // A hole of 2 pixels joined by a corner; a NaN separates nothing and is left alone.
        let given = [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, -3.0, f32::NAN];
        let mut logits = given;
        fill_holes_and_sprinkles(&mut logits, 4, 3, 0.0, 1, 0).unwrap();
        assert_eq!((logits[5], logits[10]), (0.0, -3.0));
        fill_holes_and_sprinkles(&mut logits, 4, 3, 0.0, 2, 0).unwrap();
        assert_eq!((logits[5], logits[10]), (10.0, 10.0));
        assert!(logits[11].is_nan());
        assert!(fill_holes(&mut logits, 4, 4, 2).is_err());
    }

    proptest::proptest! {
        #[test]
        fn components_are_those_of_a_flood_fill(w in 1usize..140, h in 1usize..20, density in 1u64..=7, seed: u64) {
            let set = |i: usize| (i as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61 < density;
            let bits: Vec<bool> = (0..w * h).map(set).collect();
            let found = Components::of(&Mask::from_fn_of(&bits, w, h, |b| b).unwrap());
            let mut label = vec![usize::MAX; w * h];
            for &(y, start, end, c) in &found.runs {
                label[y * w + start..y * w + end].fill(c);
            }
            let mut seen = vec![false; w * h];
            let mut next = 0;
            for i in 0..w * h {
                if !bits[i] || seen[i] {
                    assert_eq!(bits[i], label[i] != usize::MAX);
                    continue;
                }
                let (mut stack, mut area) = (vec![i], 0);
                seen[i] = true;
                while let Some(j) = stack.pop() {
                    area += 1;
                    assert_eq!(label[j], next);
                    let (x, y) = (j % w, j / w);
                    for ny in y.saturating_sub(1)..(y + 2).min(h) {
                        for nx in x.saturating_sub(1)..(x + 2).min(w) {
                            let n = ny * w + nx;
                            if bits[n] && !seen[n] {
                                seen[n] = true;
                                stack.push(n);
                            }
                        }
                    }
                }
                assert_eq!(found.areas()[next], area);
                next += 1;
            }
            assert_eq!(found.areas().len(), next);
        }
    }
}
