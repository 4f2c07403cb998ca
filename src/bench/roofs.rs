//! What a device can do at best, measured by the kernel `roofline`.

use super::timer::Timer;
use crate::{
    error::Result,
    gpu::Gpu,
    graph::{BindOptions, Bound, Control, Graph},
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

/// Samples of each probe; the best counts: a roof is what is possible.
const SAMPLES: usize = 25;
/// Nanoseconds that a sample lasts: long enough for the clock, and not too long for a watchdog.
const SAMPLE: f64 = 8e6;

/// A probe ready to be sampled.
#[derive(Debug)]
pub(super) struct Ceiling {
    plan: [Bound; 1],
    units: f64,
}

impl Ceiling {
    /// `10^9` units a second, now.
    pub(super) async fn sample(&self, timer: &Timer) -> Result<f64> {
        Ok(self.units / timer.sample(&self.plan, 1).await?)
    }
}

/// What bounds arithmetic, kept to be sampled in turns with kernels: on a shared machine it moves with them.
#[derive(Debug)]
pub(super) struct Arithmetic {
    fma: Ceiling,
    dot4: Ceiling,
}

impl Arithmetic {
    /// The probe of a variant's arithmetic. Half tiles sum in f32; matrix units have no probe.
    pub(super) fn of(&self, variant: &Variant) -> &Ceiling {
        if variant.needs().any(|feature| feature == Feature::Dot4) { &self.dot4 } else { &self.fma }
    }
}

/// Measures all roofs.
///
/// # Errors
/// What the device reports.
pub(super) async fn measure(gpu: &Gpu, timer: &Timer) -> Result<(Roofs, Arithmetic)> {
    let (fma, f32) = ceiling(gpu, timer, Probe::Fma).await?;
    let (dot4, int8) = ceiling(gpu, timer, Probe::Dot4).await?;
    let half = match gpu.target().features.contains(&Feature::F16) {
        true => Some(ceiling(gpu, timer, Probe::Half).await?.1),
        false => None,
    };
    let workgroup = ceiling(gpu, timer, Probe::Workgroup).await?.1;
    let memory = ceiling(gpu, timer, Probe::Memory).await?.1;
    Ok((Roofs { fma: f32, half, dot4: int8, workgroup, memory }, Arithmetic { fma, dot4 }))
}

/// A probe of a sample's length, and the best of its samples in `10^9` units a second.
async fn ceiling(gpu: &Gpu, timer: &Timer, probe: Probe) -> Result<(Ceiling, f64)> {
    // Enough invocations for any GPU, a few for each core of a software adapter.
    let invocations = match gpu.target().class() {
        Class::Gpu => 1 << 19,
        Class::Software => 1 << 13,
    };
    let count = match probe {
        Probe::Memory => (gpu.target().limits.binding.min(128 << 20) / 4) as usize,
        _ => 1024,
    };
    let mut iterations = 1;
    loop {
        let mut g = Graph::new(gpu.target());
        let x = g.input("x", [count], DType::F32);
        roofline(&mut g, x, probe, iterations, invocations)?;
        let units = g.flops() as f64;
        let mut plan = [g.plan()?.bind(gpu, &BindOptions::default())?];
        let values = Random::new(1).values(count);
        plan[0].run(&[(x, bytemuck::cast_slice(&values))], &[], Control::default()).await?;
        let ceiling = Ceiling { plan, units };
        let mut best = ceiling.sample(timer).await?;
        let first = units / best;
        if first >= SAMPLE / 2.0 || probe == Probe::Memory {
            for _ in 1..SAMPLES {
                best = best.max(ceiling.sample(timer).await?);
            }
            return Ok((ceiling, best));
        }
        iterations = (iterations as f64 * (SAMPLE / first.max(1.0)).clamp(1.5, 16.0)).ceil() as usize;
    }
}
