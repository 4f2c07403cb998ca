//! The layers of an encoder, one after the other. An encoder runs once for a prompt, so nothing is gained by keeping its
//! weights: while the device computes a layer, the next one is read from the file and uploaded. It holds two at a time.

use crate::{
    error::{Result, bail, ensure},
    gpu::Gpu,
    graph::{BindOptions, Control, Graph, SlotPool, Value},
    nn::{Storage, projection::Parameters},
    shape::DType,
    weights::Weights,
};

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

/// A sequence of layers, each of which maps the hidden state `(1, tokens, width)` to the next.
pub(super) struct Layers<'a, L, R> {
    /// Their path, which a number follows.
    pub(super) scope: &'a str,
    /// How many there are.
    pub(super) count: usize,
    /// Puts the weights of one on a device.
    pub(super) load: L,
    /// Records one.
    pub(super) record: R,
}

impl<L, R> Layers<'_, L, R> {
    /// Plays the layers on `x (tokens, width)`. Gives the states `wanted`, in the order of their numbers: 0 is `x`, `i` is
    /// what leaves layer `i - 1`.
    ///
    /// # Errors
    /// Those of loading and recording; `Numeric`, naming the layer, if a state is not finite; what the device reports.
    pub(super) async fn play<T>(
        &self,
        run: Run<'_>,
        x: Vec<f32>,
        width: usize,
        wanted: &[usize],
    ) -> Result<Vec<Vec<f32>>>
    where
        L: Fn(&Parameters<'_>, usize) -> Result<T>,
        R: Fn(&mut Graph, &T, Value) -> Result<Value>,
    {
        let (Run { gpu, storage, control }, count) = (run, self.count);
        let parameters = Parameters::new(gpu, storage);
        let shape = [1, x.len() / width, width];
        let states = [gpu.zeros("hidden state", shape, DType::F32)?, gpu.zeros("hidden state", shape, DType::F32)?];
        states[0].fill(gpu, bytemuck::cast_slice(&x))?;
        let mut kept = Vec::new();
        kept.extend(wanted.contains(&0).then_some(x));
        let options = BindOptions { pool: Some(SlotPool::default()), ..BindOptions::default() };
        let mut next = if count > 0 { Some((self.load)(&parameters, 0)?) } else { None };
        for i in 0..count {
            let Some(layer) = next.take() else { bail!(Internal, "layer {i} was not loaded") };
            let (from, to) = (&states[i % 2], &states[(i + 1) % 2]);
            let mut g = Graph::new(gpu.target());
            let x = g.tensor(from);
            let y = g.scope(format!("{}.{i}", self.scope), |g| (self.record)(g, &layer, x))?;
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
                next = Some((self.load)(&parameters, i + 1)?);
            }
            // Each state is looked at: a bad one is named where it arises, and costs no more than the last.
            let state: Vec<f32> = bytemuck::pod_collect_to_vec(&to.read(gpu).await?);
            let bad = state.iter().position(|v| !v.is_finite());
            if let Some(at) = bad {
                bail!(Numeric, "{}.{i}: element {at} of the hidden state is {}", self.scope, state[at]);
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
