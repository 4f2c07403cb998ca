//! Print a recording as text: one line a dispatch.

use super::{Graph, Value};
use std::fmt;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for d in &self.dispatches {
            let list =
                |values: &[Value]| values.iter().map(|v| self.shape(*v).to_string()).collect::<Vec<_>>().join(" ");
            writeln!(
                f,
                "{} {}/{} {:?} {} -> {} {:.3} GFLOP",
                d.scope,
                d.kernel.name,
                d.variant.name,
                d.grid,
                list(&d.reads),
                list(&d.writes),
                d.flops as f64 * 1e-9
            )?;
        }
        Ok(())
    }
}
