//! The epilogue as the shader `shared/epilogue.wgsl` takes it: for the product, and for the merge of its parts.

use super::*;

/// Mirrors the end of `Params` in the shaders, from `n` on. Elements, not bytes.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(in crate::kernels) struct FinishParams {
    n: u32,
    bias_batch: u32,
    gate_offset: u32,
    gate_batch: u32,
    residual_offset: u32,
    residual_batch: u32,
    residual_row: u32,
    residual_rows: u32,
    addend_offset: u32,
    addend_batch: u32,
    addend_row: u32,
    y_offset: u32,
    y_batch: u32,
    y_row: u32,
}

/// A checked epilogue: what to add to a dispatch.
pub(in crate::kernels) struct Finish {
    pub(in crate::kernels) params: FinishParams,
    /// Without `VEC_N`, which the variant has a say in.
    pub(in crate::kernels) defines: Vec<(&'static str, i64)>,
    pub(in crate::kernels) reads: Vec<Value>,
    pub(in crate::kernels) y: Value,
    /// Everything is a multiple of four apart.
    pub(in crate::kernels) vec: bool,
}

impl Finish {
    /// Checks an epilogue for `batch` sums of `(m, n)`, and makes `y` of `shape` unless there is an `out`.
    ///
    /// # Errors
    /// `Shape` if an operand is shorter than its strides reach, or rows of `y` overlap; `Argument` if one is not f32.
    pub(in crate::kernels) fn new(
        g: &mut Graph,
        e: &Epilogue,
        [batch, m, n]: [usize; 3],
        bias_batch: usize,
        at: Strides,
        shape: Shape,
    ) -> Result<Self> {
        let columns = if e.glu { n / 2 } else { n };
        ensure!(!e.glu || n % 2 == 0, Shape, "matmul: gated columns come in pairs, not {n}");
        let operands = [e.bias, e.gate.map(|v| v.value), e.residual.map(|r| r.value), e.addend.map(|a| a.value)];
        for v in operands.into_iter().chain([e.out]).flatten() {
            ensure!(g.dtype(v) == DType::F32, Argument, "matmul: {:?} for an operand that has to be f32", g.dtype(v));
        }
        let vector = |offset, batch| Strides { offset, batch, row: 0 };
        if let Some(bias) = e.bias {
            reaches(g, "bias", bias, vector(0, bias_batch), [batch, 1, n])?;
        }
        if let Some(v) = e.gate {
            reaches(g, "gate", v.value, vector(v.offset, v.batch), [batch, 1, columns])?;
        }
        if let Some(r) = e.residual {
            ensure!(r.rows > 0, Shape, "matmul: a residual of no rows");
            reaches(g, "residual", r.value, r.at, [batch, r.rows.min(m), columns])?;
        }
        if let Some(a) = e.addend {
            reaches(g, "addend", a.value, a.at, [batch, m, n])?;
        }
        let y = e.out.unwrap_or_else(|| g.temp(shape, DType::F32));
        reaches(g, "y", y, at, [batch, m, columns])?;
        let apart = (m == 1 || at.row >= columns) && (batch == 1 || at.batch > 0);
        ensure!(apart, Shape, "matmul: rows of y overlap: {at:?}");

        let rows = e.residual.map_or(1, |r| r.rows.min(m));
        let none = vector(0, 0);
        let residual = e.residual.map_or(none, |r| used(r.at, batch, rows));
        let gate = e.gate.map_or(none, |v| used(vector(v.offset, v.batch), batch, 1));
        let addend = e.addend.map_or(none, |a| used(a.at, batch, m));
        let (bias, at) = (used(vector(0, bias_batch), batch, 1), used(at, batch, m));
        Ok(Self {
            params: FinishParams {
                n: n as u32,
                bias_batch: bias.batch as u32,
                gate_offset: gate.offset as u32,
                gate_batch: gate.batch as u32,
                residual_offset: residual.offset as u32,
                residual_batch: residual.batch as u32,
                residual_row: residual.row as u32,
                residual_rows: rows as u32,
                addend_offset: addend.offset as u32,
                addend_batch: addend.batch as u32,
                addend_row: addend.row as u32,
                y_offset: at.offset as u32,
                y_batch: at.batch as u32,
                y_row: at.row as u32,
            },
            defines: vec![
                ("BIAS", e.bias.is_some().into()),
                e.activation.define(),
                ("GLU", e.glu.into()),
                ("GATE", e.gate.is_some().into()),
                ("RESIDUAL", e.residual.map_or(0, |r| if r.rows < m { 2 } else { 1 })),
                ("ADDEND", e.addend.is_some().into()),
            ],
            reads: operands.into_iter().flatten().collect(),
            y,
            vec: n.is_multiple_of(4) && [at, residual, addend, gate, bias].into_iter().all(|s| goes_by(4, s)),
        })
    }
}

/// Strides that are never multiplied by anything but 0 do not get in the way of vec4 loads.
pub(super) fn used(s: Strides, batch: usize, rows: usize) -> Strides {
    Strides { batch: if batch > 1 { s.batch } else { 0 }, row: if rows > 1 { s.row } else { 0 }, ..s }
}

/// Whether every row starts at a multiple of `step`.
pub(super) fn goes_by(step: usize, s: Strides) -> bool {
    [s.offset, s.batch, s.row].iter().all(|v| v.is_multiple_of(step))
}

/// Checks that a value holds every element that the strides reach, and that a `u32` can index it.
pub(super) fn reaches(g: &Graph, what: &str, v: Value, s: Strides, [batch, rows, cols]: [usize; 3]) -> Result<()> {
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
