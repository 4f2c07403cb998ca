//! Nothing is timed that has not been shown to be right on this very device.
//!
//! Twice: the variant's cases against their CPU twins (f64), and the timed shape, whose twin would take minutes, against
//! another variant in a shader with all checks.

use super::work::{Recording, Work};
use crate::{
    error::{Context, Error, ErrorKind, Result, bail},
    gpu::Gpu,
    graph::{BindOptions, Control, Value},
    kernels::{Entry, Input, deviation},
    quant, selftest,
    shape::DType,
};
use std::collections::{HashMap, hash_map};

/// What has been verified so far.
#[derive(Debug, Default)]
pub(super) struct Verified {
    /// By kernel and variant.
    cases: HashMap<(&'static str, &'static str), std::result::Result<(), String>>,
}

impl Verified {
    /// Runs the variant's cases, once.
    ///
    /// # Errors
    /// `Gpu` if one fails, with its name.
    pub(super) async fn cases(&mut self, gpu: &Gpu, entry: &'static Entry, variant: &'static str) -> Result<()> {
        let found = match self.cases.entry((entry.kernel.name, variant)) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(new) => new.insert(run_cases(gpu, entry, variant).await?),
        };
        match found {
            Ok(()) => Ok(()),
            Err(why) => Err(Error::new(ErrorKind::Gpu, why.clone())),
        }
    }
}

async fn run_cases(gpu: &Gpu, entry: &'static Entry, variant: &'static str) -> Result<std::result::Result<(), String>> {
    for case in (entry.cases)() {
        let mut recordings = selftest::recordings(gpu, entry.kernel, &case);
        recordings.retain(|r| r.0 == variant);
        let Some(recording) = recordings.pop() else { continue };
        let expected = (case.twin)(&case.inputs);
        let (report, _) = selftest::run(gpu, entry.kernel, &case, recording, &expected).await?;
        if !report.passed() {
            let selftest::Report { nmse, allowed, .. } = &report;
            let name = format!("{}/{variant}", entry.kernel.name);
            return Ok(Err(format!(
                "{name} is wrong on this device: {} has nmse {nmse:.1e}, allowed {allowed:.0e}",
                case.name
            )));
        }
    }
    Ok(Ok(()))
}

/// The result of a recording on a device.
pub(super) async fn result(gpu: &Gpu, r: Recording, data: &[Input]) -> Result<Vec<f32>> {
    let Recording { mut graph, inputs, output, .. } = r;
    graph.output(output, "result");
    let (dtype, count) = (graph.dtype(output), graph.shape(output).count());
    let mut bound = graph.plan()?.bind(gpu, &BindOptions::default())?;
    let written: Vec<(Value, &[u8])> = inputs.iter().zip(data).map(|(v, x)| (*v, x.bytes.as_slice())).collect();
    let raw = bound.run(&written, &[output], Control::default()).await?.swap_remove(0);
    Ok(match dtype {
        DType::U32 => bytemuck::pod_collect_to_vec::<u8, u32>(&raw).into_iter().map(|n| n as f32).collect(),
        DType::F16 => quant::unpack_f16(&bytemuck::pod_collect_to_vec::<u8, u32>(&raw), count),
        _ => bytemuck::pod_collect_to_vec(&raw),
    })
}

/// What the shape should give: from a variant other than the rules' where there is one, with all checks.
pub(super) async fn reference(checked: &Gpu, work: &Work, data: &[Input]) -> Result<Vec<f32>> {
    let class = checked.target().class();
    let default = work.record(checked, None)?.variant.name;
    let exact = |v: &&crate::kernel::Variant| v.name != default && v.rounding() == 0.0;
    let mut others: Vec<_> = work.entry()?.kernel.variants.iter().filter(exact).collect();
    // The plainest of the adapter's own class: the last of the table.
    others.sort_by_key(|v| v.class != class);
    let same = others.iter().filter(|v| v.class == class).count();
    others[..same].reverse();
    let recording = others.iter().find_map(|v| work.record(checked, Some(v.name)).ok());
    let recording = match recording {
        Some(r) => r,
        None => work.record(checked, None)?,
    };
    result(checked, recording, data).await.context(|| "the reference result")
}

/// The error that sums in another order may have.
const ALLOWED: f64 = 1e-8;

/// The normalised mean square error of a recording's result; `rounding` is what its variant's operands may add.
///
/// # Errors
/// `Gpu` if it is beyond what rounding explains.
pub(super) async fn error(gpu: &Gpu, r: Recording, data: &[Input], expected: &[f32], rounding: f64) -> Result<f64> {
    let variant = r.variant.name;
    let (nmse, _) = deviation(&result(gpu, r, data).await?, expected);
    // A NaN is infinitely far away: see `deviation`.
    if nmse > ALLOWED.max(rounding) {
        bail!(Gpu, "{variant} is wrong on this shape: nmse {nmse:.1e} against another variant");
    }
    Ok(nmse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::work::works,
        gpu,
        graph::Graph,
        kernels::attention::{Attention, Masked, Operand, attention_over_ranges},
    };
    use pollster::block_on;

    /// Variants make other parts of a range; what they amount to is compared.
    #[test]
    fn ranges_of_attention_are_verified() {
        let gpu = block_on(Gpu::open(&gpu::Options { untuned: true, ..gpu::Options::from_env() })).unwrap();
        let mut g = Graph::new(gpu.target());
        let value = g.input("qkv", [1500, 64], DType::F32);
        let rows = |offset| Operand { value, offset, batch: 0, row: 64, head: 16 };
        let call = |i: usize| Attention {
            batch: 1,
            heads: 1,
            head_dim: 16,
            queries: 64,
            keys: 1100 - 700 * i,
            scale: 0.25,
            q: rows(0),
            k: rows(16 + 64 * 1100 * i),
            v: rows(32 + 64 * 1100 * i),
            windows: None,
        };
        attention_over_ranges(&mut g, 2, |_, i| Ok(Masked::from(call(i)))).unwrap();
        let all = works(&g);
        assert_eq!(
            all.iter().map(|w| w.call.kernel.as_str()).collect::<Vec<_>>(),
            ["attention", "attention", "attention_merge"]
        );
        for work in &all[..2] {
            let data = work.data();
            let expected = block_on(reference(&gpu, work, &data)).unwrap();
            let variants = work.entry().unwrap().kernel.variants;
            let each = variants.iter().filter_map(|v| work.record(&gpu, Some(v.name)).ok());
            let errors: Vec<f64> = each.map(|r| block_on(error(&gpu, r, &data, &expected, 0.0)).unwrap()).collect();
            assert!(errors.len() > 4, "{errors:?}");
        }
    }
}
