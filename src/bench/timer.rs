//! The clock, with what it costs to use it.

use super::stats;
use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    graph::{self, BindOptions, Bound, Clock, Graph},
    kernels::elementwise::{Binary, elementwise},
    shape::DType,
};

/// Times plays.
#[derive(Debug)]
pub(super) struct Timer {
    pub(super) clock: Clock,
    /// Nanoseconds that a submit and a launch cost the host's clock.
    empty: [f64; 2],
}

impl Timer {
    /// The device's clock where it has one, if nobody says which.
    ///
    /// # Errors
    /// `Gpu` if the clock is to be the device's and it has no timestamps; what the device reports.
    pub(super) async fn new(gpu: &Gpu, clock: Option<Clock>) -> Result<Self> {
        ensure!(
            clock != Some(Clock::Device) || gpu.has_timestamps(),
            Gpu,
            "{} has no timestamp queries; the host's clock works everywhere",
            gpu.info().name
        );
        let clock = clock.unwrap_or(if gpu.has_timestamps() { Clock::Device } else { Clock::Host });
        let empty = if clock == Clock::Host { cost_of_nothing(gpu).await? } else { [0.0; 2] };
        Ok(Self { clock, empty })
    }

    /// Nanoseconds of some plays together, the host's own costs taken off.
    pub(super) async fn sample(&self, copies: &[Bound], plays: usize) -> Result<f64> {
        let e = graph::time(copies, plays, self.clock).await?;
        let nothing = self.empty[0] * e.submits as f64 + self.empty[1] * e.launches as f64;
        Ok((e.nanoseconds - nothing).max(e.nanoseconds * 0.01))
    }
}

/// Nanoseconds of a submit and of a launch that do next to nothing.
async fn cost_of_nothing(gpu: &Gpu) -> Result<[f64; 2]> {
    let mut g = Graph::new(gpu.target());
    let x = g.input("x", [4], DType::F32);
    elementwise(&mut g, x, x, Binary::Add)?;
    let plan = [g.plan()?.bind(gpu, &BindOptions::default())?];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..50 {
        for (plays, times) in [1, 101].into_iter().zip(&mut times) {
            times.push(graph::time(&plan, plays, Clock::Host).await?.nanoseconds);
        }
    }
    let [one, many] = times.map(|t| stats::median(&t));
    let launch = ((many - one) / 100.0).max(0.0);
    Ok([(one - launch).max(0.0), launch])
}
