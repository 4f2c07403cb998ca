//! Bind and play: pipelines, bind groups and parameters are built once; a play only submits.

use super::{Graph, Plan, Storage, Value};
use crate::{
    error::{Context, Result, ensure},
    gpu::{Binding, Buffer, Gpu, Group, Launch, Pipeline, Submission, Usage},
    kernel::Class,
};
use serde::Serialize;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// How to bind.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Surround every slot with bands of NaN and fill it with NaN before each play; see [`Bound::guards_intact`].
    pub guard: bool,
    /// Refuse a plan whose slots and tensors take more than this.
    pub budget: Option<u64>,
    /// Take slots from here, and put new ones here: plans that never play at the same time share their memory.
    pub pool: Option<SlotPool>,
}

/// Slots shared by plans of one session. What a plan leaves in its slots is gone once another plan plays.
#[derive(Debug, Clone, Default)]
pub struct SlotPool(Arc<Mutex<Vec<Buffer>>>);

impl SlotPool {
    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.lock().iter().map(Buffer::bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Buffer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One buffer for each of `sizes`: the smallest free one that is large enough, else a new one.
    fn take(&self, gpu: &Gpu, sizes: &[u64]) -> Result<Vec<Buffer>> {
        let mut pool = self.lock();
        let mut used = vec![false; pool.len()];
        let mut slots = vec![None; sizes.len()];
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
        for i in order {
            let fits = |&j: &usize| !used[j] && pool[j].bytes() >= sizes[i];
            let found = (0..pool.len()).filter(fits).min_by_key(|&j| pool[j].bytes());
            let j = match found {
                Some(j) => j,
                None => {
                    pool.push(gpu.buffer("shared slot", sizes[i], Usage::Storage)?);
                    used.push(false);
                    pool.len() - 1
                }
            };
            used[j] = true;
            slots[i] = Some(pool[j].clone());
        }
        Ok(slots.into_iter().flatten().collect())
    }
}

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

/// Bytes of a guard band: one alignment unit of any device.
const GUARD: u64 = 256;
/// Distance of parameter blocks in the arena: the largest alignment that a device asks of uniform bindings.
const PARAMS: u64 = 256;

/// A plan with its buffers, pipelines and bind groups, ready to be played any number of times.
#[derive(Debug)]
pub struct Bound {
    gpu: Gpu,
    plan: Plan,
    slots: Vec<Buffer>,
    steps: Vec<Step>,
    /// Parameters of all steps.
    uniforms: Option<Buffer>,
    guard: bool,
    /// Host to device and back, made at the first play that needs them, of the size that it needs.
    upload: Option<Buffer>,
    download: Option<Buffer>,
}

#[derive(Debug)]
struct Step {
    dispatch: usize,
    pipeline: Pipeline,
    group: Group,
    grid: [u32; 3],
    flops: u64,
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

/// Floating-point operations in one submit: 100 to 200 ms, so that no watchdog fires, progress is real and a
/// cancellation takes effect. A GPU is taken to reach 1 TFLOP/s, a software adapter 15 GFLOP/s.
fn submit_budget(class: Class) -> u64 {
    match class {
        Class::Gpu => 150_000_000_000,
        Class::Software => 3_000_000_000,
    }
}

impl Plan {
    /// Allocates the slots, compiles what is not yet compiled, builds bind groups and uploads parameters.
    ///
    /// # Errors
    /// `OutOfMemory` before anything is allocated if the plan exceeds the budget; else what the device reports.
    pub fn bind(self, gpu: &Gpu, options: &Options) -> Result<Bound> {
        let total = self.bytes() + self.tensor_bytes();
        if let Some(budget) = options.budget {
            ensure!(total <= budget, OutOfMemory, "the plan needs {total} bytes on the GPU, the budget is {budget}");
        }
        let guard = if options.guard { GUARD } else { 0 };
        let sizes: Vec<u64> = self.slots.iter().map(|bytes| bytes.next_multiple_of(4) + 2 * guard).collect();
        let slots = options.pool.clone().unwrap_or_default().take(gpu, &sizes)?;
        let mut bound = Bound {
            gpu: gpu.clone(),
            plan: self,
            slots,
            steps: Vec::new(),
            uniforms: None,
            guard: options.guard,
            upload: None,
            download: None,
        };
        bound.build()?;
        Ok(bound)
    }
}

impl Bound {
    fn build(&mut self) -> Result<()> {
        let target = self.gpu.target();
        let (budget, groups) = (submit_budget(target.class), target.limits.groups);
        let dispatches = self.plan.graph.dispatches.len();
        // A dispatch that is too wide or too long becomes several, which differ in `base`.
        let pieces: Vec<(usize, [u32; 3], [u32; 3])> = (0..dispatches)
            .flat_map(|i| {
                let d = &self.plan.graph.dispatches[i];
                split(d.grid, d.flops, budget, groups).into_iter().map(move |(base, grid)| (i, base, grid))
            })
            .collect();

        let mut arena = vec![0u8; pieces.len() * PARAMS as usize];
        for ((i, base, _), block) in pieces.iter().zip(arena.chunks_mut(PARAMS as usize)) {
            let params = &self.plan.graph.dispatches[*i].params;
            ensure!(params.len() + 16 <= block.len(), Internal, "parameters of {} bytes", params.len());
            block[..12].copy_from_slice(bytemuck::cast_slice(base));
            block[16..16 + params.len()].copy_from_slice(params);
        }
        let uniforms = self.gpu.buffer("parameters", arena.len().max(16) as u64, Usage::Uniform)?;
        self.gpu.write(&uniforms, 0, &arena);

        for (n, (i, _, grid)) in pieces.iter().enumerate() {
            let d = &self.plan.graph.dispatches[*i];
            let whole = d.grid.iter().map(|&g| u64::from(g)).product::<u64>();
            let part = grid.iter().map(|&g| u64::from(g)).product::<u64>();
            let pipeline = self.gpu.pipeline(d.kernel, d.variant, &d.defines).context(|| d.scope.clone())?;
            let bytes = (16 + d.params.len() as u64).next_multiple_of(16);
            let mut bindings = vec![Binding { buffer: &uniforms, offset: n as u64 * PARAMS, bytes }];
            bindings.extend(d.reads.iter().chain(&d.writes).map(|&v| self.binding(v)));
            let group = self.gpu.group(d.kernel.name, &pipeline, &bindings).context(|| d.scope.clone())?;
            let flops = (d.flops as u128 * part as u128 / whole as u128) as u64;
            self.steps.push(Step { dispatch: *i, pipeline, group, grid: *grid, flops });
        }
        self.uniforms = Some(uniforms);
        Ok(())
    }

