//! From operands to dispatches: one, or with a long k two.

use super::{
    epilogue::{goes_by, reaches, used},
    *,
};
use crate::kernels::{matmul_merge::matmul_merge, quantize_rows::quantize_rows};

/// Mirrors `Params` in the shader, after `base`. Elements, not bytes.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    m: u32,
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
    x_scales: u32,
    finish: FinishParams,
}

pub(super) const PARAMS: usize = size_of::<Params>();

/// `y[b] = residual[b] + gate[b] * act(x[b] w[b]ᵀ + bias[b])` for every matrix of a batch, with strides.
///
/// # Errors
/// `Shape` if an operand is shorter than its strides reach, or rows of `y` overlap; `Argument` for a storage that
/// is not supported.
pub fn matmul_batched(g: &mut Graph, x: Value, w: Value, b: Batched, e: Epilogue) -> Result<Value> {
    let shape = e.out.map_or(b.shape, |out| g.shape(out));
    g.call(&KERNEL, &(x, w, Batched { shape, ..b }, Epilogue { out: None, ..e }))?;
    let Batched { batch, m, n, k, .. } = b;
    ensure!(batch * m * n * k > 0, Shape, "matmul: empty product {batch} x ({m}, {k}) by ({n}, {k})");
    reaches(g, "x", x, b.x, [batch, m, k])?;
    reaches(g, "w", w, b.w, [batch, n, k])?;
    let dtype = g.dtype(w);
    ensure!(g.dtype(x) == DType::F32, Argument, "matmul: x stored as {:?}, not F32", g.dtype(x));
    ensure!(dtype != DType::U32, Argument, "matmul: weights stored as {dtype:?}");
    let block = dtype.block();
    if block > 1 {
        let whole = b.w.row == k && [k, b.w.offset, b.w.batch].iter().all(|v| v.is_multiple_of(block));
        ensure!(whole, Shape, "matmul: {dtype:?} weights need rows of whole blocks of {block}: {:?} with k {k}", b.w);
    }
    let finish = Finish::new(g, &e, [batch, m, n], b.bias_batch, b.y, b.shape)?;
    let vec = b.goes_by(4) && finish.vec;
    let shape = choice::Product { batch, m, n, k, w: dtype, precision: e.precision, vec };
    let variant = choice::choose(g.target(), &shape)?;
    let (x, b) = match variants::takes_q8(variant) {
        true => (
            quantize_rows(g, x, used(b.x, batch, m), m, k)?,
            Batched { x: Strides { offset: 0, batch: 0, row: k }, ..b },
        ),
        false => (x, b),
    };
    let splits = choice::splits(variant, g.target(), &shape);
    if splits == 1 {
        return product(g, variant, x, w, b, finish);
    }
    // Each part of k is a matrix of a batch.
    let part = k / splits;
    let parts = Shape::from([splits, m, n]);
    let y = Strides { offset: 0, batch: m * n, row: n };
    let along = |s: Strides| Strides { batch: part, ..s };
    let pieces = Batched { batch: splits, k: part, x: along(b.x), w: along(b.w), bias_batch: 0, y, shape: parts, ..b };
    let plain = Finish::new(g, &Epilogue::default(), [splits, m, n], 0, y, parts)?;
    let sums = product(g, variant, x, w, pieces, plain)?;
    matmul_merge(g, sums, finish)
}

impl Batched {
    /// Whether rows of x and w start at multiples of `step`, and are that long.
    fn goes_by(&self, step: usize) -> bool {
        let Batched { batch, m, n, k, .. } = *self;
        k.is_multiple_of(step) && goes_by(step, used(self.x, batch, m)) && goes_by(step, used(self.w, batch, n))
    }
}

/// One dispatch of a checked product.
fn product(g: &mut Graph, variant: &'static Variant, x: Value, w: Value, b: Batched, finish: Finish) -> Result<Value> {
    let Batched { batch, m, n, k, .. } = b;
    let vec_k = b.goes_by(4);
    let [tile_m, tile_n] = variants::tile(variant);
    let (tiles_m, tiles_n) = (m.div_ceil(tile_m), n.div_ceil(tile_n));
    let tiles = u32::try_from(tiles_m * tiles_n);
    ensure!(tiles.is_ok() && u32::try_from(batch).is_ok(), Shape, "matmul: {batch} x {m} x {n} is too large");
    let (xs, ws) = (used(b.x, batch, m), used(b.w, batch, n));
    // The define `W`, and elements in a word of quants.
    let (storage, a_word) = match g.dtype(w) {
        DType::F32 | DType::U32 => (0, 1),
        DType::F16 => (1, 2),
        DType::Q8 => (2, 4),
        DType::Q4 => (3, 8),
        DType::Q4K => (4, 8),
        DType::Q5 => (5, 8),
        DType::Q5K => (6, 8),
        DType::Q6K => (7, 8),
    };
    let params = Params {
        m: m as u32,
        k: k as u32,
        tiles_m: tiles_m as u32,
        tiles_n: tiles_n as u32,
        x_offset: xs.offset as u32,
        x_batch: xs.batch as u32,
        x_row: xs.row as u32,
        w_offset: ws.offset as u32,
        w_batch: ws.batch as u32,
        w_row: ws.row as u32,
        scales: (g.shape(w).count() / a_word) as u32,
        x_scales: (g.shape(x).count() / 4) as u32,
        finish: finish.params,
    };
    let mut defines = vec![
        ("W", storage),
        ("VEC_K", vec_k.into()),
        ("VEC_N", (finish.vec && variants::stores_four(variant)).into()),
        ("TAIL", (vec_k && k % variants::step(variant) != 0).into()),
    ];
    if variants::by_eight(variant) && b.goes_by(8) && matches!(g.dtype(w), DType::F32 | DType::F16) {
        defines.push(("BY_EIGHT", 1));
    }
    defines.extend(finish.defines);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines,
        params: bytes_of(&params).to_vec(),
        reads: [x, w].into_iter().chain(finish.reads).collect(),
        writes: vec![finish.y],
        grid: variants::grid(variant, tiles_m as u32, tiles_n as u32, batch as u32),
        flops: 2 * (batch * m * n * k) as u64,
        scope: String::new(),
    })?;
    Ok(finish.y)
}
