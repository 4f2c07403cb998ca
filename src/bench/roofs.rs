//! What a device can do at best, measured by the kernel `roofline`.

use super::{Lab, stats};
use crate::{
    error::Result,
    graph::{BindOptions, Control, Graph},
    kernel::{Class, Feature, Variant},
    kernels::{
        Random,
        roofline::{Probe, roofline},
    },
    shape::DType,
};
use serde::{Deserialize, Serialize};

/// The roofs of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Roofs {
    /// `10^9` f32 operations a second; a multiply-add counts two.
    pub fma: f64,
    /// The same in f16, where shaders have it.
    pub half: Option<f64>,
    /// `10^9` operations a second of packed 8-bit dot products; emulated where it is below `fma`.
    pub dot4: f64,
    /// `10^9` bytes a second read from workgroup memory.
    pub workgroup: f64,
    /// `10^9` bytes a second of device memory, read and written.
    pub memory: f64,
}

impl Roofs {
    /// The rate that bounds a variant's arithmetic. Half tiles sum in f32; matrix units have no probe.
    pub(super) fn of(&self, variant: &Variant) -> f64 {
        if variant.needs().any(|feature| feature == Feature::Dot4) { self.dot4 } else { self.fma }
    }
}

/// Samples of each probe; the best counts: a roof is what is possible.
const SAMPLES: usize = 25;
/// Nanoseconds that a sample lasts: long enough for the clock, and not too long for a watchdog.
const SAMPLE: f64 = 8e6;

/// Measures all roofs.
///
/// # Errors
/// What the device reports.
pub(super) async fn measure(lab: &Lab) -> Result<Roofs> {
    let rate = |probe| rate(lab, probe);
    let half = lab.gpu().target().features.contains(&Feature::F16);
    Ok(Roofs {
        fma: rate(Probe::Fma).await?,
        half: if half { Some(rate(Probe::Half).await?) } else { None },
        dot4: rate(Probe::Dot4).await?,
        workgroup: rate(Probe::Workgroup).await?,
        memory: rate(Probe::Memory).await?,
    })
}

/// `10^9` units a second.
async fn rate(lab: &Lab, probe: Probe) -> Result<f64> {
    // Enough invocations for any GPU, a few for each core of a software adapter.
    let invocations = match lab.gpu().target().class() {
        Class::Gpu => 1 << 19,
        Class::Software => 1 << 13,
    };
    let count = match probe {
        Probe::Memory => (lab.gpu().target().limits.binding.min(128 << 20) / 4) as usize,
        _ => 1024,
    };
    let mut iterations = 1;
    loop {
        let mut g = Graph::new(lab.gpu().target());
        let x = g.input("x", [count], DType::F32);
        roofline(&mut g, x, probe, iterations, invocations)?;
        let units = g.flops() as f64;
        let mut bound = [g.plan()?.bind(lab.gpu(), &BindOptions::default())?];
        let values = Random::new(1).values(count);
        bound[0].run(&[(x, bytemuck::cast_slice(&values))], &[], Control::default()).await?;
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            samples.push(lab.sample(&bound, 1).await?);
            if samples[0] < SAMPLE / 2.0 && probe != Probe::Memory {
                break;
            }
        }
        if samples.len() == SAMPLES {
            return Ok(units / stats::quantile(&samples, 0.0));
        }
        iterations = (iterations as f64 * (SAMPLE / samples[0].max(1.0)).clamp(1.5, 16.0)).ceil() as usize;
    }
}
