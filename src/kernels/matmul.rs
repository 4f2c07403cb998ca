//! Matrix product with weights as checkpoints store them, `(out, in)`, and a fused epilogue.
//! Shader: `matmul.wgsl`, with one file per method in `shared/`.

mod cases;
mod choice;

use super::prelude::*;
use crate::shape::Shape;

pub use super::activation::Activation;
pub use cases::cases;

/// Mirrors `Params` in the shader, after `base`. Elements, not bytes.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    x_offset: u32,
    x_batch: u32,
    x_row: u32,
    w_offset: u32,
    w_batch: u32,
    w_row: u32,
    scales: u32,
    bias_batch: u32,
    residual_offset: u32,
    residual_batch: u32,
    residual_row: u32,
    residual_rows: u32,
    y_offset: u32,
    y_batch: u32,
    y_row: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel =
    Kernel { name: "matmul", source: wgsl!("matmul"), params: size_of::<Params>(), variants: choice::VARIANTS };

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

/// What happens to a sum before it is written: `y = activation(sum + bias) + residual`.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Epilogue {
    /// `(n)` f32, added to every row.
    pub bias: Option<Value>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added after the activation.
    pub residual: Option<Residual>,
    /// Write here instead of into a new value; may be a slice of a larger value.
    pub out: Option<Value>,
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
    /// Row `m`, column `n`.
    pub y: Strides,
    /// The shape of the value that is made (without `out`).
    pub shape: Shape,
}

/// `y = act(x wᵀ + bias) + residual`.
///
/// `x`: `(.., k)` f32; `w`: `(n, k)` f32, f16, q8 or q4 (k a multiple of 32) or q4k (of 256); `bias`: `(n)`; `y`: `(.., n)` f32.
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
    if let Some(out) = e.out {
        ensure!(g.shape(out).count() == m * n, Shape, "matmul: {m} x {n} into {}", g.shape(out));
    }
    let mut axes = g.shape(x).to_vec();
    match axes.last_mut() {
        Some(last) => *last = n,
        None => axes.push(n),
    }
    let rows = |cols| Strides { offset: 0, batch: 0, row: cols };
    let shape = Shape::new(&axes);
    let b = Batched { batch: 1, m, n, k, x: rows(k), w: rows(k), bias_batch: 0, y: rows(n), shape };
    matmul_batched(g, x, w, b, e)
}

