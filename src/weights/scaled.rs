//! The factors that 8-bit floats of safetensors files have beside them.
//!
//! `X.weight` of fp8 comes alone, or with `X.scale_weight` (ComfyUI until 2025, with a marker tensor `scaled_fp8`) or
//! `X.weight_scale` (ComfyUI since, with `X.comfy_quant`, and the releases of Black Forest Labs). The weight is the
//! product. `X.scale_input` and `X.input_scale` serve products in fp8, which these kernels do not compute.

use super::{
    HostDType, HostTensor,
    store::{Entry, Tensors, printable},
};
use crate::error::{ErrorKind, IntoError, Result, bail, ensure};

/// The factors of the tensor that the file calls `name`: none, one, or one for each row.
///
/// # Errors
/// `Weights` for factors of another kind: two of them, blocks, or a quantisation that is not fp8.
pub(super) fn scales(tensors: &Tensors, name: &str, entry: &Entry) -> Result<Vec<f32>> {
    let (HostDType::F8E4M3 | HostDType::F8E5M2, Some(stem)) = (entry.dtype, name.strip_suffix("weight")) else {
        return Ok(Vec::new());
    };
    let beside = |what: &str| tensors.get(&format!("{stem}{what}"));
    if let Some(quant) = beside("comfy_quant") {
        check_comfy_quant(name, entry.dtype, quant)?;
    }
    if let Some(blocks) = beside("weight_scale_inv") {
        let shape = super::tensor::dims(&blocks.shape);
        bail!(
            Weights,
            "tensor {}: its scales of blocks {shape} are not read; use a file with one scale",
            printable(name)
        );
    }
    let (what, scale) = match (beside("scale_weight"), beside("weight_scale")) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => bail!(Weights, "tensor {}: both a scale_weight and a weight_scale", printable(name)),
        (Some(scale), None) => ("scale_weight", scale),
        (None, Some(scale)) => ("weight_scale", scale),
    };
    let scale = HostTensor::new(format!("{stem}{what}"), &scale.shape, scale.dtype, scale.contiguous()?)?;
    let per_row = [&[1][..], &[entry.shape.first().copied().unwrap_or(1)][..]];
    let flat = scale.shape().strip_suffix(&[1]).unwrap_or(scale.shape());
    ensure!(
        flat.is_empty() || per_row.contains(&flat),
        Weights,
        "tensor '{}' is {}, not one scale or one for each row of {}",
        scale.name(),
        super::tensor::dims(scale.shape()),
        printable(name)
    );
    scale.to_f32()
}

/// `comfy_quant` is a JSON object in bytes that names the format of the weight beside it.
fn check_comfy_quant(name: &str, dtype: HostDType, quant: &Entry) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Quant {
        format: String,
    }
    let json = quant.contiguous()?;
    let json = &json[..json.len().min(4096)];
    let Quant { format } = serde_json::from_slice(json)
        .error(ErrorKind::Weights, || format!("the comfy_quant of tensor {} cannot be read", printable(name)))?;
    let expected = if dtype == HostDType::F8E4M3 { "float8_e4m3fn" } else { "float8_e5m2" };
    ensure!(
        format == expected,
        Weights,
        "tensor {} holds {dtype}, but its comfy_quant says {}",
        printable(name),
        printable(&format)
    );
    Ok(())
}
