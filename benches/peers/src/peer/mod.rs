//! The libraries behind one interface: load a case, verify it, time it.

#[cfg(feature = "burn")]
mod burn;
mod ggml;
#[cfg(any(feature = "burn", feature = "meganeura"))]
mod layout;
#[cfg(feature = "meganeura")]
mod meganeura;
mod ours;

pub(crate) use self::{
    ggml::{Ggml, Type},
    ours::Ours,
};

use crate::{
    Result,
    data::{ALLOWED, Data, Samples},
    shapes::Op,
};
use impasto::gpu::AdapterInfo;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

/// Opens a library on the adapter that impasto has opened.
type Open = fn(&AdapterInfo) -> Result<Box<dyn Peer>>;

/// The peers in this process, by name.
pub(crate) const BUILT_IN: &[(&str, Open)] = &[
    #[cfg(feature = "burn")]
    ("burn", |info| Ok(Box::new(self::burn::Burn::new(info)?))),
    #[cfg(feature = "meganeura")]
    ("meganeura", |info| Ok(Box::new(self::meganeura::Meganeura::new(info)?))),
];

/// A library on the adapter.
pub(crate) trait Peer {
    /// What the table calls it.
    fn name(&self) -> String;

    /// Uploads the inputs, in the layout that the library likes best, and prepares the operation.
    ///
    /// # Errors
    /// If the library does not have the operation, or fails.
    fn load(&mut self, op: &Op, data: &Data) -> Result<Box<dyn Loaded>>;
}

/// An operation of a library with its inputs on the device.
pub(crate) trait Loaded {
    /// Runs once and compares. The normalised mean square error, where the library tells it.
    ///
    /// # Errors
    /// If the result is wrong, or the library fails.
    fn verify(&mut self, samples: &Samples) -> Result<Option<f64>>;

    /// Runs `runs` times one after the other and waits for the last: microseconds a run.
    ///
    /// # Errors
    /// What the library reports.
    fn time(&mut self, runs: usize) -> Result<f64>;

    /// Whether the library chooses for itself how often a sample runs.
    fn paces_itself(&self) -> bool {
        false
    }
}

/// The error of a result, if it is small enough.
///
/// # Errors
/// If it is not.
fn verdict(y: &[f32], samples: &Samples) -> Result<Option<f64>> {
    let error = samples.error(y);
    if error <= ALLOWED {
        return Ok(Some(error));
    }
    Err(format!("wrong: the normalised mean square error is {error:.1e}, {ALLOWED:.0e} are allowed").into())
}

/// Microseconds a run of what `work` does and waits for.
fn wall(runs: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / runs as f64)
}

/// A panic of a library is an error of that library only.
///
/// # Errors
/// Those of `f`, and its panic.
pub(crate) fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("no message")).into())
    })
}
