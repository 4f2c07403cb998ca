//! What is timed: single operations with their sizes, from a recorded model or a file.

use crate::Result;
use impasto::{
    gpu::Gpu,
    graph::Graph,
    models::sam2::{Options, Predictor, config, tensors},
    weights::Weights,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::Path};

/// One operation that every library has, in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Op {
    /// `y (m, n) = x (m, k) w (n, k)ᵀ`.
    Matmul { m: usize, n: usize, k: usize },
    /// `softmax(q kᵀ / √width) v` without mask: `batch` times `heads` problems.
    Attention { batch: usize, heads: usize, queries: usize, keys: usize, width: usize },
    /// One image `(height, width, cin)` with `(cout, kernel, kernel, cin)`, zero padding.
    Conv2d { height: usize, width: usize, cin: usize, cout: usize, kernel: usize, stride: usize, padding: usize },
}

impl Op {
    /// Height and width of a convolution's result.
    pub(crate) fn out_side(size: usize, kernel: usize, stride: usize, padding: usize) -> usize {
        (size + 2 * padding - kernel) / stride + 1
    }

    /// Floating-point operations: two a multiplication with its addition; the softmax is not counted.
    pub(crate) fn flops(&self) -> u64 {
        let count = match *self {
            Self::Matmul { m, n, k } => 2 * m * n * k,
            Self::Attention { batch, heads, queries, keys, width } => 4 * batch * heads * queries * keys * width,
            Self::Conv2d { height, width, cin, cout, kernel, stride, padding } => {
                let side = |s| Self::out_side(s, kernel, stride, padding);
                2 * side(height) * side(width) * cout * kernel * kernel * cin
            }
        };
        count as u64
    }

    /// # Errors
    /// For sizes that are no operation.
    fn check(&self) -> Result<()> {
        let whole = match *self {
            Self::Matmul { m, n, k } => m * n * k > 0,
            Self::Attention { batch, heads, queries, keys, width } => batch * heads * queries * keys * width > 0,
            Self::Conv2d { height, width, cin, cout, kernel, stride, padding } => {
                cin * cout * kernel * stride > 0 && height.min(width) + 2 * padding >= kernel
            }
        };
        if whole { Ok(()) } else { Err(format!("{self:?} has no result").into()) }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matmul { m, n, k } => write!(f, "matmul {m}x{n}x{k}"),
            Self::Attention { batch, heads, queries, keys, width } => {
                write!(f, "attention {batch}x{heads} {queries}q {keys}k d{width}")
            }
            Self::Conv2d { height, width, cin, cout, kernel, stride, .. } => {
                write!(f, "conv {kernel}x{kernel}/{stride} {height}x{width} {cin}->{cout}")
            }
        }
    }
}

/// An operation and where it comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    /// `sam2-tiny`, `flux vae`, ..
    pub(crate) from: String,
    /// What is computed.
    #[serde(flatten)]
    pub(crate) op: Op,
}

impl Case {
    fn new(from: &str, op: Op) -> Self {
        Self { from: from.to_string(), op }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.op, self.from)
    }
}

/// The cases of a JSON file: `[{"from": "mine", "op": "matmul", "m": 64, "n": 64, "k": 64}, ..]`.
///
/// # Errors
/// If it cannot be read or holds anything else.
pub(crate) fn from_file(path: &Path) -> Result<Vec<Case>> {
    let named = |e: &dyn fmt::Display| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| named(&e))?;
    let cases: Vec<Case> = serde_json::from_str(&text).map_err(|e| named(&e))?;
    cases.iter().try_for_each(|c| c.op.check()).map_err(|e| named(&e))?;
    Ok(cases)
}

