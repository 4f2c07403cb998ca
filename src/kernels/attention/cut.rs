//! How a call of attention is cut into workgroups, and its launch.

use super::{
    super::prelude::*,
    KERNEL, Masked, Operand, check,
    tiling::{Tiling, split},
};

/// Mirrors `Params` in the shader, after `base`. Strides in vec4s.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    q: [u32; 4],
    k: [u32; 4],
    v: [u32; 4],
    batch: u32,
    heads: u32,
    width: u32,
    scale: f32,
    queries: u32,
    keys: u32,
    tokens: u32,
    splits: u32,
    split_keys: u32,
    key_side: u32,
    query_side: u32,
    across: u32,
    windows: u32,
    key_inverse: f32,
    query_inverse: f32,
    values: u32,
    key_grid: [u32; 2],
    query_grid: [u32; 2],
    /// offset, head, row, batch; in elements.
    bias: [u32; 4],
}

/// A call, and how the device works on it.
pub(super) struct Cut {
    pub(super) masked: Masked,
    pub(super) value_dim: usize,
    variant: &'static Variant,
    tiling: Tiling,
    /// Queries and keys that meet: of a window, or of a batch element.
    queries: usize,
    keys: usize,
    /// Windows of a batch element.
    windows: [usize; 2],
    /// Into how many parts the keys are split, and keys of a part.
    pub(super) splits: usize,
    split_keys: usize,
}

impl Cut {
    /// Records the call and chooses for it.
    pub(super) fn of(g: &mut Graph, mut masked: Masked) -> Result<Self> {
        g.call(&KERNEL, &(masked,))?;
        check(g, &masked)?;
        if masked.causal {
            // Beyond, no query looks.
            masked.call.keys = masked.call.keys.min(masked.call.queries);
        }
        let a = masked.call;
        let value_dim = masked.value_dim.unwrap_or(a.head_dim);
        let (width, values, target) = (a.head_dim / 4, value_dim / 4, g.target());
        let (queries, keys, windows) = match a.windows {
            Some(w) => ((w.size / w.pool).pow(2), w.size.pow(2), w.grid.map(|n| n.div_ceil(w.size))),
            None => (a.queries, a.keys, [1, 1]),
        };

        let asked = target.asks(KERNEL.name);
        let variant = KERNEL.choose(target, |v| {
            // By rule at least half full; whoever asks for a variant may have a quarter.
            let least = |t: &Tiling| t.queries / if asked { 4 } else { 2 };
            // The keys of a window are not split; and some variants are for few keys.
            let most = if v.class == Class::Software { v.get("MOST") as usize } else { 0 };
            let runs =
                |t: &Tiling| (a.windows.is_none() || keys <= t.most_keys) && (most == 0 || keys <= most || asked);
            // Beside its sums an invocation keeps few operands: it may have twice those of a product.
            let crowded = |t: &Tiling| t.sums > 2 * target.family.rules().sums as usize && !asked;
            let suits = |t: &Tiling| v.get("SMALL") == 1 || (queries > least(t) && !crowded(t));
            Tiling::new(v, [width, values], target).is_some_and(|t| runs(&t) && suits(&t))
        })?;
        let Some(tiling) = Tiling::new(variant, [width, values], target) else {
            bail!(Internal, "attention: a variant that fits")
        };
        let groups = queries.div_ceil(tiling.queries) * a.heads * a.batch * windows[0] * windows[1];
        let mut split_keys = if a.windows.is_some() { keys } else { split(keys, groups, &tiling, target) };
        if let Some(most) = masked.parts.filter(|most| keys.div_ceil(split_keys) > *most) {
            // No more than an invocation may go through, though that makes more parts.
            split_keys = keys.div_ceil(most.max(1)).next_multiple_of(tiling.keys).min(tiling.most_keys);
        }
        let splits = keys.div_ceil(split_keys);
        Ok(Self { masked, value_dim, variant, tiling, queries, keys, windows, splits, split_keys })
    }

    /// Rows of a part: every query of every head.
    pub(super) fn rows(&self) -> usize {
        let a = &self.masked.call;
        a.batch * a.queries * a.heads
    }

    /// Writes the result, or parts of it, into `y`.
    pub(super) fn launch(&self, g: &mut Graph, y: Value) -> Result<()> {
        let Masked { call: a, causal, share, bias, .. } = self.masked;
        let &Self { queries, keys, windows, splits, .. } = self;
        let padded = a.windows.filter(|w| w.grid.iter().any(|n| n % w.size != 0));
        let quarter = |o: &Operand| [o.offset, o.batch, o.row, o.head].map(|n| (n / 4) as u32);
        let (side, pool) = a.windows.map_or((1, 1), |w| (w.size, w.pool));
        let [height, width_of_grid] = a.windows.map_or([0, 0], |w| w.grid).map(|n| n as u32);
        let params = Params {
            q: quarter(&a.q),
            k: quarter(&a.k),
            v: quarter(&a.v),
            batch: a.batch as u32,
            heads: a.heads as u32,
            width: (a.head_dim / 4) as u32,
            scale: a.scale * std::f32::consts::LOG2_E,
            queries: queries as u32,
            keys: keys as u32,
            tokens: a.queries as u32,
            splits: splits as u32,
            split_keys: self.split_keys as u32,
            key_side: side as u32,
            query_side: (side / pool) as u32,
            across: windows[1] as u32,
            windows: (windows[0] * windows[1]) as u32,
            key_inverse: 1.0 / side as f32,
            query_inverse: 1.0 / (side / pool) as f32,
            values: (self.value_dim / 4) as u32,
            key_grid: [width_of_grid, height],
            query_grid: [width_of_grid, height].map(|n| n / pool as u32),
            // A row of -1 is the largest u32: sums wrap.
            bias: bias.map_or([0; 4], |b| [b.offset as u32, b.head as u32, b.row as u32, b.batch as u32]),
        };
        let mut defines = self.tiling.defines.clone();
        defines.push(("WINDOW", a.windows.is_some().into()));
        defines
            .extend([("PAD", padded.is_some().into()), ("SPLIT", (splits > 1 || self.masked.parts.is_some()).into())]);
        defines.extend(causal.then_some(("CAUSAL", self.tiling.queries as i64)));
        defines.extend((share > 1).then_some(("SHARE", share as i64)));
        defines.extend(bias.map(|_| ("BIAS", 1)));
        let mut reads = vec![a.q.value, a.k.value, a.v.value];
        reads.extend(padded.map(|w| w.pad));
        reads.extend(bias.map(|b| b.value));
        let blocks = queries.div_ceil(self.tiling.queries);
        g.dispatch(Dispatch {
            kernel: &KERNEL,
            variant: self.variant,
            defines,
            params: bytes_of(&params).to_vec(),
            reads,
            writes: vec![y],
            grid: [blocks, a.heads, a.batch * windows[0] * windows[1] * splits].map(|n| n as u32),
            flops: 2 * (self.rows() * keys * (a.head_dim + self.value_dim)) as u64 / if causal { 2 } else { 1 },
            scope: String::new(),
        })
    }
}
