//! The image backbone: Hiera. After `sam2/modeling/backbones/hieradet.py` (`Hiera`, `MultiScaleBlock`,
//! `MultiScaleAttention`) of facebookresearch/sam2.
//!
//! Tokens stay in raster order throughout: windows are index arithmetic inside the attention kernel. Where a tensor
//! would exceed what the device binds, a block runs in bands of whole windows, and its MLP in runs of tokens.

use super::config::Config;
use crate::{
    error::{Result, ensure},
    gpu::Tensor,
    graph::{Graph, Value},
    kernels::{
        attention::{Attention, Operand, Windows, attention},
        elementwise::{Binary, elementwise},
        matmul::{Activation, Residual},
        max_pool2d::max_pool2d,
        resize::{Resize, resize},
    },
    nn::{Conv2d, LayerNorm, Linear, Loader, Run},
    weights::Weights,
};

/// Epsilon of the trunk's norms.
const EPS: f32 = 1e-6;

/// The trunk.
#[derive(Debug)]
pub(super) struct Hiera {
    patch_embed: Conv2d,
    /// Position embedding at this resolution, `(1, side/4, side/4, dim)`: background plus window, baked at load.
    pos_embed: Tensor,
    blocks: Vec<Block>,
    /// The last block of each stage.
    stage_ends: Vec<usize>,
}

/// One block: attention and MLP, each after a norm and with a residual.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    attn_proj: Linear,
    norm2: LayerNorm,
    mlp: [Linear; 2],
    /// Changes the width on the residual path, at the start of a stage.
    proj: Option<Linear>,
    heads: usize,
    /// The width that leaves the block.
    dim: usize,
    /// Tokens along a window's side; `None` for global attention.
    window: Option<usize>,
    /// Queries and residual are max-pooled 2x2.
    pool: bool,
}

/// Tokens in raster order and their grid.
type Grid = (Value, [usize; 2]);

impl Hiera {
    /// Weights under `image_encoder.trunk`, for pictures of `side` pixels.
    pub(super) async fn load(l: &Loader<'_>, w: &Weights, c: &Config, side: usize) -> Result<Self> {
        let c = &c.hiera;
        let dim = c.dims[0];
        let patch_embed = Conv2d::load(l, &w.at("patch_embed.proj"), dim, 3, 7, 4, 3)?;
        let stage_ends: Vec<usize> =
            c.blocks.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n) + n - 1)).collect();
        let (mut blocks, mut width) = (Vec::new(), dim);
        for i in 0..c.blocks.iter().sum::<usize>() {
            let stage = stage_ends.iter().filter(|end| **end < i).count();
            let first = i > 0 && stage_ends.contains(&(i - 1));
            let out = c.dims[stage];
            // The first block of a stage still uses the windows of the stage before it.
            let size = c.windows[if first { stage - 1 } else { stage }];
            let window = (!c.global_blocks.contains(&i)).then_some(size);
            ensure!(!first || size.is_multiple_of(2), Weights, "block {i} pools inside windows of odd side {size}");
            // What the first block rounds off reaches all others.
            let l = if i == 0 { &l.exact() } else { l };
            blocks.push(Block::load(l, &w.at("blocks").at(i), [width, out], c.heads[stage], window, first)?);
            width = out;
        }
        Ok(Self { patch_embed, pos_embed: pos_embed(l, w, dim, side / 4).await?, blocks, stage_ends })
    }

    /// `image (1, side, side, 3)`, normalised, to the tokens that leave each stage.
    pub(super) fn forward(&self, g: &mut Graph, image: Value) -> Result<Vec<Grid>> {
        let pos = g.tensor(&self.pos_embed);
        let x = g.scope("patch_embed", |g| {
            let x = self.patch_embed.forward(g, image, Some(pos))?;
            g.mark(x, "");
            Ok(x)
        })?;
        let [_, h, w, dim] = g.shape(x).axes("patch_embed")?;
        let mut x = (g.reshape(x, [h * w, dim])?, [h, w]);
        let mut stages = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            x = g.scope(format!("blocks.{i}"), |g| block.forward(g, x))?;
            if self.stage_ends.contains(&i) {
                stages.push(x);
            }
        }
        Ok(stages)
    }
}

/// `bicubic(pos_embed) + tile(pos_embed_window)` at `side` tokens: `Hiera._get_pos_embed`.
async fn pos_embed(l: &Loader<'_>, w: &Weights, dim: usize, side: usize) -> Result<Tensor> {
    let shape = w.tensor("pos_embed")?.shape().to_vec();
    ensure!(shape.len() == 4 && shape[2] == shape[3], Weights, "{}.pos_embed has shape {shape:?}", w.prefix());
    let size = shape[2];
    let background = channels_last(&w.get("pos_embed", &[1, dim, size, size])?.to_f32()?, dim);
    let window_shape = w.tensor("pos_embed_window")?.shape().to_vec();
    let window = window_shape.last().copied().unwrap_or(1);
    ensure!(side.is_multiple_of(window), Argument, "the image side must be a multiple of {}", 4 * window);
    let tile = channels_last(&w.get("pos_embed_window", &[1, dim, window, window])?.to_f32()?, dim);
    // A band of `window` rows, tiled along x, repeats down the picture.
    let band: Vec<f32> = tile.chunks(window * dim).flat_map(|row| row.repeat(side / window)).collect();

    let background = l.values("pos_embed", [1, size, size, dim], &background)?;
    let band = l.values("pos_embed_window", [1, window, side, dim], &band)?;
    l.bake("pos_embed", |g| {
        let (background, band) = (g.tensor(&background), g.tensor(&band));
        let full = resize(g, background, side, side, Resize::Bicubic)?;
        elementwise(g, full, band, Binary::Add)
    })
    .await
}

