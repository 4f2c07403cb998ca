//! [`Denoiser`]: a transformer on a device, ready for pictures of one size, and what it takes before it is loaded.

use super::{
    config::Config,
    lora::{self, Lora},
    transformer::{Size, Step, Transformer},
};
use crate::{
    error::{ErrorKind, Result, bail, ensure},
    gpu::{Gpu, buffer_bytes},
    graph::{BindOptions, Bound, Control, Graph, Value},
    nn::{
        Storage,
        projection::Parameters,
        stack::{HOST_BYTES, Residency},
    },
    weights::Weights,
};

/// How a [`Denoiser`] is loaded.
#[derive(Debug, Clone, Default)]
pub struct DenoiserOptions {
    /// How matrices are kept.
    pub storage: Storage,
    /// The most bytes that it may take on the device: blocks that do not fit are streamed from the weights' file in every
    /// step, with the same result. Without one they are if the device runs out of memory.
    pub budget: Option<u64>,
    /// Low-rank changes to the weights, each with its strength. They stay on the device. Those of the modulation layers are for
    /// [`vectors_with`](super::vectors_with).
    pub loras: Vec<(Lora, f32)>,
}

/// What a [`Denoiser`] takes, known before anything is loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DenoiserPlan {
    /// Bytes of the weights that the steps read; the modulation layers are done before them.
    pub weights: u64,
    /// Bytes on the device for them: the resident ones, and two slots for those that are streamed.
    pub resident: u64,
    /// For each block, the double ones first: whether it stays on the device.
    pub resident_blocks: Vec<bool>,
    /// Bytes that every step uploads. Up to two blocks of them are in staging memory of the host at one time, and those that
    /// have to be packed may stay there: see [`HOST_BYTES`].
    pub streamed: u64,
    /// Buffers that activations share, and their bytes.
    pub slots: usize,
    /// See `slots`.
    pub slot_bytes: u64,
    /// Bytes of the launches' parameters, and of what goes to the device and back in a step.
    pub launch_bytes: u64,
    /// Kernel launches of one step.
    pub launches: usize,
    /// Floating-point operations of one step.
    pub flops: u64,
}

impl DenoiserPlan {
    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.resident + self.slot_bytes + self.launch_bytes
    }

    /// How many blocks are streamed.
    pub fn streamed_blocks(&self) -> usize {
        self.resident_blocks.iter().filter(|stays| !*stays).count()
    }

    /// Bytes of streamed blocks that stay packed in host memory, at most.
    pub fn host_bytes(&self) -> u64 {
        self.streamed.min(HOST_BYTES)
    }
}

/// A transformer ready to be run step after step, on pictures of one size.
#[derive(Debug)]
pub struct Denoiser {
    gpu: Gpu,
    transformer: Transformer,
    size: Size,
    step: Recorded,
    /// Text tokens and rotary table.
    prompt: [Vec<f32>; 2],
    /// Whether the device has them.
    written: bool,
}

/// A [`Step`] that was bound.
#[derive(Debug)]
struct Recorded {
    bound: Bound,
    img: Value,
    txt: Value,
    vectors: Value,
    table: Value,
    velocity: Value,
    /// Bytes of what goes to the device and back.
    staging: u64,
}

impl Denoiser {
    /// Loads the transformer in `weights`, which go by our names, for steps of `size`.
    ///
    /// # Errors
    /// `OutOfMemory` before anything is loaded if the budget does not hold the plan with every block streamed; `Weights`
    /// for a tensor that is missing or mis-shaped, and what the device reports.
    pub fn new(gpu: &Gpu, weights: &Weights, config: Config, size: Size, options: &DenoiserOptions) -> Result<Self> {
        let others = gpu.allocated_bytes();
        let mut options = options.clone();
        let chosen = options.budget.is_some();
        loop {
            let e = match Self::within(gpu, weights, &config, size, &options) {
                Err(e) if e.kind() == ErrorKind::OutOfMemory && !chosen => e,
                done => return done,
            };
            // The device had so much, and less once: the driver's own needs are not known.
            let reached = options.budget.unwrap_or(gpu.peak_bytes().saturating_sub(others));
            let least = DenoiserOptions { budget: Some(0), ..options.clone() };
            let least = Self::plan(gpu, weights, &config, size, &least)?.bytes();
            if reached <= least {
                return Err(e);
            }
            let budget = (reached / 8 * 7).max(least);
            tracing::warn!("{e}; loading again within {budget} bytes, with blocks streamed in every step");
            options.budget = Some(budget);
        }
    }

