//! Kernel against twin on a device: what `impasto doctor` and the tests run.

use crate::{
    error::{Context, ErrorKind, Result, bail},
    gpu::{Gpu, Options},
    graph::{BindOptions, Bound, Control, Graph, Value},
    kernel::{Feature, Kernel, Variant},
    kernels::{ALL, Case, deviation},
    quant,
    shape::DType,
};
use serde::Serialize;

/// What a case gave on a device.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Kernel stem.
    pub kernel: String,
    /// Variant.
    pub variant: String,
    /// Case.
    pub case: String,
    /// Normalised mean square error against the twin; the largest over the outputs.
    pub nmse: f64,
    /// The largest absolute difference.
    pub max_abs: f64,
    /// The error that the case allows.
    pub allowed: f64,
    /// Whether nothing was written beside the buffers.
    pub guards_intact: bool,
    /// Milliseconds on the device, where it has timestamps.
    pub milliseconds: Option<f64>,
}

impl Report {
    /// Whether the case holds.
    pub fn passed(&self) -> bool {
        self.nmse <= self.allowed && self.guards_intact
    }
}

/// Opens an adapter as [`Gpu::open`], and tries what its driver may get wrong: the largest case of each variant that
/// needs an unproven feature. A feature joins the target only if all are right; a deviation or an error drops it, with
/// a warning. A device that the trial kills is opened again, without.
///
/// # Errors
/// What opening reports.
pub async fn open(options: &Options) -> Result<Gpu> {
    let mut gpu = Gpu::open(options).await?;
    for feature in gpu.unproven().to_vec() {
        let candidate = gpu.with(feature);
        match proves(&candidate, feature).await {
            Ok(None) => gpu = candidate,
            Ok(Some(report)) => {
                tracing::warn!(?feature, variant = report.variant, nmse = report.nmse, "wrong results: not used");
            }
            Err(e) => {
                tracing::warn!(?feature, "not used: {e}");
                if e.kind() == ErrorKind::DeviceLost {
                    return Gpu::open(options).await;
                }
            }
        }
    }
    Ok(gpu)
}

/// The first report that fails, over the variants that need `feature`.
async fn proves(gpu: &Gpu, feature: Feature) -> Result<Option<Report>> {
    for entry in ALL {
        let kernel = entry.kernel;
        let needing = kernel.variants.iter().filter(|v| v.needs().any(|f| f == feature) && v.runs_on(gpu.target()));
        for variant in needing {
            let flops = |g: &Graph| g.dispatches().iter().map(|d| d.flops).sum::<u64>();
            let recorded = (entry.cases)().into_iter().filter_map(|case| {
                let recording = recordings(gpu, kernel, &case).into_iter().find(|r| r.0 == variant.name)?;
                Some((flops(&recording.1), case, recording))
            });
            let Some((_, case, recording)) = recorded.max_by_key(|(flops, ..)| *flops) else {
                bail!(Internal, "{}/{} has no case", kernel.name, variant.name);
            };
            let expected = (case.twin)(&case.inputs);
            let (report, _) = run(gpu, kernel, &case, recording, &expected).await?;
            if !report.passed() {
                return Ok(Some(report));
            }
        }
    }
    Ok(None)
}

/// The variants of `kernel` that record `case` for this device: `(name, inputs, outputs, graph)`.
///
/// # Errors
/// What recording reports, other than a variant that does not suit.
pub fn recordings(
    gpu: &Gpu,
    kernel: &'static Kernel,
    case: &Case,
) -> Vec<(&'static str, Graph, Vec<Value>, Vec<Value>)> {
    let record = |variant: &'static str| {
        let mut target = gpu.target().clone();
        target.forced = vec![(kernel.name.into(), variant.into())];
        let mut g = Graph::new(&target);
        let (inputs, outputs) = case.graph(&mut g).ok()?;
        Some((variant, g, inputs, outputs))
    };
    kernel.variants.iter().filter_map(|v| record(v.name)).collect()
}

/// Runs one recording of a case between guard bands: the report and the raw outputs.
///
/// # Errors
/// What the device reports.
pub async fn run(
    gpu: &Gpu,
    kernel: &Kernel,
    case: &Case,
    (variant, graph, inputs, outputs): (&str, Graph, Vec<Value>, Vec<Value>),
    expected: &[Vec<f32>],
) -> Result<(Report, Vec<Vec<u8>>)> {
    let name = || format!("{}/{variant} {}", kernel.name, case.name);
    let mut bound = graph.plan()?.bind(gpu, &BindOptions { guard: true, ..BindOptions::default() }).context(name)?;
    let data: Vec<(Value, &[u8])> = inputs.iter().zip(&case.inputs).map(|(v, x)| (*v, x.bytes.as_slice())).collect();
    let raw = bound.run(&data, &outputs, Control::default()).await.context(name)?;
    let (mut nmse, mut max_abs) = (0f64, 0f64);
    for ((bytes, &v), expected) in raw.iter().zip(&outputs).zip(expected) {
        let (n, m) = deviation(&values(&bound, v, bytes), expected);
        (nmse, max_abs) = (nmse.max(n), max_abs.max(m));
    }
    let milliseconds = match gpu.has_timestamps() {
        true => Some(bound.profile().await?.iter().map(|t| t.nanoseconds).sum::<f64>() * 1e-6),
        false => None,
    };
    let rounding = kernel.variants.iter().find(|v| v.name == variant).map_or(0.0, Variant::rounding);
    let report = Report {
        kernel: kernel.name.into(),
        variant: variant.into(),
        case: case.name.clone(),
        nmse,
        max_abs,
        allowed: case.nmse.max(rounding),
        guards_intact: bound.guards_intact().await?,
        milliseconds,
    };
    Ok((report, raw))
}

fn values(bound: &Bound, v: Value, bytes: &[u8]) -> Vec<f32> {
    match bound.graph().dtype(v) {
        DType::U32 => bytemuck::pod_collect_to_vec::<u8, u32>(bytes).into_iter().map(|n| n as f32).collect(),
        DType::F16 => {
            quant::unpack_f16(&bytemuck::pod_collect_to_vec::<u8, u32>(bytes), bound.graph().shape(v).count())
        }
        DType::Q8 => quant::unpack_q8(&bytemuck::pod_collect_to_vec::<u8, u32>(bytes), bound.graph().shape(v).count()),
        _ => bytemuck::pod_collect_to_vec(bytes),
    }
}