    /// Where the bytes of a value are.
    fn binding(&self, v: Value) -> Binding<'_> {
        let graph = &self.plan.graph;
        let (root, offset) = graph.root(v);
        let (buffer, start) = match &graph.info(root).storage {
            Storage::Tensor(t) => (t.buffer(), 0),
            // A value that no dispatch touches has no slot, and nobody asks for its binding.
            _ => {
                let slot = self.plan.slot_of[root.0 as usize].expect("bound values have slots");
                (&self.slots[slot], if self.guard { GUARD } else { 0 })
            }
        };
        Binding { buffer, offset: start + offset, bytes: graph.bytes(v).next_multiple_of(4) }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

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
        let total = self.steps.iter().map(|s| s.flops).sum::<u64>().max(1);
        let mut submission = first;
        let mut in_flight = std::collections::VecDeque::new();
        let (slices, mut done) = (self.slices(), 0);
        for (n, slice) in slices.iter().enumerate() {
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

    /// Runs of steps that fit the FLOP budget of a submit.
    fn slices(&self) -> Vec<std::ops::Range<usize>> {
        let budget = submit_budget(self.gpu.target().class);
        let (mut slices, mut start, mut flops) = (Vec::new(), 0, 0);
        for (i, step) in self.steps.iter().enumerate() {
            if flops + step.flops > budget && i > start {
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
    /// `Gpu` if the adapter has no timestamps, and what the device reports.
    pub async fn profile(&self) -> Result<Vec<DispatchTime>> {
        let launches: Vec<_> = self.steps.iter().map(Step::launch).collect();
        let times = self.gpu.time(&launches).await?;
        let mut all: Vec<DispatchTime> = Vec::new();
        let mut last = None;
        for (step, nanoseconds) in self.steps.iter().zip(times) {
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

    /// The values that taps kept, by path.
    pub fn tapped(&self) -> &[(String, Value)] {
        &self.plan.graph.tapped
    }

    /// The graph that was bound.
    pub fn graph(&self) -> &Graph {
        &self.plan.graph
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

    /// Whether the bands around every slot still hold what was put there. Only with [`Options::guard`].
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

impl Step {
    fn launch(&self) -> Launch<'_> {
        Launch { pipeline: &self.pipeline, group: &self.group, grid: self.grid }
    }
}

/// Cuts a grid along its largest axis until no part exceeds the budget or the limit of workgroups:
/// `(base, size)` of each part.
fn split(grid: [u32; 3], flops: u64, budget: u64, limit: u32) -> Vec<([u32; 3], [u32; 3])> {
    let mut parts = vec![([0; 3], grid)];
    let total = grid.iter().map(|&g| u128::from(g)).product::<u128>().max(1);
    let too_big = |g: &[u32; 3]| {
        let share = g.iter().map(|&g| u128::from(g)).product::<u128>();
        g.iter().any(|&n| n > limit) || (share > 1 && u128::from(flops) * share / total > u128::from(budget))
    };
    while let Some(i) = parts.iter().position(|(_, g)| too_big(g)) {
        let (base, grid) = parts[i];
        let axis = (0..3).max_by_key(|&a| grid[a]).unwrap_or(0);
        let half = grid[axis].div_ceil(2);
        let (mut front, mut back, mut back_base) = (grid, grid, base);
        front[axis] = half;
        back[axis] -= half;
        back_base[axis] += half;
        parts.splice(i..=i, [(base, front), (back_base, back)]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn parts_cover_the_grid_once() {
        for (grid, flops, budget, limit) in [
            ([1, 1, 1], 10, 5, 100),
            ([7, 3, 2], 4200, 100, 100),
            ([200_000, 2, 1], 0, 1, 65535),
            ([3, 1, 1], 30, 10, 2),
        ] {
            let parts = split(grid, flops, budget, limit);
            let volume: u64 = parts.iter().map(|(_, g)| g.iter().map(|&n| u64::from(n)).product::<u64>()).sum();
            assert_eq!(volume, grid.iter().map(|&n| u64::from(n)).product::<u64>());
            for (n, (b, g)) in parts.iter().enumerate() {
                assert!(g.iter().all(|&n| n <= limit));
                for (c, h) in &parts[n + 1..] {
                    assert!(
                        (0..3).any(|a| b[a] + g[a] <= c[a] || c[a] + h[a] <= b[a]),
                        "{b:?}+{g:?} meets {c:?}+{h:?}"
                    );
                }
            }
        }
    }
}
