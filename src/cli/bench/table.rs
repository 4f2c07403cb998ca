//! Rows as people read them.

use impasto::bench::{Bound, Roofs, Row};

/// Above the rows.
pub(super) fn header() -> String {
    format!(
        "{:46} {:4} {:14} {:>10} {:>10} {:>10} {:>8} {:>7} {:>10} {:>7} {:>7} {:>8}",
        "kernel and shape",
        "type",
        "variant",
        "median us",
        "p10",
        "p90",
        "GFLOP/s",
        "GB/s",
        "of roof",
        "default",
        "error",
        "compile"
    )
}

/// One row; `*` marks the rules' choice.
pub(super) fn line(row: &Row) -> String {
    let bound = match row.bound {
        Bound::Compute => "fma",
        Bound::Memory => "mem",
    };
    let variant = format!("{}{}", row.variant, if row.default { "*" } else { "" });
    format!(
        "{:46} {:4} {variant:14} {:>10} {:>10} {:>10} {:>8.1} {:>7.2} {:>5.1}% {bound} {:>6.2}x {:>7.0e} {:>5.0} ms",
        format!("{} {}", row.work.call.kernel, row.shape),
        row.dtype,
        number(row.median),
        number(row.p10),
        number(row.p90),
        row.gflops(),
        row.gbps(),
        row.of_roof * 100.0,
        row.speedup,
        row.error,
        row.compile,
    )
}

fn number(us: f64) -> String {
    if us < 1000.0 { format!("{us:.2}") } else { format!("{us:.0}") }
}

/// The roofs, in a line.
pub(super) fn roofs(r: &Roofs) -> String {
    let half = r.half.map_or_else(String::new, |rate| format!("f16 {rate:.1} GFLOP/s, "));
    format!(
        "f32 {:.1} GFLOP/s, {half}packed int8 {:.1} GOP/s, workgroup memory {:.1} GB/s, device memory {:.1} GB/s",
        r.fma, r.dot4, r.workgroup, r.memory
    )
}

/// What each kernel takes of a model: the rules' choice, times the calls.
pub(super) fn shares(rows: &[Row]) -> Vec<String> {
    let mut kernels: Vec<(&str, f64, f64)> = Vec::new();
    for row in rows.iter().filter(|r| r.default) {
        let (time, flops) = (row.median * row.work.count as f64, row.flops as f64 * row.work.count as f64);
        match kernels.iter_mut().find(|k| k.0 == row.work.call.kernel) {
            Some(k) => (k.1, k.2) = (k.1 + time, k.2 + flops),
            None => kernels.push((&row.work.call.kernel, time, flops)),
        }
    }
    kernels.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = kernels.iter().map(|k| k.1).sum();
    let line = |(name, time, flops): &(&str, f64, f64)| {
        format!(
            "{name:20} {:>10.2} ms {:>5.1}% {:>8.1} GFLOP/s",
            time * 1e-3,
            time / total * 100.0,
            flops / time * 1e-3
        )
    };
    kernels.iter().map(line).chain([format!("{:20} {:>10.2} ms", "all", total * 1e-3)]).collect()
}
