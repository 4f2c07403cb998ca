//! Features too large for the device, in bands of rows: host memory has them whole, the device what one band needs.
//!
//! A band comes with the rows of its neighbours that a convolution reaches, and the statistics of a norm are those of the
//! whole picture. So bands are exact: there are no seams, and no overlap to blend.

use crate::{
    error::{Error, ErrorKind, Result},
    gpu::{Gpu, buffer_bytes},
    graph::{BindOptions, Bound, Control, Graph, Plan, Value},
    nn::GroupNorm,
    shape::DType,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// Features of one picture, `(height, width, channels)`.
#[derive(Debug, Clone)]
pub(super) struct Features {
    pub(super) size: [usize; 3],
    pub(super) values: Vec<f32>,
}

impl Features {
    /// Mean and inverse deviation of a norm's groups, `(groups, 2)`. Sums in f64: squares do not cancel.
    fn stats(&self, norm: &GroupNorm) -> Vec<f32> {
        let [h, w, c] = self.size;
        let (mut sums, mut squares) = (vec![0f64; c], vec![0f64; c]);
        for pixel in self.values.chunks(c) {
            for ((sum, square), v) in sums.iter_mut().zip(&mut squares).zip(pixel) {
                let v = f64::from(*v);
                *sum += v;
                *square += v * v;
            }
        }
        let size = c / norm.groups();
        let count = (h * w * size) as f64;
        let group = |(sums, squares): (&[f64], &[f64])| {
            let mean = sums.iter().sum::<f64>() / count;
            let variance = (squares.iter().sum::<f64>() / count - mean * mean).max(0.0);
            [mean as f32, (1.0 / (variance + f64::from(norm.eps())).sqrt()) as f32]
        };
        sums.chunks(size).zip(squares.chunks(size)).flat_map(group).collect()
    }
}

/// What a layer needs of its input's rows, and gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Rows above and below a band.
    around: [usize; 2],
    /// Rows of the output for so many rows of the input.
    rows: [usize; 2],
}

impl Reach {
    /// A convolution of side 3 or less.
    pub(super) const SAME: Self = Self { around: [1, 1], rows: [1, 1] };
    /// Each row twice, then such a convolution.
    pub(super) const UP: Self = Self { around: [1, 1], rows: [2, 1] };
    /// Every other row of one that is padded at the bottom only.
    pub(super) const DOWN: Self = Self { around: [0, 1], rows: [1, 2] };
    /// All rows at once.
    pub(super) const ALL: Self = Self { around: [1 << 30; 2], rows: [1, 1] };
}

/// Runs layers band by band.
pub(super) struct Bands<'a> {
    pub(super) gpu: &'a Gpu,
    /// The most bytes on the device besides weights.
    pub(super) room: u64,
    pub(super) control: Control<'a>,
    /// Floating-point operations of everything, and those done.
    pub(super) flops: u64,
    pub(super) done: AtomicU64,
    /// If it is there nothing runs, and it becomes the bytes of the layer that takes the most in the smallest bands.
    pub(super) least: Option<AtomicU64>,
}

/// Rows of the smallest band: of one, a layer that halves them would leave none.
const SMALLEST: usize = 2;

/// A recording for bands of some rows.
struct Band {
    inputs: Vec<Value>,
    stats: Option<Value>,
    y: Value,
    plan: Plan,
}

impl Band {
    /// Bytes on the device.
    fn bytes(&self) -> u64 {
        let g = self.plan.graph();
        let inputs = self.inputs.iter().chain(&self.stats).map(|v| g.bytes(*v).next_multiple_of(8)).sum();
        let staging = buffer_bytes(inputs) + buffer_bytes(g.bytes(self.y));
        self.plan.bytes() + buffer_bytes(self.plan.params_bytes()) + staging
    }
}

/// Records a layer on some inputs, with the statistics of the first.
#[cfg(not(target_arch = "wasm32"))]
pub(super) type Layer<'a> = dyn Fn(&mut Graph, &[Value], Option<Value>) -> Result<Value> + Sync + 'a;
/// In a browser, buffers belong to their thread.
#[cfg(target_arch = "wasm32")]
pub(super) type Layer<'a> = dyn Fn(&mut Graph, &[Value], Option<Value>) -> Result<Value> + 'a;

