//! Bind: slots, pipelines, bind groups and parameters are made once; a play only submits.

use super::{Graph, Plan, SlotPool, Storage, Value};
use crate::{
    error::{Context, Result, ensure},
    gpu::{Binding, Buffer, Gpu, Group, Launch, Pipeline, Usage},
    kernel::{Class, Target},
    trace,
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

/// Bytes of a guard band: one alignment unit of any device.
pub(super) const GUARD: u64 = 256;
/// Distance of parameter blocks in the arena: the largest alignment that a device asks of uniform bindings.
const PARAMS: u64 = 256;

/// A plan with its buffers, pipelines and bind groups, ready to be played any number of times.
#[derive(Debug)]
pub struct Bound {
    pub(super) gpu: Gpu,
    pub(super) plan: Plan,
    pub(super) slots: Vec<Buffer>,
    pub(super) steps: Vec<Step>,
    /// Parameters of all steps.
    uniforms: Option<Buffer>,
    pub(super) guard: bool,
    /// Host to device and back, made at the first play that needs them, of the size that it needs.
    pub(super) upload: Option<Buffer>,
    pub(super) download: Option<Buffer>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) dispatch: usize,
    pipeline: Pipeline,
    group: Group,
    grid: [u32; 3],
    pub(super) flops: u64,
}

/// Floating-point operations in one submit: 100 to 200 ms, so that no watchdog fires, progress is real and a
/// cancellation takes effect. A GPU is taken to reach 1 TFLOP/s, a software adapter 15 GFLOP/s.
pub(super) fn submit_budget(class: Class) -> u64 {
    match class {
        Class::Gpu => 150_000_000_000,
        Class::Software => 3_000_000_000,
    }
}

impl Plan {
    /// Number, base and grid of every launch: a dispatch that is too wide or too long becomes several, which differ in
    /// `base`.
    fn pieces(&self, target: &Target) -> Vec<(usize, [u32; 3], [u32; 3])> {
        let (budget, groups) = (submit_budget(target.class()), target.limits.groups);
        let all = self.graph.dispatches.iter().enumerate();
        let pieces = all.flat_map(|(i, d)| {
            split(d.grid, d.flops, budget, groups).into_iter().map(move |(base, grid)| (i, base, grid))
        });
        pieces.collect()
    }

    /// Bytes of the parameters of all launches.
    pub fn params_bytes(&self) -> u64 {
        self.pieces(&self.graph.target).len() as u64 * PARAMS
    }

    /// Allocates the slots, compiles what is not yet compiled, builds bind groups and uploads parameters.
    ///
    /// # Errors
    /// `OutOfMemory` before anything is allocated if the plan exceeds the budget; else what the device reports.
    pub fn bind(self, gpu: &Gpu, options: &Options) -> Result<Bound> {
        let _span = trace::span(|| "bind".into());
        let declared = self.graph.values.iter().any(|info| matches!(info.storage, Storage::Declared));
        ensure!(!declared, Internal, "a recording of declared tensors cannot be bound");
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
        let pieces = self.plan.pieces(self.gpu.target());
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
    pub(super) fn binding(&self, v: Value) -> Binding<'_> {
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

    /// The values that taps kept, by path.
    pub fn tapped(&self) -> &[(String, Value)] {
        &self.plan.graph.tapped
    }

    /// The graph that was bound.
    pub fn graph(&self) -> &Graph {
        &self.plan.graph
    }
}

impl Step {
    pub(super) fn launch(&self) -> Launch<'_> {
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