/// `(c, n)` to `(n, c)`.
fn channels_last(planes: &[f32], c: usize) -> Vec<f32> {
    let n = planes.len() / c;
    (0..n).flat_map(|i| (0..c).map(move |j| planes[j * n + i])).collect()
}

impl Block {
    fn load(
        l: &Loader<'_>,
        w: &Weights,
        [dim, out]: [usize; 2],
        heads: usize,
        window: Option<usize>,
        pool: bool,
    ) -> Result<Self> {
        let linear = |name: &str, n, k| Linear::load(l, &w.at(name), n, k);
        Ok(Self {
            norm1: LayerNorm::load(l, &w.at("norm1"), dim, EPS)?,
            qkv: linear("attn.qkv", 3 * out, dim)?,
            attn_proj: linear("attn.proj", out, out)?,
            norm2: LayerNorm::load(l, &w.at("norm2"), out, EPS)?,
            mlp: [linear("mlp.layers.0", 4 * out, out)?, linear("mlp.layers.1", out, 4 * out)?],
            proj: if dim == out { None } else { Some(linear("proj", out, dim)?) },
            heads,
            dim: out,
            window,
            pool,
        })
    }

    fn forward(&self, g: &mut Graph, (x, [h, w]): Grid) -> Result<Grid> {
        let dim = self.dim;
        let grid = if self.pool { [h / 2, w / 2] } else { [h, w] };
        let y = g.temp([grid[0] * grid[1], dim], crate::shape::DType::F32);
        // Whole windows in a band; global attention needs all rows at once.
        let step = self.window.map_or(h, |size| rows_that_fit(g, w * 3 * dim, h, size));
        for top in (0..h).step_by(step) {
            let rows = step.min(h - top);
            let band = g.slice(x, top * w, rows * w)?;
            let shrink = h / grid[0];
            let out = g.slice(y, top / shrink * grid[1], rows / shrink * grid[1])?;
            g.scope("attn", |g| self.attention(g, band, [rows, w], out))?;
        }
        let tokens = grid[0] * grid[1];
        let step = rows_that_fit(g, 4 * dim, tokens, 64);
        let z = g.temp([tokens, dim], crate::shape::DType::F32);
        for first in (0..tokens).step_by(step) {
            let len = step.min(tokens - first);
            let (part, out) = (g.slice(y, first, len)?, g.slice(z, first, len)?);
            g.scope("mlp", |g| {
                // x = x + MLP(norm2(x))
                let n = self.norm2.forward(g, part)?;
                let hidden = self.mlp[0].run(g, n, Run { activation: Activation::Gelu, ..Run::default() })?;
                let residual = Some(Residual::same(g, part));
                self.mlp[1].run(g, hidden, Run { residual, out: Some(out), ..Run::default() })
            })?;
        }
        g.mark(z, "");
        Ok((z, grid))
    }

    /// `out = shortcut + proj(attention(norm1(x)))`; the shortcut of a pooling block is the pooled projection of
    /// the *normed* x.
    fn attention(&self, g: &mut Graph, x: Value, [h, w]: [usize; 2], out: Value) -> Result<()> {
        let dim = self.dim;
        let n = self.norm1.forward(g, x)?;
        let shortcut = match &self.proj {
            Some(proj) => {
                let wide = proj.forward(g, n)?;
                self.pooled(g, wide, [h, w])?
            }
            None => x,
        };
        let qkv = self.qkv.forward(g, n)?;
        let (q, q_row) = if self.pool { (self.pooled(g, qkv, [h, w])?, dim) } else { (qkv, 3 * dim) };
        let head = dim / self.heads;
        let operand = |value, offset, row| Operand { value, offset, batch: 0, row, head };
        let pad = g.tensor(&self.qkv.bias);
        let pool = if self.pool { 2 } else { 1 };
        let queries = h * w / (pool * pool);
        let a = attention(
            g,
            Attention {
                batch: 1,
                heads: self.heads,
                head_dim: head,
                queries,
                keys: h * w,
                scale: (head as f32).powf(-0.5),
                q: operand(q, 0, q_row),
                k: operand(qkv, dim, 3 * dim),
                v: operand(qkv, 2 * dim, 3 * dim),
                windows: self.window.map(|size| Windows { grid: [h, w], size, pool, pad }),
            },
        )?;
        let a = g.reshape(a, [queries, dim])?;
        let residual = Some(Residual::same(g, shortcut));
        self.attn_proj.run(g, a, Run { residual, out: Some(out), ..Run::default() })?;
        Ok(())
    }

    /// The first `dim` channels of tokens, max-pooled 2x2 if this block pools.
    fn pooled(&self, g: &mut Graph, tokens: Value, [h, w]: [usize; 2]) -> Result<Value> {
        if !self.pool {
            return Ok(tokens);
        }
        let (_, row) = g.shape(tokens).rows_cols();
        let image = g.reshape(tokens, [1, h, w, row])?;
        let y = max_pool2d(g, image, 0, self.dim)?;
        g.reshape(y, [h * w / 4, self.dim])
    }
}

/// How many of `rows` rows of `width` f32 one binding holds, as a multiple of `unit` where it is not all of them.
fn rows_that_fit(g: &Graph, width: usize, rows: usize, unit: usize) -> usize {
    let fit = (g.target().limits.binding / (4 * width as u64)) as usize;
    if fit >= rows { rows } else { (fit / unit * unit).max(unit) }
}