impl Bands<'_> {
    /// `layer` of features of one height and width. It gets a band of each, and the statistics of the first for `norm`.
    ///
    /// # Errors
    /// `OutOfMemory` if not even two rows fit; `Cancelled`, and what the device reports.
    pub(super) async fn run(
        &self,
        inputs: &[&Features],
        norm: Option<&GroupNorm>,
        reach: Reach,
        layer: &Layer<'_>,
    ) -> Result<Features> {
        let [h, w, _] = inputs[0].size;
        let record = |rows: usize| {
            let mut g = Graph::new(self.gpu.target());
            let values: Vec<Value> =
                inputs.iter().map(|x| g.input("band", [1, rows, w, x.size[2]], DType::F32)).collect();
            let stats = norm.map(|norm| g.input("stats", [1, norm.groups(), 2], DType::F32));
            let y = layer(&mut g, &values, stats)?;
            g.output(y, "band");
            Ok::<_, Error>(Band { inputs: values, stats, y, plan: g.plan()? })
        };
        let reached =
            |first: usize, len: usize| first.saturating_sub(reach.around[0])..(first + len + reach.around[1]).min(h);
        let with_around = |rows: usize| (rows + reach.around[0] + reach.around[1]).min(h);
        if let Some(least) = &self.least {
            let band = record(with_around(SMALLEST))?;
            least.fetch_max(band.bytes(), Ordering::Relaxed);
            let [_, _, width, channels] = band.plan.graph().shape(band.y).axes("a band")?;
            return Ok(Features { size: [h * reach.rows[0] / reach.rows[1], width, channels], values: Vec::new() });
        }
        // As many rows as fit, an even number for layers that halve it.
        let mut step = h;
        loop {
            let rows = with_around(step);
            let problem = match record(rows) {
                Ok(band) if band.bytes() <= self.room => break,
                Ok(band) => {
                    let (needs, room) = (band.bytes(), self.room);
                    Error::new(ErrorKind::OutOfMemory, format!("{rows} rows need {needs} bytes on the GPU, not {room}"))
                }
                Err(e) => e,
            };
            if problem.kind() != ErrorKind::OutOfMemory || step <= SMALLEST {
                return Err(problem);
            }
            step = (step / 2).next_multiple_of(2);
        }

        let stats = norm.map(|norm| inputs[0].stats(norm));
        let mut current: Option<(Vec<Value>, Value, Bound)> = None;
        let mut y = Features { size: [h * reach.rows[0] / reach.rows[1], 0, 0], values: Vec::new() };
        for first in (0..h).step_by(step) {
            let len = step.min(h - first);
            let rows = reached(first, len);
            let fits =
                |(inputs, _, bound): &(Vec<Value>, Value, Bound)| bound.graph().shape(inputs[0])[1] == rows.len();
            if !current.as_ref().is_some_and(fits) {
                // Its memory is needed.
                drop(current.take());
                let band = record(rows.len())?;
                let all = band.inputs.iter().chain(&band.stats).copied().collect();
                current = Some((all, band.y, band.plan.bind(self.gpu, &BindOptions::default())?));
            }
            let Some((values, out, bound)) = &mut current else { continue };
            let part = |x: &'_ Features| x.size[1] * x.size[2];
            let parts =
                inputs.iter().map(|x| &x.values[rows.start * part(x)..rows.end * part(x)]).chain(stats.as_deref());
            let parts: Vec<(Value, &[u8])> = values.iter().copied().zip(parts.map(bytemuck::cast_slice)).collect();
            let flops = bound.graph().flops();
            let control = Control { progress: None, ..self.control };
            let band = bound.run_f32(&parts, &[*out], control).await?.swap_remove(0);
            let [_, _, width, channels] = bound.graph().shape(*out).axes("a band")?;
            (y.size[1], y.size[2]) = (width, channels);
            let rows_out = |rows: usize| rows * reach.rows[0] / reach.rows[1] * width * channels;
            let skip = rows_out(first - rows.start);
            y.values.extend_from_slice(&band[skip..skip + rows_out(len)]);
            let done = self.done.fetch_add(flops, Ordering::Relaxed) + flops;
            if let Some(progress) = self.control.progress {
                progress((done as f32 / self.flops as f32).min(1.0));
            }
        }
        Ok(y)
    }
}
