//! What the loops of a shader consist of, read off the compiler's ISA text.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Instructions of a loop by what executes them; stored as a list in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u32; 5]", into = "[u32; 5]")]
pub(crate) struct Loop {
    /// Multiply-adds: f32, f16, packed, and packed int8 dot products.
    pub(crate) fma: u32,
    /// Other vector arithmetic: addresses, conversions, copies.
    pub(crate) valu: u32,
    /// Workgroup memory.
    pub(crate) lds: u32,
    /// Device memory, scratch included.
    pub(crate) memory: u32,
    /// The scalar unit, which runs beside the vector unit: branches, waits, uniform addresses.
    pub(crate) scalar: u32,
}

impl From<[u32; 5]> for Loop {
    fn from([fma, valu, lds, memory, scalar]: [u32; 5]) -> Self {
        Self { fma, valu, lds, memory, scalar }
    }
}

impl From<Loop> for [u32; 5] {
    fn from(l: Loop) -> Self {
        [l.fma, l.valu, l.lds, l.memory, l.scalar]
    }
}

impl Loop {
    /// The part of the vector, workgroup memory and memory instructions that multiplies and adds.
    pub(crate) fn share(&self) -> f64 {
        f64::from(self.fma) / f64::from(self.fma + self.valu + self.lds + self.memory)
    }

    fn count(&mut self, op: &str) {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|p| op.starts_with(p));
        // v_mad_u32_u24 and its like are address arithmetic.
        let integer = starts(&["v_mad_u", "v_mad_i"]);
        if starts(&["v_fma", "v_mac_", "v_mad", "v_pk_fma", "v_dual_fma", "v_dot"]) && !integer {
            self.fma += 1;
        } else if starts(&["v_"]) {
            self.valu += 1;
        } else if starts(&["ds_"]) {
            self.lds += 1;
        } else if starts(&["buffer_", "global_", "flat_", "scratch_", "image_"]) {
            self.memory += 1;
        } else if starts(&["s_"]) {
            self.scalar += 1;
        }
    }
}

/// An innermost loop with fewer multiply-adds is not worth a look: a reduction, an epilogue.
const LEAST: u32 = 8;
/// A loop around others has a few of its own at any rate; with more, an inner loop was unrolled into it.
const LEAST_AROUND: u32 = 64;

/// The loops that multiply and add, in the order of the text: innermost ones, and what loops around others have of their own
/// (a driver may unroll an inner loop, as it does with the weighted values of attention).
///
/// A loop goes from a label to the last branch that jumps back to it.
pub(crate) fn inner_loops(isa: &str) -> Vec<Loop> {
    let lines: Vec<&str> = isa.lines().map(|l| l.split(';').next().unwrap_or_default().trim()).collect();
    let labels: HashMap<&str, usize> =
        lines.iter().enumerate().filter_map(|(i, l)| Some((l.strip_suffix(':')?, i))).collect();
    // label -> last branch back to it
    let mut back: HashMap<usize, usize> = HashMap::new();
    for (i, line) in lines.iter().enumerate() {
        let mut words = line.split_whitespace();
        let branch = words.next().is_some_and(|op| op.starts_with("s_cbranch") || op == "s_branch");
        if let Some(&target) = words.next().filter(|_| branch).and_then(|label| labels.get(label))
            && target <= i
        {
            back.insert(target, i);
        }
    }
    let mut spans: Vec<(usize, usize)> = back.into_iter().collect();
    spans.sort_unstable();
    let own = |&(start, end): &(usize, usize)| {
        let inside: Vec<_> = spans.iter().filter(|&&(s, e)| s > start && e <= end).collect();
        let at = (start..=end).filter(|i| !inside.iter().any(|(s, e)| (s..=e).contains(&i)));
        let counts = count(at.map(|i| lines[i]));
        (counts.fma >= if inside.is_empty() { LEAST } else { LEAST_AROUND }).then_some(counts)
    };
    spans.iter().filter_map(own).collect()
}

