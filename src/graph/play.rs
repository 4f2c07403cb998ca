//! Play: inputs in, launches submitted, outputs back.

use super::{
    Bound, Value,
    bind::{GUARD, Step, submit_budget},
};
use crate::{
    error::{Result, ensure},
    gpu::{Buffer, Gpu, Submission, Usage},
    trace::{self, Trace, Track},
};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a play reports to and listens to.
#[derive(Clone, Copy, Default)]
pub struct Control<'a> {
    /// Set by another thread to stop: takes effect before the next submit.
    pub cancel: Option<&'a AtomicBool>,
    /// Told the share of the work done so far, 0 to 1.
    pub progress: Option<&'a (dyn Fn(f32) + Sync)>,
}

impl Control<'_> {
    /// # Errors
    /// `Cancelled` once the flag is set.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.cancel.is_some_and(|c| c.load(Ordering::Relaxed)), Cancelled, "cancelled");
        Ok(())
    }
}

/// The time of one dispatch on the device.
#[derive(Debug, Clone, Serialize)]
pub struct DispatchTime {
    /// Scope path.
    pub scope: String,
    /// Kernel stem.
    pub kernel: String,
    /// Variant.
    pub variant: String,
    /// Nanoseconds between the timestamps around it.
    pub nanoseconds: f64,
    /// Its floating-point operations.
    pub flops: u64,
}

impl Bound {
    /// Submits of one play: 1 unless the work exceeds the FLOP budget of a submit.
    pub fn submits(&self) -> usize {
        self.slices().len().max(1)
    }

    /// Writes `inputs`, plays every dispatch, and reads `outputs` back: one submit for short plans.
    ///
    /// # Errors
    /// `Shape` if an input has the wrong number of bytes, `Cancelled`, and what the device reports.
    pub async fn run(
        &mut self,
        inputs: &[(Value, &[u8])],
        outputs: &[Value],
        control: Control<'_>,
    ) -> Result<Vec<Vec<u8>>> {
        let _span = trace::span(|| "play".into());
        control.check()?;
        self.gpu.check()?;
        let parts: Vec<&[u8]> = inputs.iter().map(|(_, bytes)| *bytes).collect();
        for (v, bytes) in inputs {
            let expected = self.plan.graph.bytes(*v);
            ensure!(bytes.len() as u64 == expected, Shape, "{} bytes for an input of {expected}", bytes.len());
        }
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.map(|b| b.next_multiple_of(8)).sum::<u64>();
        let in_bytes = sum(&mut parts.iter().map(|p| p.len() as u64));
        let out_bytes = sum(&mut outputs.iter().map(|&v| self.plan.graph.bytes(v)));
        Self::grow(&self.gpu, &mut self.upload, in_bytes, Usage::Upload)?;
        Self::grow(&self.gpu, &mut self.download, out_bytes, Usage::Download)?;

        let mut first = self.gpu.submission();
        if self.guard {
            self.poison();
        }
        if let Some(staging) = self.upload.as_ref().filter(|_| in_bytes > 0) {
            staging.map_write(&self.gpu, in_bytes, &parts).await?;
            let mut at = 0;
            for (v, bytes) in inputs {
                let to = self.binding(*v);
                first.copy(staging, at, to.buffer, to.offset, bytes.len() as u64);
                at += (bytes.len() as u64).next_multiple_of(8);
            }
        }
        let mut last = self.play(first, control).await?;
        if let Some(staging) = self.download.as_ref().filter(|_| out_bytes > 0) {
            let mut at = 0;
            for &v in outputs {
                let from = self.binding(v);
                last.copy(from.buffer, from.offset, staging, at, from.bytes);
                at += from.bytes.next_multiple_of(8);
            }
        }
        last.submit();
        self.gpu.check()?;
        if let Some(progress) = control.progress {
            progress(1.0);
        }
        match self.download.as_ref().filter(|_| out_bytes > 0) {
            None => Ok(Vec::new()),
            Some(staging) => {
                let split = |all: &[u8]| {
                    let mut at = 0;
                    let take = |&v: &Value| {
                        let bytes = self.plan.graph.bytes(v) as usize;
                        let part = all[at..at + bytes].to_vec();
                        at += bytes.next_multiple_of(8);
                        part
                    };
                    outputs.iter().map(take).collect()
                };
                staging.map_read(&self.gpu, out_bytes, split).await
            }
        }
    }

