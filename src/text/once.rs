//! A few layers that are recorded, loaded and played once: what stands before and after the [`Layers`](super::layers::Layers) of
//! an encoder.

use super::layers::{EncoderPlan, Run};
use crate::{
    error::{Result, ensure},
    gpu::{Gpu, buffer_bytes},
    graph::{BindOptions, Graph, Value},
    nn::{
        Storage,
        projection::{Parameters, Place, Tally},
    },
    shape::{DType, Shape},
};
use std::cell::RefCell;

/// Loads layers and records what they make of an input.
pub(super) trait Once {
    /// For plans, errors, and as the scope.
    const NAME: &'static str;

    /// Axes of the input, f32.
    fn input(&self) -> Shape;

    /// The result, f32.
    fn record(&self, p: &Parameters<'_>, g: &mut Graph, x: Value) -> Result<Value>;

    /// What [`play`](Self::play) takes. Nothing is put on the device.
    ///
    /// # Errors
    /// Those of recording; `OutOfMemory` if a value exceeds what the device binds.
    fn plan(&self, gpu: &Gpu, storage: Storage) -> Result<EncoderPlan> {
        let tally = RefCell::new(Tally::default());
        let p = Parameters::new(gpu, storage);
        let (g, x, y) = recorded(self, &p.at(Place::Declared(&tally)))?;
        let staging = [x, y].map(|v| buffer_bytes(g.bytes(v).next_multiple_of(8))).iter().sum::<u64>();
        let (flops, plan) = (g.flops(), g.plan()?);
        let weights = tally.into_inner().bytes();
        let working = plan.bytes() + buffer_bytes(plan.params_bytes()) + staging;
        Ok(EncoderPlan { name: Self::NAME, layers: 1, weights, resident: weights, working, flops })
    }

    /// The result of `x`.
    ///
    /// # Errors
    /// Those of recording; `Numeric` if the result is not finite; `Cancelled`, and what the device reports.
    async fn play(&self, run: Run<'_>, x: &[f32]) -> Result<Vec<f32>> {
        let (g, input, output) = recorded(self, &Parameters::new(run.gpu, run.storage))?;
        let mut bound = g.plan()?.bind(run.gpu, &BindOptions::default())?;
        let values = bound.run_f32(&[(input, bytemuck::cast_slice(x))], &[output], run.control).await?.swap_remove(0);
        let bad = values.iter().filter(|v| !v.is_finite()).count();
        ensure!(bad == 0, Numeric, "{}: {bad} of {} values are NaN or infinite", Self::NAME, values.len());
        Ok(values)
    }
}

fn recorded<O: Once + ?Sized>(once: &O, p: &Parameters<'_>) -> Result<(Graph, Value, Value)> {
    let mut g = Graph::new(p.loader.gpu.target());
    let x = g.input("x", once.input(), DType::F32);
    let y = g.scope(O::NAME, |g| once.record(p, g, x))?;
    g.output(y, "y");
    Ok((g, x, y))
}