fn count<'a>(lines: impl Iterator<Item = &'a str>) -> Loop {
    let mut counts = Loop::default();
    for line in lines.filter(|l| !l.ends_with(':')) {
        // RDNA 3 pairs two instructions on a line: `v_dual_fmac_f32 .. :: v_dual_mul_f32 ..`.
        for op in line.split("::").filter_map(|part| part.split_whitespace().next()) {
            counts.count(op);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop over k (BB1 to BB4) with a loop of products (BB2) and a small loop (BB3) inside, then an epilogue.
    const NESTED: &str = "\
BB0:
\ts_load_b128 s[8:11], s[2:3], null                           ; f4080201
\tv_fma_f32 v0, v1, v2, v3
BB1:
\tbuffer_load_dwordx4 v[4:7], v0, s[8:11], 0 offen
\ts_cbranch_scc1 BB5                                          ; bfa20a0d
BB2:
\tds_read_b128 v[8:11], v12
\tv_mad_u32_u24 v12, v13, 4, v12
\tv_fmac_f32_e32 v0, v8, v9
\tv_fma_f32 v1, v8, v9, v1
\tv_mac_f32_e32 v2, v8, v9
\tv_mad_f32 v2, v8, v9, v2
\tv_pk_fma_f16 v3, v8, v9, v3
\tv_dual_fmac_f32 v4, v8, v9 :: v_dual_fmac_f32 v5, v8, v10
\tv_dual_fmac_f32 v6, v8, v9 :: v_dual_mul_f32 v7, v8, v10
\tv_dot4_i32_i8 v7, v8, v9, v7
\ts_waitcnt lgkmcnt(0)
\ts_cbranch_vccnz BB2
BB3:
\tv_fmac_f32_e32 v0, v8, v9
\ts_cbranch_scc0 BB3
BB4:
\ts_branch BB1
BB5:
\tbuffer_store_dword v0, v1, s[4:7], 0 offen
\ts_endpgm
";

    #[test]
    fn small_loops_and_what_is_around_do_not_count() {
        let loops = inner_loops(NESTED);
        assert_eq!(loops, [Loop { fma: 9, valu: 2, lds: 1, memory: 0, scalar: 2 }]);
        assert!((loops[0].share() - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_loop_around_counts_without_what_is_inside() {
        let unrolled = "\tv_fmac_f32_e32 v0, v8, v9\n".repeat(80) + "\tds_read_b128 v[8:11], v12\n";
        let isa = NESTED.replace("BB4:\n", &format!("BB4:\n{unrolled}"));
        let around = Loop { fma: 80, valu: 0, lds: 1, memory: 1, scalar: 2 };
        assert_eq!(inner_loops(&isa), [around, Loop { fma: 9, valu: 2, lds: 1, memory: 0, scalar: 2 }]);
    }

    #[test]
    fn a_loop_that_is_left_at_its_top_ends_with_its_branch_back() {
        let body = "\tv_fmac_f32_e32 v0, v8, v9\n".repeat(8);
        let isa = format!(
            "BB1:\n\ts_cbranch_scc1 BB3\nBB2:\n{body}\tglobal_load_dword v1, v2, s[0:1]\n\ts_branch BB1\nBB3:\n"
        );
        assert_eq!(inner_loops(&isa), [Loop { fma: 8, valu: 0, lds: 0, memory: 1, scalar: 2 }]);
        // Two branches back to one label are one loop.
        let twice = isa.replace("\tglobal_load", "\ts_cbranch_vccz BB1\n\tglobal_load");
        assert_eq!(inner_loops(&twice), [Loop { fma: 8, valu: 0, lds: 0, memory: 1, scalar: 3 }]);
    }

    #[test]
    fn straight_code_has_no_loop() {
        assert_eq!(inner_loops(&"\tv_fmac_f32_e32 v0, v8, v9\n".repeat(100)), []);
    }
}