    fn within(gpu: &Gpu, weights: &Weights, c: &Config, size: Size, options: &DenoiserOptions) -> Result<Self> {
        let (mut plan, mut blocks) = Self::lay_out(gpu, weights, c, size, options, false)?;
        if plan.streamed > 0 {
            // Slots are made for what is in them, to the byte.
            (plan, blocks) = Self::lay_out(gpu, weights, c, size, options, true)?;
        }
        let (needs, budget) = (plan.bytes(), options.budget.unwrap_or(u64::MAX));
        ensure!(
            needs <= budget,
            OutOfMemory,
            "the transformer needs {needs} bytes on the GPU with {} of its {} blocks streamed, the budget is {budget}: \
             take a smaller picture or keep the weights in fewer bits",
            plan.streamed_blocks(),
            plan.resident_blocks.len()
        );
        let adapters = lora::adapters(&options.loras);
        let p = Parameters::new(gpu, options.storage).with(&adapters);
        let transformer = Transformer::load_as(&p, weights, c.clone(), &blocks)?;
        let step = Recorded::new(gpu, &transformer, size, Graph::new(gpu.target()))?;
        Ok(Self { gpu: gpu.clone(), transformer, size, step, prompt: [Vec::new(), Vec::new()], written: false })
    }

    /// What [`new`](Self::new) would take. Reads the headers of the weights only: values beyond f16, which are kept in f32,
    /// are found when they are loaded.
    ///
    /// # Errors
    /// `OutOfMemory` if a value exceeds what the device binds.
    pub fn plan(
        gpu: &Gpu,
        weights: &Weights,
        config: &Config,
        size: Size,
        options: &DenoiserOptions,
    ) -> Result<DenoiserPlan> {
        Ok(Self::lay_out(gpu, weights, config, size, options, false)?.0)
    }

    fn lay_out(
        gpu: &Gpu,
        weights: &Weights,
        c: &Config,
        size: Size,
        options: &DenoiserOptions,
        exact: bool,
    ) -> Result<(DenoiserPlan, Residency)> {
        let adapters = lora::adapters(&options.loras);
        let p = Parameters::new(gpu, options.storage).with(&adapters);
        let (transformer, blocks, rest) = Transformer::declare(&p, weights, c.clone(), exact)?;
        let step = transformer.record(Graph::new(gpu.target()), size)?;
        let staging = staging(&step);
        let (launches, flops) = (step.graph.dispatches().len(), step.graph.flops());
        let plan = step.graph.plan()?;
        let launch_bytes = buffer_bytes(plan.params_bytes()) + staging;
        let others = rest.bytes() + plan.bytes() + launch_bytes;
        let residency = Residency::new(&blocks, options.budget.map(|budget| budget.saturating_sub(others)));
        let plan = DenoiserPlan {
            weights: rest.bytes() + residency.weights + residency.streamed,
            resident: rest.bytes() + residency.bytes(),
            resident_blocks: residency.resident.clone(),
            streamed: residency.streamed,
            slots: plan.slots(),
            slot_bytes: plan.bytes(),
            launch_bytes,
            launches,
            flops,
        };
        Ok((plan, residency))
    }

    /// Bytes on the device: weights, activations, and what a step's launches need.
    pub fn bytes(&self) -> u64 {
        let plan = self.step.bound.plan();
        plan.bytes() + plan.tensor_bytes() + buffer_bytes(plan.params_bytes()) + self.step.staging
    }

