//! The measurement itself.

use super::{
    Bound as Roof, Roofs, Row, roofs, stats,
    verify::{self, Verified},
    work::{Recording, Work},
};
use crate::{
    error::{ErrorKind, Result, ensure},
    gpu::{self, Checks, Gpu},
    graph::{self, BindOptions, Bound, Clock, Control, Graph, Value},
    kernels::elementwise::{Binary, elementwise},
    selftest,
    shape::DType,
};
use std::time::{Duration, Instant};

/// Which variants are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variants {
    /// What the rules choose, and what tuning has found.
    Best,
    /// Every one that can run the shape.
    All,
    /// Those of the adapter's own class.
    Class,
    /// This one, beside the rules' choice.
    Named(String),
}

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who measures; the device where it can.
    pub clock: Option<Clock>,
    /// Which variants.
    pub variants: Variants,
    /// Plays before the first sample: a GPU takes a while to raise its clock, and a short warm-up picks wrong winners.
    pub warm_up: Duration,
    /// Samples of each variant.
    pub samples: usize,
    /// No more samples once a variant has taken this long, but five.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: None,
            variants: Variants::Best,
            warm_up: Duration::from_millis(250),
            samples: 20,
            patience: Duration::from_secs(1),
        }
    }
}

/// A device with what is needed to measure on it.
#[derive(Debug)]
pub struct Lab {
    gpu: Gpu,
    /// The same adapter with shaders that check.
    checked: Gpu,
    options: Options,
    clock: Clock,
    /// Nanoseconds that a submit and a launch cost the host's clock.
    empty: [f64; 2],
    roofs: Roofs,
    verified: Verified,
}

/// A call that was verified and can be timed.
#[derive(Debug)]
pub struct Prepared(Subject);

/// A variant under measurement.
#[derive(Debug)]
struct Subject {
    variant: &'static str,
    /// Copies with buffers of their own, played in turns so that no cache serves what a model would load.
    copies: Vec<Bound>,
    flops: u64,
    bytes: u64,
    error: f64,
    first: Duration,
    plays: usize,
    samples: Vec<f64>,
}

/// Bytes that no cache holds.
const BEYOND_CACHE: u64 = 256 << 20;
/// The most copies of one call.
const COPIES: u64 = 16;
/// A sample lasts at least this long: ten thousand ticks of a coarse clock.
const SAMPLE: Duration = Duration::from_millis(5);
/// Samples that make a median.
const FEWEST: usize = 5;

