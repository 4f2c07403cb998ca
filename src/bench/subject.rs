//! One variant of a call under measurement.

use super::{
    Bound as Roof, Lab, Row, stats, verify,
    work::{Recording, Work},
};
use crate::{
    error::Result,
    graph::{BindOptions, Bound, Control, Value},
    kernel::Variant,
};
use std::time::{Duration, Instant};

/// A variant under measurement.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) variant: &'static Variant,
    /// Copies with buffers of their own, played in turns so that no cache serves what a model would load.
    pub(super) copies: Vec<Bound>,
    flops: u64,
    bytes: u64,
    error: f64,
    first: Duration,
    pub(super) plays: usize,
    pub(super) samples: Vec<f64>,
    /// The roof of its arithmetic after each sample, `10^9` operations a second.
    pub(super) roofs: Vec<f64>,
}

/// Bytes that no cache holds.
const BEYOND_CACHE: u64 = 256 << 20;
/// The most copies of one call.
const COPIES: u64 = 16;
/// A sample lasts at least this long: ten thousand ticks of a coarse clock.
const SAMPLE: Duration = Duration::from_millis(5);

impl Lab {
    pub(super) async fn subject(
        &mut self,
        work: &Work,
        name: &'static str,
        data: &[crate::kernels::Input],
        expected: &[f32],
    ) -> Result<Subject> {
        self.verified.cases(&self.gpu, work.entry()?, name).await?;
        let recording = work.record(&self.gpu, Some(name))?;
        let variant = recording.variant;
        let all = 0..recording.graph.dispatches().len();
        let (flops, bytes) = (recording.graph.flops(), recording.graph.traffic(all));
        let start = Instant::now();
        let error = verify::error(&self.gpu, recording, data, expected, variant.rounding()).await?;
        let first = start.elapsed();
        // Where arithmetic dominates, no cache makes a difference.
        let thin = flops < 8 * bytes;
        let copies = if thin { (BEYOND_CACHE / bytes.max(1)).clamp(1, COPIES) } else { 1 };
        let mut bound = Vec::new();
        for _ in 0..copies {
            let Recording { graph, inputs, .. } = work.record(&self.gpu, Some(name))?;
            let mut b = graph.plan()?.bind(&self.gpu, &BindOptions::default())?;
            let written: Vec<(Value, &[u8])> = inputs.iter().zip(data).map(|(v, x)| (*v, x.bytes.as_slice())).collect();
            b.run(&written, &[], Control::default()).await?;
            bound.push(b);
        }
        Ok(Subject {
            variant,
            copies: bound,
            flops,
            bytes,
            error,
            first,
            plays: 1,
            samples: Vec::new(),
            roofs: Vec::new(),
        })
    }

    /// Plays for the time of a warm-up, and finds how many plays make a sample. The nanoseconds of the last play.
    pub(super) async fn warm_up(&self, s: &mut Subject) -> Result<f64> {
        let start = Instant::now();
        loop {
            let nanoseconds = self.timer.sample(&s.copies, s.plays).await?;
            if nanoseconds >= SAMPLE.as_nanos() as f64 {
                if start.elapsed() >= self.options.warm_up {
                    return Ok(nanoseconds / s.plays as f64);
                }
            } else {
                // Towards the target, but by no more than ten times: the first plays are slow.
                let factor = SAMPLE.as_nanos() as f64 * 1.2 / nanoseconds.max(1.0);
                s.plays = (s.plays as f64 * factor.clamp(1.1, 10.0)).ceil() as usize;
            }
        }
    }

    pub(super) fn row(&self, work: &Work, s: Subject, default: &str, base: Option<&[f64]>) -> Row {
        let median = stats::median(&s.samples);
        let ratios: Vec<f64> = base.unwrap_or_default().iter().zip(&s.samples).map(|(b, s)| b / s).collect();
        let compute = |roof: f64| s.flops as f64 / roof * 1e-3;
        let memory = s.bytes as f64 / self.roofs.memory * 1e-3;
        let of_roof = |(sample, roof): (&f64, &f64)| compute(*roof).max(memory) / sample;
        let shares: Vec<f64> = s.samples.iter().zip(&s.roofs).map(of_roof).collect();
        Row {
            shape: work.call.label(),
            dtype: format!("{:?}", work.dtype()).to_lowercase(),
            work: work.clone(),
            variant: s.variant.name.into(),
            default: s.variant.name == default,
            flops: s.flops,
            bytes: s.bytes,
            median,
            p10: stats::quantile(&s.samples, 0.1),
            p90: stats::quantile(&s.samples, 0.9),
            mad: stats::mad(&s.samples),
            of_roof: stats::median(&shares),
            bound: if compute(stats::median(&s.roofs)) >= memory { Roof::Compute } else { Roof::Memory },
            speedup: stats::median(&ratios),
            error: s.error,
            compile: (s.first.as_secs_f64() * 1e3 - median * 1e-3).max(0.0),
            samples: s.samples,
        }
    }
}