    /// [`run`](Self::run) with f32 results.
    ///
    /// # Errors
    /// As `run`.
    pub async fn run_f32(
        &mut self,
        inputs: &[(Value, &[u8])],
        outputs: &[Value],
        control: Control<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let bytes = self.run(inputs, outputs, control).await?;
        Ok(bytes.iter().map(|b| bytemuck::pod_collect_to_vec(b)).collect())
    }

    /// Rows of a value along its first axis, as the last run left them: call it before another plan of the same
    /// pool plays.
    ///
    /// # Errors
    /// `Shape` for a row that does not exist; what the device reports.
    pub async fn read_rows(&mut self, v: Value, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (shape, whole) = (self.plan.graph.shape(v), self.plan.graph.bytes(v));
        let count = shape.first().copied().unwrap_or(1);
        ensure!(rows.iter().all(|r| *r < count), Shape, "rows {rows:?} of {shape}");
        let bytes = whole / count as u64;
        ensure!(bytes.is_multiple_of(8), Shape, "rows of {bytes} bytes cannot be read one by one");
        let total = bytes * rows.len() as u64;
        Self::grow(&self.gpu, &mut self.download, total, Usage::Download)?;
        let Some(staging) = &self.download else { return Ok(Vec::new()) };
        let from = self.binding(v);
        let mut submission = self.gpu.submission();
        for (i, &row) in rows.iter().enumerate() {
            submission.copy(from.buffer, from.offset + row as u64 * bytes, staging, i as u64 * bytes, bytes);
        }
        submission.submit();
        let split = |all: &[u8]| all.chunks(bytes as usize).map(<[u8]>::to_vec).collect();
        staging.map_read(&self.gpu, total, split).await
    }

