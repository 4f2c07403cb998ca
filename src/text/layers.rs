//! The layers of an encoder, one after the other. An encoder runs once for a prompt, so nothing is gained by keeping its
//! weights: while the device computes a layer, the next one is read from the file and uploaded. It holds two at a time.

use crate::{
    error::{Result, bail, ensure},
    gpu::{Gpu, buffer_bytes},
    graph::{BindOptions, Control, Graph, SlotPool, Value},
    nn::{
        Storage,
        projection::{Parameters, Place, Tally},
    },
    shape::DType,
    weights::Weights,
};
use serde::Serialize;
use std::cell::RefCell;

/// What a run of an encoder needs besides its weights.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The device.
    pub gpu: &'a Gpu,
    /// How matrices are kept there.
    pub storage: Storage,
    /// Cancellation, and progress over the layers.
    pub control: Control<'a>,
}

/// What an encoder takes for one text, known before anything is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EncoderPlan {
    /// Which one.
    pub name: &'static str,
    /// Layers that run.
    pub layers: usize,
    /// Bytes of their weights.
    pub weights: u64,
    /// Bytes of weights on the device when the most is there: of two layers, unless there is only one.
    pub resident: u64,
    /// Bytes besides at that time: the state on its way, activations, and what the launches need.
    pub working: u64,
    /// Floating-point operations.
    pub flops: u64,
}

impl EncoderPlan {
    /// The most bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.resident + self.working
    }
}

/// A sequence of layers, each of which maps the hidden state `(1, tokens, width)` to the next.
pub(super) trait Layers {
    /// The weights of one.
    type Layer;

    /// Their path, which a number follows.
    const SCOPE: &'static str;

    /// How many run.
    fn count(&self) -> usize;

    /// Makes the weights of layer `i`.
    fn load(&self, p: &Parameters<'_>, i: usize) -> Result<Self::Layer>;

    /// Records one.
    fn record(&self, g: &mut Graph, layer: &Self::Layer, x: Value) -> Result<Value>;

    /// What [`play`](Self::play) takes on `tokens` of `width` features each, besides the `shared` bytes that all layers
    /// read. Reads the headers of the weights only, as the plan of a transformer.
    ///
    /// # Errors
    /// Those of declaring and recording; `OutOfMemory` if a value exceeds what the device binds.
    fn plan(
        &self,
        name: &'static str,
        p: &Parameters<'_>,
        [tokens, width]: [usize; 2],
        shared: u64,
    ) -> Result<EncoderPlan> {
        // Of each layer its weights, and what there is besides while it is submitted.
        let (mut layers, mut pool, mut flops) = (Vec::new(), Vec::new(), 0);
        let state = buffer_bytes(DType::F32.bytes(tokens * width) as u64);
        for i in 0..self.count() {
            let tally = RefCell::new(Tally::default());
            let layer = self.load(&p.at(Place::Declared(&tally)), i)?;
            let mut g = Graph::new(p.loader.gpu.target());
            let [x, to] = [(); 2].map(|()| g.declare([1, tokens, width], DType::F32));
            let y = g.scope(format!("{}.{i}", Self::SCOPE), |g| self.record(g, &layer, x))?;
            g.store_in(y, to)?;
            flops += g.flops();
            let plan = g.plan()?;
            plan.share(&mut pool);
            let held = shared + 2 * state + pool.iter().sum::<u64>();
            layers.push((tally.into_inner().bytes(), held, buffer_bytes(plan.params_bytes())));
        }
        // A layer is submitted; then the next is loaded, and the state read.
        let moments = layers.iter().enumerate().flat_map(|(i, &(weights, held, launches))| {
            let next = layers.get(i + 1).map_or(0, |next| next.0);
            [(weights, held + launches), (weights + next, held + state)]
        });
        let (resident, working) = moments.max_by_key(|(weights, rest)| weights + rest).unwrap_or_default();
        let weights = layers.iter().map(|layer| layer.0).sum();
        Ok(EncoderPlan { name, layers: self.count(), weights, resident, working, flops })
    }

    /// Plays the layers on `x (tokens, width)`. Gives the states `wanted`, in the order of their numbers: 0 is `x`, `i` is
    /// what leaves layer `i - 1`.
    ///
    /// # Errors
    /// Those of loading and recording; `Numeric`, naming the layer, if a state is not finite; what the device reports.
    async fn play(&self, run: Run<'_>, x: Vec<f32>, width: usize, wanted: &[usize]) -> Result<Vec<Vec<f32>>> {
        let (Run { gpu, storage, control }, count) = (run, self.count());
        let parameters = Parameters::new(gpu, storage);
        let shape = [1, x.len() / width, width];
        let states = [gpu.zeros("hidden state", shape, DType::F32)?, gpu.zeros("hidden state", shape, DType::F32)?];
        states[0].fill(gpu, bytemuck::cast_slice(&x))?;
        let mut kept = Vec::new();
        kept.extend(wanted.contains(&0).then_some(x));
        let options = BindOptions { pool: Some(SlotPool::default()), ..BindOptions::default() };
        let mut next = if count > 0 { Some(self.load(&parameters, 0)?) } else { None };
        for i in 0..count {
            let Some(layer) = next.take() else { bail!(Internal, "layer {i} was not loaded") };
            let (from, to) = (&states[i % 2], &states[(i + 1) % 2]);
            let mut g = Graph::new(gpu.target());
            let x = g.tensor(from);
            let y = g.scope(format!("{}.{i}", Self::SCOPE), |g| self.record(g, &layer, x))?;
            g.store(y, to)?;
            let share = |done: f32| {
                if let Some(progress) = control.progress {
                    progress((i as f32 + done) / count as f32);
                }
            };
            let of_layer = Control { progress: Some(&share), ..control };
            // Returns once the work is submitted.
            g.plan()?.bind(gpu, &options)?.run(&[], &[], of_layer).await?;
            if i + 1 < count {
                next = Some(self.load(&parameters, i + 1)?);
            }
            // Each state is looked at: a bad one is named where it arises, and costs no more than the last.
            let state: Vec<f32> = bytemuck::pod_collect_to_vec(&to.read(gpu).await?);
            let bad = state.iter().position(|v| !v.is_finite());
            if let Some(at) = bad {
                bail!(Numeric, "{}.{i}: element {at} of the hidden state is {}", Self::SCOPE, state[at]);
            }
            kept.extend(wanted.contains(&(i + 1)).then_some(state));
        }
        Ok(kept)
    }
}

/// Rows `ids` of an embedding table `(vocabulary, width)`, read from the file: the table is never in memory.
///
/// # Errors
/// `Weights` if there is no such table or it has no such row, which is how a tokenizer of another model shows.
pub(super) fn embed(w: &Weights, name: &str, width: usize, ids: &[u32]) -> Result<Vec<f32>> {
    let [vocabulary, _] = w.axes(name)?;
    let table = w.get(name, &[vocabulary, width])?;
    ensure!(width > 0, Weights, "{}: tokens of no features", w.origin());
    let mut rows = vec![0.0; ids.len() * width];
    for (id, row) in ids.iter().zip(rows.chunks_mut(width)) {
        ensure!(
            (*id as usize) < vocabulary,
            Weights,
            "{}: token {id} of a vocabulary of {vocabulary}: the tokenizer is of another model",
            w.origin()
        );
        table.read_f32(*id as usize * width, row)?;
    }
    Ok(rows)
}