impl Lab {
    /// Opens the adapter twice, and measures its roofs.
    ///
    /// # Errors
    /// `Gpu` if the clock is the device's and it has no timestamps; what the device reports.
    pub async fn open(adapter: &gpu::Options, options: Options) -> Result<Self> {
        let gpu = selftest::open(adapter).await?;
        let checked = Gpu::open(&gpu::Options { checks: Checks::Checked, ..adapter.clone() }).await?;
        let clock = match options.clock {
            Some(Clock::Device) => {
                ensure!(
                    gpu.has_timestamps(),
                    Gpu,
                    "{} has no timestamp queries; the host's clock works everywhere",
                    gpu.info().name
                );
                Clock::Device
            }
            Some(Clock::Host) => Clock::Host,
            None if gpu.has_timestamps() => Clock::Device,
            None => Clock::Host,
        };
        let roofs = Roofs::default();
        let mut lab = Self { gpu, checked, options, clock, empty: [0.0; 2], roofs, verified: Verified::default() };
        if clock == Clock::Host {
            lab.empty = lab.cost_of_nothing().await?;
        }
        lab.roofs = roofs::measure(&lab).await?;
        Ok(lab)
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Who measures.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// What the device can do at best.
    pub fn roofs(&self) -> &Roofs {
        &self.roofs
    }

    /// Nanoseconds of a submit and of a launch that do next to nothing.
    async fn cost_of_nothing(&self) -> Result<[f64; 2]> {
        let mut g = Graph::new(self.gpu.target());
        let x = g.input("x", [4], DType::F32);
        elementwise(&mut g, x, x, Binary::Add)?;
        let plan = [g.plan()?.bind(&self.gpu, &BindOptions::default())?];
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

    /// The variants of a call that this device can run, the rules' choice first.
    pub(super) fn candidates(&self, work: &Work, variants: &Variants) -> Result<Vec<&'static str>> {
        let kernel = work.entry()?.kernel;
        let default = work.record(&self.gpu, None)?.variant;
        let class = self.gpu.target().class();
        let exactness = kernel.variants.iter().find(|v| v.name == default).map_or(0.0, |v| v.rounding());
        let tuned = self.gpu.target().tuning.variant(kernel.name, || work.call.class()).map(|(_, name)| name);
        let wanted = |v: &crate::kernel::Variant| match variants {
            Variants::Best => tuned.as_ref().is_some_and(|t| t == v.name),
            Variants::All => true,
            // Nobody asked for other results.
            Variants::Class => v.class == class && v.rounding() <= exactness,
            Variants::Named(name) => v.name == name,
        };
        let others = kernel.variants.iter().filter(|v| v.name != default && wanted(v)).map(|v| v.name);
        let can_run = others.filter(|v| work.record(&self.gpu, Some(v)).is_ok());
        Ok(std::iter::once(default).chain(can_run).collect())
    }

    /// Verifies and times a call. A variant that is wrong is not timed but named in the second list.
    ///
    /// # Errors
    /// What the device reports, other than that a variant does not compile or compute.
    pub async fn rows(&mut self, work: &Work) -> Result<(Vec<Row>, Vec<String>)> {
        let candidates = self.candidates(work, &self.options.variants)?;
        self.measure(work, &candidates).await
    }

    /// Verifies and times a call in these variants, the samples in turns.
    pub(super) async fn measure(
        &mut self,
        work: &Work,
        candidates: &[&'static str],
    ) -> Result<(Vec<Row>, Vec<String>)> {
        let data = work.data();
        let expected = verify::reference(&self.checked, work, &data).await?;
        let (mut subjects, mut refused) = (Vec::new(), Vec::new());
        for &variant in candidates {
            match self.subject(work, variant, &data, &expected).await {
                Ok(subject) => subjects.push(subject),
                Err(e) if e.kind() == ErrorKind::Gpu => refused.push(format!("{}: {variant}: {e}", work.name())),
                Err(e) => return Err(e.context(work.name())),
            }
        }
        for s in &mut subjects {
            self.warm_up(s).await?;
        }
        let start = Instant::now();
        for n in 0..self.options.samples {
            if n >= FEWEST && start.elapsed() > self.options.patience * subjects.len() as u32 {
                break;
            }
            for s in &mut subjects {
                let sample = self.sample(&s.copies, s.plays).await? / s.plays as f64;
                s.samples.push(sample * 1e-3);
            }
        }
        let default = work.record(&self.gpu, None)?.variant;
        let base = subjects.iter().find(|s| s.variant == default).map(|s| s.samples.clone());
        Ok((subjects.into_iter().map(|s| self.row(work, s, default, base.as_deref())).collect(), refused))
    }

    /// Verifies and binds the rules' choice for a call, for a clock of one's own.
    ///
    /// # Errors
    /// `Gpu` if it is wrong on this device; what the device reports.
    pub async fn prepare(&mut self, work: &Work) -> Result<Prepared> {
        let data = work.data();
        let expected = verify::reference(&self.checked, work, &data).await?;
        let variant = work.record(&self.gpu, None)?.variant;
        Ok(Prepared(self.subject(work, variant, &data, &expected).await?))
    }

    /// Nanoseconds of some plays together.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn time(&self, prepared: &Prepared, plays: usize) -> Result<f64> {
        self.sample(&prepared.0.copies, plays).await
    }

    async fn subject(
        &mut self,
        work: &Work,
        variant: &'static str,
        data: &[crate::kernels::Input],
        expected: &[f32],
    ) -> Result<Subject> {
        self.verified.cases(&self.gpu, work.entry()?, variant).await?;
        let recording = work.record(&self.gpu, Some(variant))?;
        let all = 0..recording.graph.dispatches().len();
        let (flops, bytes) = (recording.graph.flops(), recording.graph.traffic(all));
        let start = Instant::now();
        let rounding = work.entry()?.kernel.variants.iter().find(|v| v.name == variant).map_or(0.0, |v| v.rounding());
        let error = verify::error(&self.gpu, recording, data, expected, rounding).await?;
        let first = start.elapsed();
        // Where arithmetic dominates, no cache makes a difference.
        let thin = flops < 8 * bytes;
        let copies = if thin { (BEYOND_CACHE / bytes.max(1)).clamp(1, COPIES) } else { 1 };
        let mut bound = Vec::new();
        for _ in 0..copies {
            let Recording { graph, inputs, .. } = work.record(&self.gpu, Some(variant))?;
            let mut b = graph.plan()?.bind(&self.gpu, &BindOptions::default())?;
            let written: Vec<(Value, &[u8])> = inputs.iter().zip(data).map(|(v, x)| (*v, x.bytes.as_slice())).collect();
            b.run(&written, &[], Control::default()).await?;
            bound.push(b);
        }
        Ok(Subject { variant, copies: bound, flops, bytes, error, first, plays: 1, samples: Vec::new() })
    }

    /// Plays for the time of a warm-up, and finds how many plays make a sample.
    async fn warm_up(&self, s: &mut Subject) -> Result<()> {
        let start = Instant::now();
        loop {
            let nanoseconds = self.sample(&s.copies, s.plays).await?;
            if nanoseconds >= SAMPLE.as_nanos() as f64 {
                if start.elapsed() >= self.options.warm_up {
                    return Ok(());
                }
            } else {
                // Towards the target, but by no more than ten times: the first plays are slow.
                let factor = SAMPLE.as_nanos() as f64 * 1.2 / nanoseconds.max(1.0);
                s.plays = (s.plays as f64 * factor.clamp(1.1, 10.0)).ceil() as usize;
            }
        }
    }

    /// Nanoseconds of some plays together, the host's own costs taken off.
    pub(super) async fn sample(&self, copies: &[Bound], plays: usize) -> Result<f64> {
        let e = graph::time(copies, plays, self.clock).await?;
        let nothing = self.empty[0] * e.submits as f64 + self.empty[1] * e.launches as f64;
        Ok((e.nanoseconds - nothing).max(e.nanoseconds * 0.01))
    }

    fn row(&self, work: &Work, s: Subject, default: &str, base: Option<&[f64]>) -> Row {
        let median = stats::median(&s.samples);
        let ratios: Vec<f64> = base.unwrap_or_default().iter().zip(&s.samples).map(|(b, s)| b / s).collect();
        let compute = s.flops as f64 / self.roofs.fma * 1e-3;
        let memory = s.bytes as f64 / self.roofs.memory * 1e-3;
        Row {
            shape: work.call.label(),
            dtype: format!("{:?}", work.dtype()).to_lowercase(),
            work: work.clone(),
            variant: s.variant.into(),
            default: s.variant == default,
            flops: s.flops,
            bytes: s.bytes,
            median,
            p10: stats::quantile(&s.samples, 0.1),
            p90: stats::quantile(&s.samples, 0.9),
            mad: stats::mad(&s.samples),
            of_roof: compute.max(memory) / median,
            bound: if compute >= memory { Roof::Compute } else { Roof::Memory },
            speedup: stats::median(&ratios),
            error: s.error,
            compile: (s.first.as_secs_f64() * 1e3 - median * 1e-3).max(0.0),
            samples: s.samples,
        }
    }
}
