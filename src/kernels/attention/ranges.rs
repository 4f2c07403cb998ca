//! Attention whose keys come in ranges, which need not be there at the same time.

use super::{super::attention_merge::attention_merge, Attention, Cut, KERNEL, Masked, masked_attention};
use crate::{
    error::{Result, ensure},
    graph::{Call, Graph, Value},
    shape::DType,
};

/// [`masked_attention`] over the keys of `count` ranges. `range` is asked for one after another, and gives the attention over it
/// alone, so that ranges may take each other's memory: for keys that no binding holds. Their results are combined as those of
/// keys that are split over workgroups.
///
/// # Errors
/// Those of `range` and of `masked_attention`. `Shape` if there is no range, if they differ in more than their keys, if one has
/// more keys than the first, or if the result is so small that a part of it cannot be bound alone (64 f32 as a rule).
/// `Argument` with a causal mask or windows.
pub fn attention_over_ranges(
    g: &mut Graph,
    count: usize,
    mut range: impl FnMut(&mut Graph, usize) -> Result<Masked>,
) -> Result<Value> {
    ensure!(count > 0, Shape, "attention: no range of keys");
    let first = range(g, 0)?;
    if count == 1 {
        return masked_attention(g, first);
    }
    let a = first.call;
    let (rows, cols) = (a.batch * a.queries * a.heads, first.value_dim.unwrap_or(a.head_dim) + 4);
    // Of each range as many parts as of the first, if a binding holds those of all.
    let fit = g.target().limits.binding as usize / (4 * rows * cols * count).max(1);
    let mut cut = Cut::of(g, Masked { parts: Some(fit), ..first })?;
    let (most, mut used) = (cut.splits, 0);
    let parts = g.temp([count * most, rows, cols], DType::F32);
    for i in 0..count {
        if i > 0 {
            let next = range(g, i)?;
            cut = Cut::of(g, Masked { parts: Some(most), ..next })?;
        }
        like_the_first(&cut.masked, &first)?;
        let part = g.slice(parts, used, cut.splits)?;
        used += cut.splits;
        cut.launch(g, part)?;
    }
    let parts = g.slice(parts, 0, used)?;
    let merged = attention_merge(g, parts)?;
    g.reshape(merged, [a.batch, a.queries, rows / a.batch / a.queries * (cols - 4)])
}

/// What `y`, the result of a recorded call, amounts to: parts of a range are combined, as each variant makes others.
pub(crate) fn combined(g: &mut Graph, call: &Call, y: Value) -> Result<Value> {
    if call.kernel != KERNEL.name || call.args::<(Masked,)>()?.0.parts.is_none() {
        return Ok(y);
    }
    attention_merge(g, y)
}

fn like_the_first(range: &Masked, first: &Masked) -> Result<()> {
    ensure!(
        !range.causal && range.call.windows.is_none(),
        Argument,
        "attention: ranges of keys with a causal mask or windows"
    );
    let sizes = |m: &Masked| {
        let Attention { batch, heads, head_dim, queries, scale, .. } = m.call;
        ([batch, heads, head_dim, queries, m.share, m.value_dim.unwrap_or(head_dim)], scale)
    };
    let (of, all) = (sizes(range), sizes(first));
    ensure!(
        of == all && range.call.keys <= first.call.keys,
        Shape,
        "attention: a range of {} keys, {of:?}, after one of {}, {all:?}",
        range.call.keys,
        first.call.keys
    );
    Ok(())
}
