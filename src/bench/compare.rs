//! Two reports of one adapter, row by row.

use super::{Report, Row};
use crate::error::{Result, ensure};

/// A row of both reports.
#[derive(Debug, Clone)]
pub struct Change {
    /// Kernel, shape and variant.
    pub name: String,
    /// Microseconds before.
    pub base: f64,
    /// Microseconds now.
    pub new: f64,
    /// Whether it is slower by more than threshold and noise.
    pub regressed: bool,
}

impl Change {
    /// How much longer it takes: 0.05 is five per cent.
    pub fn slowdown(&self) -> f64 {
        self.new / self.base - 1.0
    }
}

/// The rows that both have. One is a regression if it is slower by more than `threshold` (0.05 for 5 %), and its
/// medians are further apart than twice the deviations of both.
///
/// # Errors
/// `Argument` if the reports are of different adapters, drivers, clocks or modes, or have no row in common.
pub fn compare(base: &Report, new: &Report, threshold: f64) -> Result<Vec<Change>> {
    let place = |r: &Report| {
        let a = &r.adapter;
        let mode = if r.checked { "checked" } else { "trusted" };
        format!("{} ({}, {}), {mode}, {:?} clock", a.name, a.backend, a.driver, r.clock)
    };
    ensure!(
        place(base) == place(new),
        Argument,
        "not comparable: the baseline is of {}, this of {}",
        place(base),
        place(new)
    );
    let same = |a: &Row, b: &Row| a.variant == b.variant && a.work.call == b.work.call;
    let pairs = new.rows.iter().filter_map(|n| Some((base.rows.iter().find(|b| same(b, n))?, n)));
    let changes: Vec<Change> = pairs
        .map(|(b, n)| Change {
            name: format!("{} {} {}", n.work.call.kernel, n.shape, n.variant),
            base: b.median,
            new: n.median,
            regressed: n.median > b.median * (1.0 + threshold) && n.median - b.median > 2.0 * (b.mad + n.mad),
        })
        .collect();
    ensure!(!changes.is_empty(), Argument, "the reports have no row in common");
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{Bound, Roofs, Work},
        gpu::AdapterInfo,
        graph::{Call, Clock},
    };

    fn report(adapter: &str, medians: &[(&str, f64)]) -> Report {
        let row = |(kernel, median): &(&str, f64)| {
            let call = Call { kernel: kernel.to_string(), inputs: Vec::new(), args: serde_json::Value::Null };
            Row {
                work: Work { call, count: 1, scope: String::new() },
                shape: String::new(),
                dtype: String::new(),
                variant: "v".into(),
                default: true,
                flops: 0,
                bytes: 0,
                samples: vec![*median],
                median: *median,
                p10: *median,
                p90: *median,
                mad: 1.0,
                of_roof: 0.0,
                bound: Bound::Compute,
                speedup: 1.0,
                error: 0.0,
                compile: 0.0,
            }
        };
        Report {
            version: String::new(),
            adapter: AdapterInfo { name: adapter.into(), ..AdapterInfo::default() },
            checked: false,
            clock: Clock::Device,
            roofs: Roofs::default(),
            rows: medians.iter().map(row).collect(),
            refused: Vec::new(),
        }
    }

    #[test]
    fn slower_beyond_threshold_and_noise() {
        let base = report("a", &[("x", 100.0), ("y", 100.0), ("z", 10.0), ("gone", 1.0)]);
        let new = report("a", &[("x", 104.0), ("y", 106.0), ("z", 12.0), ("added", 1.0)]);
        let found: Vec<bool> = compare(&base, &new, 0.05).unwrap().iter().map(|c| c.regressed).collect();
        // z is 20 % slower, but within its own noise.
        assert_eq!(found, [false, true, false]);
        let text = serde_json::to_string(&base).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap().rows.len(), 4);
    }

    #[test]
    fn refuses_other_adapters_and_nothing_in_common() {
        let rows = [("x", 1.0)];
        let message = compare(&report("a", &rows), &report("b", &rows), 0.05).unwrap_err().to_string();
        assert!(message.contains("not comparable"), "{message}");
        assert!(compare(&report("a", &rows), &report("a", &[("y", 1.0)]), 0.05).is_err());
    }
}
