//! Matrix product with weights as checkpoints store them, `(out, in)`, and a fused epilogue.
//! Shader: `matmul.wgsl`, with one file per method in `shared/`.

mod cases;
mod choice;
mod epilogue;
mod record;
mod variants;

use super::prelude::*;
use crate::shape::Shape;

pub use super::activation::Activation;
pub use cases::cases;
pub(super) use epilogue::{Finish, FinishParams};
pub use record::matmul_batched;

/// The kernel's table.
pub const KERNEL: Kernel =
    Kernel { name: "matmul", source: wgsl!("matmul"), params: record::PARAMS, variants: variants::VARIANTS };

/// Where element (batch b, row r, column c) of an operand is: `offset + b * batch + r * row + c`, in elements.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Strides {
    /// Of the first element.
    pub offset: usize,
    /// From one matrix of the batch to the next.
    pub batch: usize,
    /// From one row to the next.
    pub row: usize,
}

/// What happens to a sum before it is written: `y = residual + gate * activation(sum + bias + addend)`, each where it is
/// given.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Epilogue {
    /// `(n)` f32, added to every row.
    pub bias: Option<Value>,
    /// Added before the activation: what another product gave for the same columns, as a low-rank one.
    #[serde(default)]
    pub addend: Option<Addend>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Gated linear unit: columns come in pairs, and `activation(column 2j) * column (2j + 1)` is column `j` of `y`,
    /// which has `n / 2`. So rows of `w` (and the bias) have to be interleaved at load: gate, up, gate, up. With
    /// [`Activation::Silu`] it is SwiGLU.
    pub glu: bool,
    /// Multiplies what came out so far, column by column.
    pub gate: Option<Gate>,
    /// Added at last.
    pub residual: Option<Residual>,
    /// Write here instead of into a new value; may be a slice of a larger value.
    pub out: Option<Value>,
    /// How the operands may be rounded.
    pub precision: Precision,
}

/// How exact a product has to be. Sums are f32 in any case, and so are the operands unless the adapter has what makes
/// rounding them worth it. A variant that is forced by name rounds as it does.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Precision {
    /// Operands as they are.
    #[default]
    Full,
    /// Operands may be rounded to f16: an error of some 5e-8 of the mean square. The caller vouches that no `|x|`
    /// exceeds 65504, as behind a norm or a softmax: what does is clamped.
    Half,
    /// x may be rounded to 8 bits in blocks of 32 along k, too, where the weights are: an error of some 1e-5 of the mean
    /// square. Includes what `Half` allows.
    Int8,
}

/// One f32 factor for each column of the output: `gate1` and `gate2` of FLUX's modulation.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Gate {
    /// The values. Not the buffer that is written: wgpu forbids it.
    pub value: Value,
    /// The factor of column 0 in the first matrix of the batch: an element of `value`.
    pub offset: usize,
    /// From there to that of the next matrix; 0 shares it.
    pub batch: usize,
}

/// An f32 operand that is added to the output. Row `r` of the output takes row `r % rows` of it.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Residual {
    /// The values. Not the buffer that is written: wgpu forbids it.
    pub value: Value,
    /// Where they are.
    pub at: Strides,
    /// How many rows there are: fewer than the output has are repeated.
    pub rows: usize,
}

/// An f32 operand that is added to the sum, `(m, n)` for every matrix of the batch.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Addend {
    /// The values. Not the buffer that is written: wgpu forbids it.
    pub value: Value,
    /// Where they are.
    pub at: Strides,
}

impl Residual {
    /// A residual of the output's own shape; or, with fewer rows, repeated over the output's rows.
    pub fn same(g: &Graph, value: Value) -> Self {
        let (rows, cols) = g.shape(value).rows_cols();
        Self { value, at: Strides { offset: 0, batch: 0, row: cols }, rows }
    }
}

/// A product of every matrix in a batch, each operand with its own strides.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Batched {
    /// Matrices.
    pub batch: usize,
    /// Rows of x and y.
    pub m: usize,
    /// Rows of w, columns of y.
    pub n: usize,
    /// Columns of x and w.
    pub k: usize,
    /// Row `m`, column `k`.
    pub x: Strides,
    /// Row `n`, column `k`. A quantised weight has rows of `k`, and an offset and batch stride of whole blocks.
    pub w: Strides,
    /// From the bias of one matrix to that of the next; 0 shares it.
    pub bias_batch: usize,
    /// Row `m`, column `n`, or `n / 2` with [`Epilogue::glu`].
    pub y: Strides,
    /// The shape of the value that is made (without `out`).
    pub shape: Shape,
}

/// `y = residual + gate * act(x wᵀ + bias)`.
///
/// `x`: `(.., k)` f32; `w`: `(n, k)` f32, f16, q8, q4 or q5 (k a multiple of 32), or q4k, q5k or q6k (of 256); `bias`: `(n)`;
/// `y`: `(.., n)` f32, or `(.., n / 2)` with [`Epilogue::glu`].
/// As `torch.nn.Linear`. Sums are f32 whatever the storage.
///
/// # Errors
/// `Shape` if the shapes disagree, or `out` or the residual do not have the output's columns.
pub fn matmul(g: &mut Graph, x: Value, w: Value, e: Epilogue) -> Result<Value> {
    let ((m, k), (n, depth)) = (g.shape(x).rows_cols(), g.shape(w).rows_cols());
    ensure!(k == depth, Shape, "matmul: {} by weights {}", g.shape(x), g.shape(w));
    if let Some(bias) = e.bias {
        ensure!(g.shape(bias).count() == n, Shape, "matmul: bias {} for {n} outputs", g.shape(bias));
    }
    let columns = if e.glu { n / 2 } else { n };
    if let Some(out) = e.out {
        ensure!(g.shape(out).count() == m * columns, Shape, "matmul: {m} x {columns} into {}", g.shape(out));
    }
    let mut axes = g.shape(x).to_vec();
    match axes.last_mut() {
        Some(last) => *last = columns,
        None => axes.push(columns),
    }
    let rows = |cols| Strides { offset: 0, batch: 0, row: cols };
    let shape = Shape::new(&axes);
    let b = Batched { batch: 1, m, n, k, x: rows(k), w: rows(k), bias_batch: 0, y: rows(columns), shape };
    matmul_batched(g, x, w, b, e)
}