    /// Sets the text tokens `(batch, text, context)` and the rotary [`table`](super::rope::table) of the steps that follow.
    pub fn begin(&mut self, txt: &[f32], table: &[f32]) {
        self.prompt = [txt.to_vec(), table.to_vec()];
        self.written = false;
    }

    /// The velocity `(batch, image, out_channels)` of picture tokens `(batch, image, in_channels)`, with the
    /// [`Vectors`](super::Vectors::batch) of this step.
    ///
    /// # Errors
    /// `Shape` if a length is another than the size says, `Cancelled`, and what the device reports.
    pub async fn step(&mut self, img: &[f32], vectors: &[f32], control: Control<'_>) -> Result<Vec<f32>> {
        let prompt = (!self.written).then_some(&self.prompt);
        let velocity = self.step.play(prompt, img, vectors, self.step.velocity, control).await?;
        self.written = true;
        Ok(velocity)
    }

    /// The first block whose result is not finite, in a step whose velocity is not. The step is played again some times,
    /// which takes no more memory than before.
    ///
    /// # Errors
    /// Those of [`step`](Self::step).
    pub async fn first_bad_block(self, img: &[f32], vectors: &[f32], control: Control<'_>) -> Result<String> {
        let Self { gpu, transformer, size, step, prompt, .. } = self;
        drop(step);
        let c = transformer.config();
        let mut stages = vec!["in".to_owned()];
        stages.extend((0..c.double_blocks).map(|i| format!("double_blocks.{i}")));
        stages.extend((0..c.single_blocks).map(|i| format!("single_blocks.{i}")));
        stages.push("final_layer.norm".to_owned());
        // What is not finite stays so to the end: residuals are added.
        let (mut good, mut bad) = (0, stages.len());
        while good < bad {
            let middle = (good + bad) / 2;
            let mut g = Graph::new(gpu.target());
            g.tap([stages[middle].as_str()]);
            let mut step = Recorded::new(&gpu, &transformer, size, g)?;
            let Some((_, stage)) = step.bound.tapped().first() else {
                bail!(Internal, "no stage {}", stages[middle]);
            };
            let stage = *stage;
            let values = step.play(Some(&prompt), img, vectors, stage, control).await?;
            match values.iter().all(|v| v.is_finite()) {
                true => good = middle + 1,
                false => bad = middle,
            }
        }
        Ok(stages.get(bad).map_or("final_layer.linear", String::as_str).to_owned())
    }
}

impl Recorded {
    fn new(gpu: &Gpu, transformer: &Transformer, size: Size, g: Graph) -> Result<Self> {
        let step = transformer.record(g, size)?;
        let staging = staging(&step);
        let Step { graph, img, txt, vectors, table, velocity } = step;
        let mut bound = graph.plan()?.bind(gpu, &BindOptions::default())?;
        bound.reserve(&[img, txt, vectors, table], &[velocity])?;
        Ok(Self { bound, img, txt, vectors, table, velocity, staging })
    }

    async fn play(
        &mut self,
        prompt: Option<&[Vec<f32>; 2]>,
        img: &[f32],
        vectors: &[f32],
        output: Value,
        control: Control<'_>,
    ) -> Result<Vec<f32>> {
        let mut inputs: Vec<(Value, &[u8])> =
            vec![(self.img, bytemuck::cast_slice(img)), (self.vectors, bytemuck::cast_slice(vectors))];
        if let Some([txt, table]) = prompt {
            inputs.extend([(self.txt, bytemuck::cast_slice(txt)), (self.table, bytemuck::cast_slice(table))]);
        }
        Ok(self.bound.run_f32(&inputs, &[output], control).await?.swap_remove(0))
    }
}

/// Bytes of the buffers that a step's inputs and its velocity pass through.
fn staging(step: &Step) -> u64 {
    let g = &step.graph;
    let inputs = [step.img, step.txt, step.vectors, step.table].map(|v| g.bytes(v).next_multiple_of(8));
    buffer_bytes(inputs.iter().sum()) + buffer_bytes(g.bytes(step.velocity))
}
