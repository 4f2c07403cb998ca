//! Checked packing of f32 weights into the storage that kernels read. The layouts are [`crate::quant`]'s.

use crate::{
    error::{Result, bail, ensure},
    quant,
};
use half::f16;

/// [`quant::pack_f16`], for values that f16 holds.
///
/// # Errors
/// `Numeric` for a value that would become infinite or is not a number. Saturating would change the model in
/// silence, and such a tensor can be kept in f32.
pub fn quantize_f16(values: &[f32]) -> Result<Vec<u32>> {
    if let Some((i, x)) = values.iter().enumerate().find(|(_, x)| !f16::from_f32(**x).is_finite()) {
        bail!(Numeric, "element {i} is {x}, which f16 cannot hold");
    }
    Ok(quant::pack_f16(values))
}

/// [`quant::pack_q8`] of `rows` rows of `cols` elements, for values that it holds.
///
/// # Errors
/// `Shape` unless `values` are `rows * cols` and `cols` is a multiple of 32: a block must not reach into the next
/// row. `Numeric` if a value is NaN or infinite, or so large that the block's scale is beyond f16.
pub fn quantize_q8(rows: usize, cols: usize, values: &[f32]) -> Result<Vec<u32>> {
    check("q8", 127.0, rows, cols, values)?;
    Ok(quant::pack_q8(values))
}

/// [`quant::pack_q4`] of `rows` rows of `cols` elements, for values that it holds.
///
/// # Errors
/// Those of [`quantize_q8`].
pub fn quantize_q4(rows: usize, cols: usize, values: &[f32]) -> Result<Vec<u32>> {
    check("q4", 8.0, rows, cols, values)?;
    Ok(quant::pack_q4(values))
}

/// Whole rows of blocks, and values of which a `steps`-th is an f16.
fn check(format: &str, steps: f32, rows: usize, cols: usize, values: &[f32]) -> Result<()> {
    let count = values.len();
    ensure!(rows.checked_mul(cols) == Some(count), Shape, "{format}: {count} values are not {rows} rows of {cols}");
    let block = quant::BLOCK;
    ensure!(cols.is_multiple_of(block), Shape, "{format}: rows of {cols} are no whole blocks of {block}");
    let fits = |x: f32| f16::from_f32(x.abs() / steps).is_finite();
    if let Some((i, x)) = values.iter().enumerate().find(|(_, x)| !fits(**x)) {
        bail!(Numeric, "element {i} is {x}, which {format} cannot hold");
    }
    Ok(())
}