    /// Records the launches; all but the last slice are submitted, the last is handed back for more to follow.
    async fn play<'g>(&'g self, first: Submission<'g>, control: Control<'_>) -> Result<Submission<'g>> {
        if let Some(trace) = trace::active().filter(|_| self.gpu.has_timestamps()) {
            first.submit();
            self.play_traced(control, trace).await?;
            return Ok(self.gpu.submission());
        }
        let total = self.steps.iter().map(|s| s.flops).sum::<u64>().max(1);
        let mut submission = first;
        let mut in_flight = std::collections::VecDeque::new();
        let (slices, mut done) = (self.slices(), 0);
        for (n, slice) in slices.iter().enumerate() {
            self.feed(slice.start).await?;
            submission.launches(self.steps[slice.clone()].iter().map(Step::launch));
            if n + 1 == slices.len() {
                break;
            }
            in_flight.push_back((submission.submit(), self.steps[slice.clone()].iter().map(|s| s.flops).sum::<u64>()));
            // Two in flight keep the device busy; more would only delay a cancellation.
            if in_flight.len() > 1 {
                if let Some((ticket, flops)) = in_flight.pop_front() {
                    self.gpu.wait(&ticket)?;
                    done += flops;
                }
                if let Some(progress) = control.progress {
                    progress(done as f32 / total as f32);
                }
            }
            control.check()?;
            submission = self.gpu.submission();
        }
        Ok(submission)
    }

    /// The same with a timestamp around every dispatch.
    async fn play_traced(&self, control: Control<'_>, trace: &Trace) -> Result<()> {
        let graph = &self.plan.graph;
        let mut shapes = vec![String::new(); graph.dispatches.len()];
        for r in graph.calls() {
            shapes[r.dispatches].fill(r.call.label());
        }
        let slices = self.slices();
        for (n, slice) in slices.iter().enumerate() {
            control.check()?;
            self.feed(slice.start).await?;
            let steps = &self.steps[slice.clone()];
            let (start, launches) = (trace.now(), steps.iter().map(Step::launch).collect::<Vec<_>>());
            let times = self.gpu.time(&launches).await?;
            for (step, [begin, end]) in steps.iter().zip(&times) {
                let d = &graph.dispatches[step.dispatch];
                let args = serde_json::json!({
                    "scope": d.scope, "kernel": d.kernel.name, "variant": d.variant.name, "shape": shapes[step.dispatch],
                    "flop": step.flops, "bytes": graph.traffic(step.dispatch..step.dispatch + 1),
                });
                let args = args.as_object().cloned().unwrap_or_default();
                trace.slice(
                    Track::Device,
                    d.kernel.name,
                    start + (begin - times[0][0]) * 1e-3,
                    (end - begin) * 1e-3,
                    args,
                );
            }
            if let Some(progress) = control.progress {
                progress((n + 1) as f32 / slices.len() as f32);
            }
        }
        Ok(())
    }

    /// Runs of steps that fit the FLOP budget of a submit and have no uploads in their midst.
    fn slices(&self) -> Vec<std::ops::Range<usize>> {
        let budget = submit_budget(self.gpu.target().class());
        let (mut slices, mut start, mut flops) = (Vec::new(), 0, 0);
        for (i, step) in self.steps.iter().enumerate() {
            if i > start && (flops + step.flops > budget || self.uploads_before(i)) {
                slices.push(start..i);
                (start, flops) = (i, 0);
            }
            flops += step.flops;
        }
        if start < self.steps.len() {
            slices.push(start..self.steps.len());
        }
        slices
    }

    /// Plays once with a timestamp around every dispatch; inputs keep what the last run wrote.
    ///
    /// # Errors
    /// `Gpu` if the adapter has no timestamps, `Argument` if weights are uploaded within a play; what the device reports.
    pub async fn profile(&self) -> Result<Vec<DispatchTime>> {
        ensure!(self.plan.graph.upload_bytes() == 0, Argument, "a play with uploads has no one profile: trace it");
        let launches: Vec<_> = self.steps.iter().map(Step::launch).collect();
        let times = self.gpu.time(&launches).await?;
        let mut all: Vec<DispatchTime> = Vec::new();
        let mut last = None;
        for (step, [begin, end]) in self.steps.iter().zip(times) {
            let nanoseconds = end - begin;
            let d = &self.plan.graph.dispatches[step.dispatch];
            match all.last_mut().filter(|_| last == Some(step.dispatch)) {
                Some(t) => t.nanoseconds += nanoseconds,
                None => all.push(DispatchTime {
                    scope: d.scope.clone(),
                    kernel: d.kernel.name.to_string(),
                    variant: d.variant.name.to_string(),
                    nanoseconds,
                    flops: d.flops,
                }),
            }
            last = Some(step.dispatch);
        }
        Ok(all)
    }

    /// Makes the staging memory now that runs with these inputs and outputs need: the first run would find out too late that
    /// there is none.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn reserve(&mut self, inputs: &[Value], outputs: &[Value]) -> Result<()> {
        let sum = |all: &[Value]| all.iter().map(|&v| self.plan.graph.bytes(v).next_multiple_of(8)).sum::<u64>();
        let (in_bytes, out_bytes) = (sum(inputs), sum(outputs));
        Self::grow(&self.gpu, &mut self.upload, in_bytes, Usage::Upload)?;
        Self::grow(&self.gpu, &mut self.download, out_bytes, Usage::Download)
    }

    fn grow(gpu: &Gpu, buffer: &mut Option<Buffer>, bytes: u64, usage: Usage) -> Result<()> {
        if bytes > buffer.as_ref().map_or(0, Buffer::bytes) {
            *buffer = Some(gpu.buffer("staging", bytes, usage)?);
        }
        Ok(())
    }

    fn poison(&self) {
        for slot in &self.slots {
            self.gpu.write(slot, 0, &vec![0xFF; slot.bytes() as usize]);
        }
    }

    /// Whether the bands around every slot still hold what was put there. Only with [`BindOptions::guard`](super::BindOptions::guard).
    ///
    /// # Errors
    /// `Internal` without guards; what the device reports.
    pub async fn guards_intact(&self) -> Result<bool> {
        ensure!(self.guard, Internal, "this plan was bound without guards");
        for (slot, bytes) in self.slots.iter().zip(&self.plan.slots) {
            let all = self.gpu.download(slot).await?;
            let end = (GUARD + bytes.next_multiple_of(4)) as usize;
            if all[..GUARD as usize].iter().chain(&all[end..]).any(|b| *b != 0xFF) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
