//! [`Denoiser`]: a transformer on a device, ready for pictures of one size, and what it takes before it is loaded.

use super::{
    config::Config,
    lora::Lora,
    names::Layout,
    tensors::{pieces, tensors},
    transformer::{Size, Step, Transformer},
};
use crate::{
    error::{Result, bail, ensure},
    gpu::Gpu,
    graph::{BindOptions, Bound, Control, Graph, Value},
    nn::{Storage, projection::Parameters},
    shape::{DType, Shape},
    weights::{HostDType, Weights},
};

/// How a [`Denoiser`] is loaded.
#[derive(Debug, Clone, Default)]
pub struct DenoiserOptions {
    /// How matrices are kept.
    pub storage: Storage,
    /// The most bytes that it may take on the device.
    pub budget: Option<u64>,
    /// Low-rank changes to the weights, each with its strength.
    pub loras: Vec<(Lora, f32)>,
}

/// What a [`Denoiser`] takes, known before anything is loaded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DenoiserPlan {
    /// Bytes of the weights that the steps read; the modulation layers are done before them.
    pub weights: u64,
    /// Those of them that are on the device at one time.
    pub resident: u64,
    /// Buffers that activations share, and their bytes.
    pub slots: usize,
    /// See `slots`.
    pub slot_bytes: u64,
    /// Kernel launches of one step.
    pub launches: usize,
    /// Floating-point operations of one step.
    pub flops: u64,
}

impl DenoiserPlan {
    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.resident + self.slot_bytes
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
}

impl Denoiser {
    /// Loads the transformer in `weights`, which go by our names, for steps of `size`.
    ///
    /// # Errors
    /// `OutOfMemory` before anything is loaded if the plan exceeds the budget; `Weights` for a tensor that is missing or
    /// mis-shaped, and what the device reports.
    pub fn new(gpu: &Gpu, weights: &Weights, config: Config, size: Size, options: &DenoiserOptions) -> Result<Self> {
        ensure!(options.loras.is_empty(), Argument, "LoRAs cannot be applied yet");
        if let Some(budget) = options.budget {
            let needs = Self::plan(gpu, weights, &config, size, options)?.bytes();
            ensure!(
                needs <= budget,
                OutOfMemory,
                "the transformer needs {needs} bytes on the GPU, the budget is {budget}: take a smaller picture or keep \
                 the weights in fewer bits"
            );
        }
        let transformer = Transformer::load(gpu, weights, config, options.storage)?;
        let step = Recorded::new(gpu, &transformer, size, Graph::new(gpu.target()))?;
        Ok(Self { gpu: gpu.clone(), transformer, size, step, prompt: [Vec::new(), Vec::new()], written: false })
    }

    /// What [`new`](Self::new) would take. Reads the headers of the weights only.
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
        // Kernels are chosen by a matrix's type: that of most of them.
        let most = kept(weights, "double_blocks.0.img_mlp.0", config.hidden, options.storage);
        let p = Parameters { declared: Some(most), ..Parameters::new(gpu, options.storage) };
        let graph = Transformer::build(&p, weights, config.clone())?.record(Graph::new(gpu.target()), size)?.graph;
        let (launches, flops) = (graph.dispatches().len(), graph.flops());
        let plan = graph.plan()?;
        let sum = |dtype: &dyn Fn(&str, usize) -> DType| -> u64 { parameters(config, dtype) };
        // What is only declared lies in slots of its own.
        let exact = |name: &str| name.starts_with("img_in") || name.starts_with("final_layer");
        let declared = |name: &str, _| if exact(name) { DType::F32 } else { most };
        let stored = |name: &str, k| {
            let storage = match options.storage {
                Storage::F16 | Storage::Q8 | Storage::Q4 if exact(name) => Storage::F32,
                storage => storage,
            };
            kept(weights, name, k, storage)
        };
        let resident = sum(&stored);
        Ok(DenoiserPlan {
            weights: resident,
            resident,
            slots: plan.slots(),
            slot_bytes: plan.bytes() - sum(&declared),
            launches,
            flops,
        })
    }

    /// Bytes on the device: weights and activations.
    pub fn bytes(&self) -> u64 {
        self.step.bound.plan().bytes() + self.step.bound.plan().tensor_bytes()
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
        let Step { graph, img, txt, vectors, table, velocity } = transformer.record(g, size)?;
        let bound = graph.plan()?.bind(gpu, &BindOptions::default())?;
        Ok(Self { bound, img, txt, vectors, table, velocity })
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

/// The type in which a layer's matrix of rows of `k` is kept on a device.
fn kept(w: &Weights, layer: &str, k: usize, storage: Storage) -> DType {
    let block = k.is_multiple_of(crate::quant::BLOCK);
    let cuts = ["q", "k", "v", "mlp", "swapped"].map(|cut| (cut, 0));
    let tensors = || pieces(w, layer, 0, &cuts).into_iter().filter_map(|(name, _)| w.at(name).tensor("weight").ok());
    match storage {
        Storage::AsStored if tensors().all(|t| t.dtype() == HostDType::F16) => DType::F16,
        Storage::AsStored | Storage::F32 => DType::F32,
        Storage::Q8 if block => DType::Q8,
        Storage::Q4 if block => DType::Q4,
        Storage::F16 | Storage::Q8 | Storage::Q4 => DType::F16,
    }
}

/// Bytes of all parameters of the steps, with matrices of the types that `dtype` gives for a layer and its inputs.
fn parameters(c: &Config, dtype: &dyn Fn(&str, usize) -> DType) -> u64 {
    let before = |name: &str| {
        ["time_in.", "guidance_in.", "vector_in."].iter().any(|embedder| name.starts_with(embedder))
            || c.modulations().iter().any(|(layer, _)| name.starts_with(layer))
    };
    let bytes = |(name, shape): &(String, Vec<usize>)| {
        let count = Shape::new(shape).count();
        let dtype = match (name.strip_suffix(".weight"), &shape[..]) {
            (Some(layer), [_, k]) => dtype(layer, *k),
            _ => DType::F32,
        };
        dtype.bytes(count) as u64
    };
    tensors(c, Layout::Bfl).iter().filter(|(name, _)| !before(name)).map(bytes).sum()
}
