//! What is timed: single operations with their sizes, from a recorded model or a file.

use crate::Result;
use impasto::{
    bench::works,
    gpu::Gpu,
    graph::{Call, Graph, Value},
    kernels::{
        attention::Attention,
        conv2d::Conv2d,
        matmul::{Batched, Epilogue},
    },
    models::sam2::{config::TINY, recordings},
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

/// What is timed unless a file says otherwise: a square product, SAM 2.1 tiny's [`heaviest`] operations, and some of
/// FLUX.
///
/// # Errors
/// What recording the model reports.
pub(crate) fn standard(gpu: &Gpu) -> Result<Vec<Case>> {
    let mut cases = vec![Case::new("square", Op::Matmul { m: 1024, n: 1024, k: 1024 })];
    cases.extend(heaviest("sam2-tiny", &pollster::block_on(recordings(gpu, &TINY))?)?);
    // Until a recording gives them, for a picture of 512 x 512 pixels: 512 text and 1024 image tokens, and the VAE at the
    // resolution of the latents.
    let vae = Op::Conv2d { height: 64, width: 64, cin: 512, cout: 512, kernel: 3, stride: 1, padding: 1 };
    cases.extend([
        Case::new("flux", Op::Matmul { m: 1536, n: 3072, k: 3072 }),
        Case::new("flux", Op::Attention { batch: 1, heads: 24, queries: 1536, keys: 1536, width: 128 }),
        Case::new("flux vae", vae),
    ]);
    Ok(cases)
}

/// Of some recordings: the ten products with the most work, and all attention and convolutions that are 1/2000 of all
/// work or more, because small ones can be 1/100 of the time.
fn heaviest(model: &str, graphs: &[(&str, Graph)]) -> Result<Vec<Case>> {
    // How often each is in the graphs: what is repeated weighs more.
    let mut counts: BTreeMap<Op, u64> = BTreeMap::new();
    for work in graphs.iter().flat_map(|(_, g)| works(g)) {
        if let Some(op) = operation(&work.call)? {
            op.check()?;
            *counts.entry(op).or_default() += work.count as u64;
        }
    }
    let all: u64 = graphs.iter().flat_map(|(_, g)| g.dispatches()).map(|d| d.flops).sum();
    let mut sorted: Vec<(Op, u64)> = counts.into_iter().collect();
    sorted.sort_by_key(|(op, count)| std::cmp::Reverse(op.flops() * count));
    let (products, others): (Vec<_>, Vec<_>) = sorted.into_iter().partition(|(op, _)| matches!(op, Op::Matmul { .. }));
    let others = others.into_iter().filter(|(op, count)| op.flops() * count * 2000 >= all);
    let chosen = products.into_iter().take(10).chain(others);
    Ok(chosen.map(|(op, count)| Case::new(&format!("{model}, {count}x"), op)).collect())
}

/// The plain operation behind a recorded call; `None` for another kernel, and for a batch of products.
fn operation(call: &Call) -> Result<Option<Op>> {
    Ok(match call.kernel.as_str() {
        "matmul" => {
            let (_, _, b, _): (Value, Value, Batched, Epilogue) = call.args()?;
            (b.batch == 1).then_some(Op::Matmul { m: b.m, n: b.n, k: b.k })
        }
        "attention" => {
            let (a,): (Attention,) = call.args()?;
            // Windows as other libraries have them: cut before, and so more of a batch.
            let (windows, queries, keys) = a.windows.map_or((1, a.queries, a.keys), |w| {
                let [across, down] = w.grid.map(|side| side.div_ceil(w.size));
                (across * down, (w.size / w.pool).pow(2), w.size * w.size)
            });
            Some(Op::Attention { batch: a.batch * windows, heads: a.heads, queries, keys, width: a.head_dim })
        }
        "conv2d" => {
            let (_, _, _, c): (Value, Value, Value, Conv2d) = call.args()?;
            let [x, weight] = [0, 1].map(|i| call.inputs[i].shape.as_slice());
            let (&[1, height, width, cin], &[cout, kernel, across, _]) = (x, weight) else { return Ok(None) };
            let Conv2d { stride, padding, .. } = c;
            (kernel == across).then_some(Op::Conv2d { height, width, cin, cout, kernel, stride, padding })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto::{
        kernels::{
            attention::{Operand, Windows, attention},
            conv2d::conv2d,
            matmul::matmul,
        },
        shape::DType,
    };

    #[test]
    fn a_recording_as_plain_operations() {
        let mut g = Graph::default();
        let mut input = |shape: &[usize]| g.input("", shape, DType::F32);
        let (x, w) = (input(&[2, 3, 64]), input(&[32, 64]));
        let (image, weight, bias) = (input(&[1, 8, 10, 4]), input(&[16, 3, 3, 4]), input(&[16]));
        let [q, kv, pad] = [12, 48, 1].map(|rows| input(&[rows, 16]));
        for _ in 0..2 {
            matmul(&mut g, x, w, Epilogue::default()).unwrap();
        }
        conv2d(&mut g, image, weight, bias, Conv2d { stride: 2, padding: 1, ..Conv2d::default() }).unwrap();
        let operand = |value| Operand { value, offset: 0, batch: 0, row: 16, head: 8 };
        let (q, k, v) = (operand(q), operand(kv), operand(kv));
        let windows = Some(Windows { grid: [6, 8], size: 4, pool: 2, pad });
        let (heads, head_dim, queries, keys) = (2, 8, 12, 48);
        attention(&mut g, Attention { batch: 1, heads, head_dim, queries, keys, scale: 1.0, q, k, v, windows })
            .unwrap();

        let cases = heaviest("model", &[("graph", g)]).unwrap();
        let names: Vec<_> = cases.iter().map(Case::to_string).collect();
        let expected =
            ["matmul 6x32x64 [model, 2x]", "conv 3x3/2 8x10 4->16 [model, 1x]", "attention 4x2 4q 16k d8 [model, 1x]"];
        assert_eq!(names, expected);
    }

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
