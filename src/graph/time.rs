//! Time: plays for the clock only.

use super::{
    Bound,
    bind::{Step, submit_budget},
};
use crate::{
    error::{Result, ensure},
    gpu::Launch,
};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Who measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Timestamp queries around a pass.
    Device,
    /// The host's clock from submit to idle: for adapters without timestamps. Launching costs are in it.
    Host,
}

/// What [`time`] measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Elapsed {
    /// Nanoseconds, of all plays together.
    pub nanoseconds: f64,
    /// Kernel launches.
    pub launches: usize,
    /// Submits: more than one if the work exceeds the FLOP budget of a submit.
    pub submits: usize,
}

/// Plays bound plans in turns, `plays` plays in all, with the inputs that their last runs wrote.
///
/// # Errors
/// `Gpu` if the clock is the device's and it has none; what the device reports.
pub async fn time(plans: &[Bound], plays: usize, clock: Clock) -> Result<Elapsed> {
    ensure!(!plans.is_empty(), Internal, "nothing to time");
    ensure!(plans.iter().all(|p| p.graph().upload_bytes() == 0), Internal, "plays with uploads are not timed");
    let gpu = &plans[0].gpu;
    let budget = submit_budget(gpu.target().class());
    let mut elapsed = Elapsed::default();
    let (mut launches, mut flops): (Vec<Launch<'_>>, u64) = (Vec::new(), 0);
    let mut steps = (0..plays).flat_map(|n| &plans[n % plans.len()].steps).peekable();
    while let Some(step) = steps.next() {
        launches.push(Step::launch(step));
        flops += step.flops;
        if steps.peek().is_some_and(|next| flops + next.flops <= budget) {
            continue;
        }
        elapsed.launches += launches.len();
        elapsed.submits += 1;
        elapsed.nanoseconds += match clock {
            Clock::Device => gpu.time_together(&launches).await?,
            Clock::Host => {
                let start = Instant::now();
                let mut submission = gpu.submission();
                submission.launches(launches.drain(..));
                submission.submit();
                gpu.done().await?;
                start.elapsed().as_secs_f64() * 1e9
            }
        };
        launches.clear();
        flops = 0;
    }
    Ok(elapsed)
}
