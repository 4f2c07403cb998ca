//! The measurement itself.

use super::{
    Roofs, Row,
    roofs::{self, Arithmetic},
    subject::Subject,
    timer::Timer,
    verify::{self, Verified},
    work::Work,
};
use crate::{
    error::{ErrorKind, Result},
    gpu::{self, Checks, Gpu},
    graph::Clock,
    selftest,
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
    pub(super) gpu: Gpu,
    /// The same adapter with shaders that check.
    pub(super) checked: Gpu,
    pub(super) options: Options,
    pub(super) timer: Timer,
    pub(super) roofs: Roofs,
    arithmetic: Arithmetic,
    pub(super) verified: Verified,
}

/// A call that was verified and can be timed.
#[derive(Debug)]
pub struct Prepared(Subject);

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
        let timer = Timer::new(&gpu, options.clock).await?;
        let (roofs, arithmetic) = roofs::measure(&gpu, &timer).await?;
        Ok(Self { gpu, checked, options, timer, roofs, arithmetic, verified: Verified::default() })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Who measures.
    pub fn clock(&self) -> Clock {
        self.timer.clock
    }

    /// What the device can do at best.
    pub fn roofs(&self) -> &Roofs {
        &self.roofs
    }

    /// The variants of a call that this device can run, the rules' choice first.
    pub(super) fn candidates(&self, work: &Work, variants: &Variants) -> Result<Vec<&'static str>> {
        let kernel = work.entry()?.kernel;
        let chosen = work.record(&self.gpu, None)?.variant;
        let class = self.gpu.target().class();
        let tuned = self.gpu.target().tuning.variant(kernel.name, || work.call.class()).map(|(_, name)| name);
        let wanted = |v: &crate::kernel::Variant| match variants {
            Variants::Best => tuned.as_ref().is_some_and(|t| t == v.name),
            Variants::All => true,
            // Nobody asked for other results.
            Variants::Class => v.class == class && v.rounding() <= chosen.rounding(),
            Variants::Named(name) => v.name == name,
        };
        let others = kernel.variants.iter().filter(|v| v.name != chosen.name && wanted(v)).map(|v| v.name);
        let can_run = others.filter(|v| work.record(&self.gpu, Some(v)).is_ok());
        Ok(std::iter::once(chosen.name).chain(can_run).collect())
    }

    /// Verifies and times a call. A variant that is wrong is not timed but named in the second list.
    ///
    /// # Errors
    /// What the device reports, other than that a variant does not compile or compute.
    pub async fn rows(&mut self, work: &Work) -> Result<(Vec<Row>, Vec<String>)> {
        let candidates = self.candidates(work, &self.options.variants)?;
        self.measure(work, &candidates, f64::INFINITY).await
    }

    /// Verifies and times a call in these variants, the samples in turns. What takes `hopeless` times as long as the
    /// fastest in its warm-up is left out; the first never.
    pub(super) async fn measure(
        &mut self,
        work: &Work,
        candidates: &[&'static str],
        hopeless: f64,
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
        let mut warm = Vec::new();
        for s in &mut subjects {
            warm.push(self.warm_up(s).await?);
        }
        let limit = warm.iter().fold(f64::INFINITY, |a, &b| a.min(b)) * hopeless;
        let mut hopeful = warm.iter().enumerate().map(|(n, &time)| n == 0 || time <= limit);
        subjects.retain(|_| hopeful.next() == Some(true));
        let start = Instant::now();
        for n in 0..self.options.samples {
            if n >= FEWEST && start.elapsed() > self.options.patience * subjects.len() as u32 {
                break;
            }
            for s in &mut subjects {
                let sample = self.timer.sample(&s.copies, s.plays).await? / s.plays as f64;
                s.samples.push(sample * 1e-3);
                s.roofs.push(self.arithmetic.of(s.variant).sample(&self.timer).await?);
            }
        }
        let default = work.record(&self.gpu, None)?.variant.name;
        let base = subjects.iter().find(|s| s.variant.name == default).map(|s| s.samples.clone());
        Ok((subjects.into_iter().map(|s| self.row(work, s, default, base.as_deref())).collect(), refused))
    }

    /// Verifies and binds the rules' choice for a call, for a clock of one's own.
    ///
    /// # Errors
    /// `Gpu` if it is wrong on this device; what the device reports.
    pub async fn prepare(&mut self, work: &Work) -> Result<Prepared> {
        let data = work.data();
        let expected = verify::reference(&self.checked, work, &data).await?;
        let variant = work.record(&self.gpu, None)?.variant.name;
        Ok(Prepared(self.subject(work, variant, &data, &expected).await?))
    }

    /// Nanoseconds of some plays together.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn time(&self, prepared: &Prepared, plays: usize) -> Result<f64> {
        self.timer.sample(&prepared.0.copies, plays).await
    }
}