/// `y[b] = act(x[b] w[b]ᵀ + bias[b]) + residual[b]` for every matrix of a batch, with strides.
///
/// # Errors
/// `Shape` if an operand is shorter than its strides reach, or rows of `y` overlap; `Argument` for a storage that
/// is not supported.
pub fn matmul_batched(g: &mut Graph, x: Value, w: Value, b: Batched, e: Epilogue) -> Result<Value> {
    let shape = e.out.map_or(b.shape, |out| g.shape(out));
    g.call(&KERNEL, &(x, w, Batched { shape, ..b }, Epilogue { out: None, ..e }))?;
    let Batched { batch, m, n, k, .. } = b;
    ensure!(batch * m * n * k > 0, Shape, "matmul: empty product {batch} x ({m}, {k}) by ({n}, {k})");
    let wide = Strides { offset: 0, batch: b.bias_batch, row: 0 };
    reaches(g, "x", x, b.x, [batch, m, k])?;
    reaches(g, "w", w, b.w, [batch, n, k])?;
    for v in [Some(x), e.bias, e.residual.map(|r| r.value), e.out].into_iter().flatten() {
        ensure!(g.dtype(v) == DType::F32, Argument, "matmul: {:?} for an operand that has to be f32", g.dtype(v));
    }
    let dtype = g.dtype(w);
    ensure!(dtype != DType::U32, Argument, "matmul: weights stored as {dtype:?}");
    let block = dtype.block();
    if block > 1 {
        let whole = b.w.row == k && [k, b.w.offset, b.w.batch].iter().all(|v| v.is_multiple_of(block));
        ensure!(whole, Shape, "matmul: {dtype:?} weights need rows of whole blocks of {block}: {:?} with k {k}", b.w);
    }
    if let Some(bias) = e.bias {
        reaches(g, "bias", bias, wide, [batch, 1, n])?;
    }
    if let Some(r) = e.residual {
        ensure!(r.rows > 0, Shape, "matmul: a residual of no rows");
        reaches(g, "residual", r.value, r.at, [batch, r.rows.min(m), n])?;
    }
    let y = e.out.unwrap_or_else(|| g.temp(b.shape, DType::F32));
    reaches(g, "y", y, b.y, [batch, m, n])?;
    ensure!((m == 1 || b.y.row >= n) && (batch == 1 || b.y.batch > 0), Shape, "matmul: rows of y overlap: {:?}", b.y);

    // Strides that are never multiplied by anything but 0 do not get in the way of vec4 loads.
    let used = |s: Strides, rows: usize| Strides {
        batch: if batch > 1 { s.batch } else { 0 },
        row: if rows > 1 { s.row } else { 0 },
        ..s
    };
    let (xs, ws, ys) = (used(b.x, m), used(b.w, n), used(b.y, m));
    let residual_rows = e.residual.map_or(1, |r| r.rows.min(m));
    let rs = e.residual.map_or(Strides { offset: 0, batch: 0, row: 0 }, |r| used(r.at, residual_rows));
    let bs = used(wide, 1);
    let fours = |s: Strides| [s.offset, s.batch, s.row].iter().all(|v| v.is_multiple_of(4));
    let vec_k = k.is_multiple_of(4) && fours(xs) && fours(ws);
    let vec_n = n.is_multiple_of(4) && fours(ys) && fours(rs) && fours(bs);

    let shape = choice::Product { batch, m, n, k, vec: vec_k && vec_n };
    let variant = choice::choose(g.target(), &shape)?;
    let [tile_m, tile_n] = choice::tile(variant);
    let (tiles_m, tiles_n) = (m.div_ceil(tile_m), n.div_ceil(tile_n));
    let tiles = u32::try_from(tiles_m * tiles_n);
    ensure!(tiles.is_ok() && u32::try_from(batch).is_ok(), Shape, "matmul: {batch} x {m} x {n} is too large");
    let params = Params {
        m: m as u32,
        n: n as u32,
        k: k as u32,
        tiles_m: tiles_m as u32,
        tiles_n: tiles_n as u32,
        x_offset: xs.offset as u32,
        x_batch: xs.batch as u32,
        x_row: xs.row as u32,
        w_offset: ws.offset as u32,
        w_batch: ws.batch as u32,
        w_row: ws.row as u32,
        scales: (g.shape(w).count() / if dtype == DType::Q8 { 4 } else { 8 }) as u32,
        bias_batch: bs.batch as u32,
        residual_offset: rs.offset as u32,
        residual_batch: rs.batch as u32,
        residual_row: rs.row as u32,
        residual_rows: residual_rows as u32,
        y_offset: ys.offset as u32,
        y_batch: ys.batch as u32,
        y_row: ys.row as u32,
    };
    let storage = match dtype {
        DType::F16 => 1,
        DType::Q8 => 2,
        DType::Q4 => 3,
        DType::Q4K => 4,
        DType::F32 | DType::U32 => 0,
    };
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![
            ("W", storage),
            ("VEC_K", vec_k.into()),
            ("VEC_N", (vec_n && choice::stores_four(variant)).into()),
            ("TAIL", (vec_k && k % choice::step(variant) != 0).into()),
            ("BIAS", e.bias.is_some().into()),
            e.activation.define(),
            ("RESIDUAL", e.residual.map_or(0, |r| if r.rows < m { 2 } else { 1 })),
        ],
        params: bytes_of(&params).to_vec(),
        reads: [Some(x), Some(w), e.bias, e.residual.map(|r| r.value)].into_iter().flatten().collect(),
        writes: vec![y],
        grid: choice::grid(variant, tiles_m as u32, tiles_n as u32, batch as u32),
        flops: 2 * (batch * m * n * k) as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// Checks that a value holds every element that the strides reach, and that a `u32` can index it.
fn reaches(g: &Graph, what: &str, v: Value, s: Strides, [batch, rows, cols]: [usize; 3]) -> Result<()> {
    let count = g.shape(v).count();
    let end = s.offset + (batch - 1) * s.batch + (rows - 1) * s.row + cols;
    ensure!(
        end <= count && u32::try_from(count).is_ok(),
        Shape,
        "matmul: {what} {} has {count} elements; {batch} x ({rows}, {cols}) at {s:?} reach {end}",
        g.shape(v)
    );
    Ok(())
}
