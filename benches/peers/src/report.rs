//! The table and the JSON file.

use crate::{
    Result,
    measure::{Row, Settings},
    shapes::Case,
};
use impasto::gpu::AdapterInfo;
use serde::Serialize;
use std::path::Path;

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) adapter: AdapterInfo,
    pub(crate) settings: Settings,
    /// Libraries that were asked for and could not be opened, and why.
    pub(crate) absent: Vec<(String, String)>,
    pub(crate) cases: Vec<Measured>,
}

/// A case with what each library gave.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) flops: u64,
    pub(crate) rows: Vec<Row>,
}

/// The heading of [`lines`].
pub(crate) fn heading() -> String {
    format!(
        "{:<58} {:<10} {:>12} {:>7} {:>8} {:>16} {:>8}",
        "case", "library", "us", "+-%", "GFLOP/s", "of impasto", "nmse"
    )
}

/// A line for each library; the case is named in the first.
pub(crate) fn lines(m: &Measured) -> String {
    let mut text = String::new();
    for (i, row) in m.rows.iter().enumerate() {
        let case = if i == 0 { m.case.to_string() } else { String::new() };
        let start = format!("{case:<58} {:<10}", row.library);
        let rest = match (row.microseconds, row.ratio) {
            (Some(us), ratio) => {
                let ratio = ratio.map_or(String::new(), |r| format!("{:.2}x +-{:.2}", r.median, r.mad));
                let nmse = row.nmse.map_or("own test".to_string(), |e| format!("{e:.0e}"));
                let (percent, rate) = (100.0 * us.mad / us.median, m.flops as f64 * 1e-3 / us.median);
                format!("{:>12.1} {percent:>7.1} {rate:>8.1} {ratio:>16} {nmse:>8}", us.median)
            }
            _ => format!("  {}", row.failure.as_deref().unwrap_or("no samples")),
        };
        text += &format!("{start} {rest}\n");
    }
    text
}

impl Report {
    /// Writes the JSON file: to a temporary one first, so that a reader never sees half.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(())
    }
}
