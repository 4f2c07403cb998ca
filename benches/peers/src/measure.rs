//! One case on every library: verified, warmed up, then sampled in turns.

use crate::{
    Result,
    data::Data,
    peer::{Loaded, Peer, guarded},
    shapes::Case,
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How much is measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Settings {
    /// Samples of each library. Every library gives one before any gives the next, so that what disturbs the machine
    /// meets all of them.
    pub(crate) rounds: usize,
    /// What a sample lasts: it is the mean of as many runs as fit, at least one.
    pub(crate) sample_ms: u64,
}

/// Clocks rise and caches fill for this long before anything counts.
const WARM_UP: Duration = Duration::from_millis(250);

/// A median and the median absolute deviation from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) mad: f64,
}

impl Spread {
    /// Of at least one value; `None` of none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let median = middle(values.to_vec())?;
        let mad = middle(values.iter().map(|v| (v - median).abs()).collect())?;
        Some(Self { median, mad })
    }
}

fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (n, half) = (values.len(), values.len() / 2);
    match n % 2 {
        _ if n == 0 => None,
        0 => Some((values[half - 1] + values[half]) / 2.0),
        _ => Some(values[half]),
    }
}

/// What a library gave for a case.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) library: String,
    /// Why there are no times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
    /// Normalised mean square error at the sampled elements; none where the library verifies by itself.
    pub(crate) nmse: Option<f64>,
    /// Microseconds a run of each sample.
    pub(crate) samples: Vec<f64>,
    /// Of the samples.
    pub(crate) microseconds: Option<Spread>,
    /// Of this library's samples over the first library's of the same round: above 1, the first is faster.
    pub(crate) ratio: Option<Spread>,
}

/// A library while its case is measured.
struct Runner {
    row: Row,
    loaded: Option<Box<dyn Loaded>>,
    runs: usize,
}

/// Measures a case on all libraries; a library that fails or is wrong has no times and does not stop the others.
pub(crate) fn measure(case: &Case, peers: &mut [Box<dyn Peer>], settings: Settings) -> Vec<Row> {
    let data = Data::new(&case.op);
    let samples = data.samples(&case.op);
    let mut runners: Vec<Runner> = peers.iter().map(|p| Runner::new(p.name())).collect();
    for (runner, peer) in runners.iter_mut().zip(peers.iter_mut()) {
        let ready = guarded(|| {
            let mut loaded = peer.load(&case.op, &data)?;
            let nmse = loaded.verify(&samples)?;
            let runs = pace(loaded.as_mut(), settings)?;
            Ok((loaded, nmse, runs))
        });
        match ready {
            Ok((loaded, nmse, runs)) => {
                (runner.loaded, runner.row.nmse, runner.runs) = (Some(loaded), nmse, runs);
            }
            Err(e) => runner.row.failure = Some(e.to_string()),
        }
    }
    for _ in 0..settings.rounds {
        runners.iter_mut().for_each(Runner::sample);
    }
    let first = runners.first().map(|r| r.row.samples.clone()).unwrap_or_default();
    runners.into_iter().map(|r| r.finish(&first)).collect()
}

/// Warms up and returns how many runs a sample takes.
fn pace(loaded: &mut dyn Loaded, settings: Settings) -> Result<usize> {
    if loaded.paces_itself() {
        return Ok(1);
    }
    let start = Instant::now();
    let (mut runs, mut last) = (1, 0.0);
    while start.elapsed() < WARM_UP || last == 0.0 {
        last = loaded.time(runs)?;
        runs = (settings.sample_ms as f64 * 1e3 / last.max(0.1)).clamp(1.0, 1e5) as usize;
    }
    Ok(runs)
}

impl Runner {
    fn new(library: String) -> Self {
        let row = Row { library, failure: None, nmse: None, samples: Vec::new(), microseconds: None, ratio: None };
        Self { row, loaded: None, runs: 1 }
    }

    fn sample(&mut self) {
        let Some(loaded) = &mut self.loaded else { return };
        match guarded(|| loaded.time(self.runs)) {
            Ok(time) => self.row.samples.push(time),
            Err(e) => {
                self.row.failure = Some(e.to_string());
                self.loaded = None;
            }
        }
    }

    fn finish(mut self, first: &[f64]) -> Row {
        if self.row.failure.is_none() {
            let ratios: Vec<f64> = self.row.samples.iter().zip(first).map(|(a, b)| a / b).collect();
            (self.row.microseconds, self.row.ratio) = (Spread::of(&self.row.samples), Spread::of(&ratios));
        }
        self.row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of(&[3.0, 1.0, 100.0]), Some(Spread { median: 3.0, mad: 2.0 }));
        assert_eq!(Spread::of(&[1.0, 2.0]), Some(Spread { median: 1.5, mad: 0.5 }));
        assert_eq!(Spread::of(&[]), None);
    }

    /// Takes as many microseconds as it is told, or fails.
    struct Fake(Option<f64>);

    impl Peer for Fake {
        fn name(&self) -> String {
            "fake".to_string()
        }

        fn load(&mut self, _: &crate::shapes::Op, _: &Data) -> Result<Box<dyn Loaded>> {
            match self.0 {
                Some(_) => Ok(Box::new(Fake(self.0))),
                None => panic!("cannot"),
            }
        }
    }

    impl Loaded for Fake {
        fn verify(&mut self, _: &crate::data::Samples) -> Result<Option<f64>> {
            Ok(Some(0.0))
        }

        fn time(&mut self, _: usize) -> Result<f64> {
            Ok(self.0.unwrap_or(0.0))
        }

        fn paces_itself(&self) -> bool {
            true
        }
    }

    #[test]
    fn ratios_are_over_the_first_and_a_panic_stops_nobody() {
        let case = Case { from: "test".into(), op: crate::shapes::Op::Matmul { m: 1, n: 1, k: 1 } };
        let mut peers: Vec<Box<dyn Peer>> =
            vec![Box::new(Fake(Some(2.0))), Box::new(Fake(None)), Box::new(Fake(Some(6.0)))];
        let rows = measure(&case, &mut peers, Settings { rounds: 3, sample_ms: 1 });
        assert_eq!(rows[0].ratio.map(|r| r.median), Some(1.0));
        assert_eq!(rows[1].failure.as_deref(), Some("panicked: cannot"));
        assert_eq!((rows[1].microseconds, rows[1].samples.len()), (None, 0));
        assert_eq!(rows[2].ratio, Some(Spread { median: 3.0, mad: 0.0 }));
    }
}