/// What is timed unless a file says otherwise: a square product, SAM 2.1 tiny's convolution and ten heaviest products
/// as the encoder's graph for this device has them, and attention and convolutions of SAM 2 and FLUX.
///
/// # Errors
/// What recording the model reports.
pub(crate) fn standard(gpu: &Gpu) -> Result<Vec<Case>> {
    let mut cases = vec![Case::new("square", Op::Matmul { m: 1024, n: 1024, k: 1024 })];
    cases.extend(sam2_tiny(gpu)?);
    let attention = |from, batch, heads, queries, keys, width| {
        Case::new(from, Op::Attention { batch, heads, queries, keys, width })
    };
    let conv3x3 = |from, side, channels| {
        let (height, width, cin, cout) = (side, side, channels, channels);
        Case::new(from, Op::Conv2d { height, width, cin, cout, kernel: 3, stride: 1, padding: 1 })
    };
    cases.extend([
        // Tiny's third stage at 1024 pixels: 64 x 64 tokens in 25 windows of 14 x 14 (padded), then all with all.
        attention("sam2-tiny windows", 25, 4, 196, 196, 96),
        attention("sam2-tiny global", 1, 4, 4096, 4096, 96),
        // The mask decoder: eight tokens look at the image.
        attention("sam2 decoder", 1, 8, 8, 4096, 16),
        // 512 text and 1024 image tokens (512 x 512 pixels); FLUX has 24 heads, here are 4 for the sake of CPUs.
        attention("flux, 4 heads", 1, 4, 1536, 1536, 128),
        // The VAE decoder's resolutions for 256 x 256 pixels.
        conv3x3("flux vae", 32, 512),
        conv3x3("flux vae", 64, 256),
        conv3x3("flux vae", 128, 128),
    ]);
    Ok(cases)
}

/// The convolutions and the ten products with the most work of SAM 2.1 tiny's image encoder.
///
/// The recording needs a checkpoint's names and shapes but not its values: zeros do.
fn sam2_tiny(gpu: &Gpu) -> Result<Vec<Case>> {
    let weights = Weights::from_bytes(zeros(&tensors::image_tensors(&config::TINY))?)?;
    let predictor = Predictor::new(gpu, config::TINY, &weights, Options::default());
    let mut predictor = pollster::block_on(predictor)?;
    let (bound, _) = predictor.encoder()?;
    // How often each is in the graph: what is repeated weighs more.
    let mut counts: BTreeMap<Op, u64> = BTreeMap::new();
    for op in operations(bound.graph())? {
        *counts.entry(op).or_default() += 1;
    }
    let mut sorted: Vec<(Op, u64)> = counts.into_iter().collect();
    sorted.sort_by_key(|(op, count)| std::cmp::Reverse(op.flops() * count));
    let (products, convolutions): (Vec<_>, Vec<_>) =
        sorted.into_iter().partition(|(op, _)| matches!(op, Op::Matmul { .. }));
    let chosen = products.into_iter().take(10).chain(convolutions);
    Ok(chosen.map(|(op, count)| Case::new(&format!("sam2-tiny, {count}x"), op)).collect())
}

/// The products and convolutions of a recording.
fn operations(g: &Graph) -> Result<Vec<Op>> {
    let mut found = Vec::new();
    for d in g.dispatches() {
        let op = match d.kernel.name {
            "matmul" => {
                let (n, k) = g.shape(d.reads[1]).rows_cols();
                let m = g.shape(d.reads[0]).count() / k;
                Op::Matmul { m, n, k }
            }
            "conv2d" => {
                let [_, height, width, cin] = g.shape(d.reads[0]).axes("conv2d: x")?;
                let [cout, kernel, _, _] = g.shape(d.reads[1]).axes("conv2d: weight")?;
                let [_, oh, _, _] = g.shape(d.writes[0]).axes("conv2d: y")?;
                // The graph keeps stride and padding as the shader's parameters; these two follow from the sizes of
                // every convolution whose padding is half its kernel, and the FLOP below tell if one's is not.
                let (padding, stride) = (kernel / 2, height.div_ceil(oh));
                Op::Conv2d { height, width, cin, cout, kernel, stride, padding }
            }
            _ => continue,
        };
        op.check()?;
        if op.flops() != d.flops {
            return Err(format!("{}: {op} has {} FLOP, the graph says {}", d.scope, op.flops(), d.flops).into());
        }
        found.push(op);
    }
    Ok(found)
}

/// A safetensors file of zeros in f32.
fn zeros(list: &[tensors::Tensor]) -> Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in list {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(&header);
    file.resize(file.len() + end, 0);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_the_readme_shows() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../shapes.json")).unwrap();
        assert!(cases.len() >= 3);
        cases.iter().for_each(|c| c.op.check().unwrap());
        assert!(serde_json::from_str::<Vec<Case>>(r#"[{"from": "x", "op": "matmul", "m": 1}]"#).is_err());
        assert!(Op::Matmul { m: 0, n: 1, k: 1 }.check().is_err());
    }

    #[test]
    fn flops_of_a_convolution() {
        let op = Op::Conv2d { height: 1024, width: 1024, cin: 3, cout: 96, kernel: 7, stride: 4, padding: 3 };
        assert_eq!(op.flops(), 2 * 256 * 256 * 96 * 49 * 3);
    }
}
