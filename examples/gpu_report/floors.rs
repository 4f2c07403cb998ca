//! What must hold, beside "no spill, no scratch": floors of occupancy and of the loops' multiply-adds.

/// A floor for some rows.
#[derive(Debug)]
pub(crate) struct Floor {
    /// `kernel/variant`, or `kernel/` for all of its variants, or empty for all kernels.
    pub(crate) shader: &'static str,
    /// A define that the row has; empty for any.
    pub(crate) with: &'static str,
    /// Defines that it does not have.
    pub(crate) without: &'static [&'static str],
    /// Subgroups per SIMD, by family: polaris10, vega10, navi10, navi21, gfx1100.
    pub(crate) occupancy: [u64; 5],
    /// Share of multiply-adds in every loop.
    pub(crate) share: f64,
    /// How many loops there are at least.
    pub(crate) loops: usize,
}

impl Floor {
    /// Whether the row `FAMILY kernel/variant DEFINES` is meant.
    pub(crate) fn is_for(&self, key: &str) -> bool {
        let mut words = key.split(' ').skip(1);
        let all = self.shader.is_empty() || self.shader.ends_with('/');
        let shader = words.next().is_some_and(|w| w == self.shader || (all && w.starts_with(self.shader)));
        let defines: Vec<&str> = words.collect();
        let with = self.with.is_empty() || defines.contains(&self.with);
        shader && with && !self.without.iter().any(|w| defines.contains(w))
    }
}

/// Defines by which a loop has more to do than to load and multiply: weights to unpack, a last step to guard.
const MORE: &[&str] = &["W", "W=2", "W=3", "W=4", "W=5", "W=6", "W=7", "HALF", "TAIL"];

/// Weights of Q5_K and Q6_K blocks: three or four words to unpack four of them, where Q4_K has two.
const LONG: &[&str] = &["W=6", "W=7"];

/// Shorthand for the table.
const fn floor(shader: &'static str, with: &'static str, occupancy: [u64; 5], share: f64, loops: usize) -> Floor {
    Floor { shader, with, without: &[], occupancy, share, loops }
}

/// A row is held to every floor that is for it.
pub(crate) const FLOORS: &[Floor] = &[
    // Two waves of 64 on a SIMD are the least that can hide a load.
    floor("", "", [2, 2, 8, 8, 8], 0.0, 0),
    Floor { without: LONG, ..floor("matmul/tile128", "", [2, 2, 10, 10, 16], 0.92, 1) },
    // 8 to 16 registers more than the others on RDNA 2.
    floor("matmul/tile128", "W=6", [2, 2, 10, 8, 14], 0.92, 1),
    floor("matmul/tile128", "W=7", [2, 2, 10, 8, 14], 0.92, 1),
    // On RDNA 2 and 3 these loops have their loads in them: the inner loop over a step is unrolled.
    Floor { without: &["W=7"], ..floor("matmul/tile128x64", "", [4, 4, 16, 16, 16], 0.83, 1) },
    floor("matmul/tile128x64", "W=7", [4, 4, 16, 16, 16], 0.80, 1),
    Floor { without: MORE, ..floor("matmul/tile128x64", "VEC_K", [0; 5], 0.86, 1) },
    Floor { without: &["W=7"], ..floor("matmul/tile64", "", [4, 4, 16, 16, 16], 0.79, 1) },
    floor("matmul/tile64", "W=7", [4, 4, 16, 16, 16], 0.74, 1),
    Floor { without: MORE, ..floor("matmul/tile64", "VEC_K", [0; 5], 0.86, 1) },
    // GCN 4 converts every f16 operand by itself.
    Floor { without: LONG, ..floor("matmul/half128", "", [2, 2, 10, 10, 14], 0.75, 1) },
    floor("matmul/half128", "W=6", [2, 2, 10, 8, 14], 0.75, 1),
    floor("matmul/half128", "W=7", [2, 2, 10, 8, 14], 0.75, 1),
    floor("matmul/half64", "", [4, 4, 16, 16, 16], 0.67, 1),
    floor("conv2d/tile128", "VEC=4", [2, 2, 10, 10, 16], 0.90, 1),
    floor("conv2d/tile128x64", "VEC=4", [4, 4, 16, 16, 20], 0.82, 1),
    Floor { without: MORE, ..floor("conv2d/tile128x64", "VEC=4", [0; 5], 0.83, 1) },
    floor("conv2d/tile64", "VEC=4", [4, 4, 16, 16, 16], 0.82, 1),
    Floor { without: MORE, ..floor("conv2d/tile64", "VEC=4", [0; 5], 0.84, 1) },
    floor("conv2d/tile128x16", "VEC=4", [3, 3, 14, 14, 14], 0.74, 1),
    Floor { without: MORE, ..floor("conv2d/tile128x16", "VEC=4", [0; 5], 0.75, 1) },
    // Head widths of 128, FLUX's, and of 256 and 512: scores and weighted values.
    floor("attention/tile64", "D4=32", [2, 2, 8, 8, 8], 0.77, 2),
    floor("attention/wide64", "", [0; 5], 0.72, 2),
    floor("attention/wide32", "", [0; 5], 0.69, 2),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts;

    #[test]
    fn each_floor_is_for_some_shader() {
        let names: Vec<String> = texts::all().unwrap().iter().map(|t| format!("navi21 {}", t.name())).collect();
        for floor in FLOORS {
            assert!(names.iter().any(|n| floor.is_for(n)), "{floor:?}");
        }
    }

    #[test]
    fn defines_are_whole_words() {
        let floor = Floor { shader: "a/b", with: "W=2", without: &["TAIL"], occupancy: [0; 5], share: 0.0, loops: 0 };
        assert!(floor.is_for("navi21 a/b X W=2"));
        assert!(!floor.is_for("navi21 a/b X W=20") && !floor.is_for("navi21 a/b W=2 TAIL"));
        assert!(!floor.is_for("navi21 a/c W=2") && !floor.is_for("navi21 a/b2 W=2"));
        assert!(Floor { shader: "a/", ..floor }.is_for("navi21 a/c W=2"));
    }
}
