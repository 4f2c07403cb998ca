//! Decoding and encoding within the device's memory: whole where that fits, else band by band.

use super::{
    AutoEncoder,
    bands::{Bands, Features},
};
use crate::{
    error::{ErrorKind, Result, ensure},
    gpu::{Gpu, buffer_bytes},
    graph::{BindOptions, Control, Graph, Value},
    kernel::Target,
};
use std::sync::atomic::AtomicU64;

/// Which way through an autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Pictures to moments, as [`AutoEncoder::record_encode`].
    Encode,
    /// Latents to pictures, as [`AutoEncoder::record_decode`].
    Decode,
}

/// What a run of an autoencoder takes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RunPlan {
    /// Bytes of the weights on the device, of both directions.
    pub weights: u64,
    /// The most bytes on the device besides.
    pub working: u64,
    /// Whether features wait in host memory, and pass the device in bands of rows.
    pub by_bands: bool,
    /// The most bytes that they then take there.
    pub host: u64,
    /// Floating-point operations; bands have some more, for the rows that they share.
    pub flops: u64,
}

impl RunPlan {
    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.weights + self.working
    }
}

/// Working memory of bands where no budget is given: larger ones are no faster.
const ROOM: u64 = 1 << 30;
/// Bands of less are not tried after an out-of-memory error.
const LEAST: u64 = 16 << 20;

impl AutoEncoder {
    /// What [`run`](Self::run) takes within a budget, if one is given. Pictures pass one by one where they pass in bands. If
    /// not even the smallest bands are within the budget, it is what they take: the caller has to look at
    /// [`bytes`](RunPlan::bytes).
    ///
    /// # Errors
    /// `Argument` for a size that [`run`](Self::run) refuses, `OutOfMemory` for one whose smallest bands exceed what the device
    /// binds.
    pub fn plan(&self, gpu: &Gpu, way: Direction, size: [usize; 3], budget: Option<u64>) -> Result<RunPlan> {
        let mut unlimited = Target::clone(gpu.target());
        unlimited.limits.binding = u64::MAX;
        let (graph, x, y) = self.record(Graph::new(&unlimited), way, size)?;
        let flops = graph.flops();
        let written = graph.dispatches().iter().flat_map(|d| &d.writes);
        let largest = written.map(|v| graph.bytes(*v)).max().unwrap_or(0) / size[0] as u64;
        let staging = buffer_bytes(graph.bytes(x)) + buffer_bytes(graph.bytes(y));
        let plan = graph.plan()?;
        let weights = self.bytes;
        let working = plan.bytes() + buffer_bytes(plan.params_bytes()) + staging;
        let binds = self.record(Graph::new(gpu.target()), way, size).is_ok();
        let room = budget.map_or(ROOM, |budget| budget.saturating_sub(weights));
        Ok(match binds && budget.is_none_or(|budget| weights + working <= budget) {
            true => RunPlan { weights, working, by_bands: false, host: 0, flops },
            // Of a residual block the input, the features between its convolutions, and the output.
            false => {
                let working = room.max(self.least(gpu, way, size)?);
                RunPlan { weights, working, by_bands: true, host: 3 * largest, flops }
            }
        })
    }

    /// Bytes of the smallest bands.
    fn least(&self, gpu: &Gpu, way: Direction, [_, h, w]: [usize; 3]) -> Result<u64> {
        let least = Some(AtomicU64::new(0));
        let bands = Bands { gpu, room: 0, control: Control::default(), flops: 0, done: AtomicU64::new(0), least };
        // Nothing runs, so nothing is waited for.
        pollster::block_on(self.pass(&bands, way, Features { size: [h, w, self.channels(way)], values: Vec::new() }))?;
        Ok(bands.least.map_or(0, AtomicU64::into_inner))
    }

    /// Channels of what goes in.
    fn channels(&self, way: Direction) -> usize {
        if way == Direction::Encode { 3 } else { self.latent_channels() }
    }

    async fn pass(&self, bands: &Bands<'_>, way: Direction, x: Features) -> Result<Features> {
        match way {
            Direction::Encode => self.encoder.by_bands(bands, x).await,
            Direction::Decode => self.decoder.by_bands(bands, x).await,
        }
    }

    /// Runs `x`, `n` pictures `(h, w, 3)` or latents `(h, w, channels)`, through the device within a budget, if one is given.
    /// What does not fit passes in bands of rows, with the same result up to the order of sums; without a budget also after
    /// an out-of-memory error.
    ///
    /// # Errors
    /// `Argument` as [`record_encode`](Self::record_encode) and [`record_decode`](Self::record_decode), `Shape` for another
    /// number of values, `OutOfMemory` if not even the smallest bands fit; `Cancelled`, and what the device reports.
    pub async fn run(
        &self,
        gpu: &Gpu,
        way: Direction,
        x: &[f32],
        size: [usize; 3],
        budget: Option<u64>,
        control: Control<'_>,
    ) -> Result<Vec<f32>> {
        let [n, h, w] = size;
        let channels = self.channels(way);
        ensure!(x.len() == n * h * w * channels, Shape, "{} values for {n} x ({h}, {w}, {channels})", x.len());
        let plan = self.plan(gpu, way, size, budget)?;
        let (needs, budget_bytes) = (plan.bytes(), budget.unwrap_or(u64::MAX));
        ensure!(
            needs <= budget_bytes,
            OutOfMemory,
            "the autoencoder needs {needs} bytes on the GPU even in bands, the budget is {budget_bytes}: take a smaller picture"
        );
        let mut room = plan.working;
        if !plan.by_bands {
            let (graph, input, output) = self.record(Graph::new(gpu.target()), way, size)?;
            let result = match graph.plan()?.bind(gpu, &BindOptions::default()) {
                Ok(mut bound) => bound.run_f32(&[(input, bytemuck::cast_slice(x))], &[output], control).await,
                Err(e) => Err(e),
            };
            match result {
                Err(e) if e.kind() == ErrorKind::OutOfMemory && budget.is_none() => {
                    tracing::warn!("{e}; the autoencoder runs in bands of rows");
                    room = (room / 2).min(ROOM);
                }
                done => return Ok(done?.swap_remove(0)),
            }
        }
        loop {
            match self.by_bands(gpu, way, x, size, room, plan.flops, control).await {
                Err(e) if e.kind() == ErrorKind::OutOfMemory && budget.is_none() && room > LEAST => {
                    tracing::warn!("{e}; the autoencoder runs in smaller bands");
                    room /= 2;
                }
                done => return done,
            }
        }
    }

    fn record(&self, g: Graph, way: Direction, size: [usize; 3]) -> Result<(Graph, Value, Value)> {
        match way {
            Direction::Encode => self.record_encode(g, size),
            Direction::Decode => self.record_decode(g, size),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that a run is")]
    async fn by_bands(
        &self,
        gpu: &Gpu,
        way: Direction,
        x: &[f32],
        [n, h, w]: [usize; 3],
        room: u64,
        flops: u64,
        control: Control<'_>,
    ) -> Result<Vec<f32>> {
        let bands = Bands { gpu, room, control, flops, done: AtomicU64::new(0), least: None };
        let mut all = Vec::new();
        for one in x.chunks(x.len() / n) {
            let features = Features { size: [h, w, one.len() / (h * w)], values: one.to_vec() };
            all.extend(self.pass(&bands, way, features).await?.values);
        }
        Ok(all)
    }
}
