//! Calls of attention that can fail, and its plain twin.

use super::*;

/// An operand as a case has it: which input, and the strides of [`Operand`].
#[derive(Debug, Clone, Copy)]
struct Part {
    input: usize,
    offset: usize,
    batch: usize,
    row: usize,
    head: usize,
}

/// A call as a case has it, over its inputs.
#[derive(Debug, Clone, Copy)]
struct Call {
    batch: usize,
    heads: usize,
    head_dim: usize,
    queries: usize,
    keys: usize,
    scale: f32,
    q: Part,
    k: Part,
    v: Part,
    /// Grid, size, pool and the input with the padding.
    windows: Option<([usize; 2], usize, usize, usize)>,
    causal: bool,
    share: usize,
    /// The input with the bias, its offset and strides of batch and head, and that of rows.
    bias: Option<(usize, [usize; 3], isize)>,
    value_dim: Option<usize>,
}

impl Call {
    fn new([batch, heads, head_dim, queries, keys]: [usize; 5], [q, k, v]: [Part; 3]) -> Self {
        // Larger than usual: random scores then spread enough for weights to differ.
        let scale = 4.0 / (head_dim as f32).sqrt();
        let (windows, bias, value_dim) = (None, None, None);
        Self {
            batch,
            heads,
            head_dim,
            queries,
            keys,
            scale,
            q,
            k,
            v,
            windows,
            causal: false,
            share: 1,
            bias,
            value_dim,
        }
    }

    fn over(&self, inputs: &[Value]) -> Masked {
        let operand =
            |p: Part| Operand { value: inputs[p.input], offset: p.offset, batch: p.batch, row: p.row, head: p.head };
        let call = Attention {
            batch: self.batch,
            heads: self.heads,
            head_dim: self.head_dim,
            queries: self.queries,
            keys: self.keys,
            scale: self.scale,
            q: operand(self.q),
            k: operand(self.k),
            v: operand(self.v),
            windows: self.windows.map(|(grid, size, pool, pad)| Windows { grid, size, pool, pad: inputs[pad] }),
        };
        let bias = self.bias.map(|(input, [offset, batch, head], row)| {
            let value = inputs[input];
            Bias { value, offset, batch, head, row }
        });
        Masked { call, causal: self.causal, share: self.share, bias, value_dim: self.value_dim, parts: None }
    }

    /// The call over so many ranges of its keys.
    fn record(&self, g: &mut Graph, inputs: &[Value], ranges: usize) -> Result<Value> {
        let keys = self.keys.div_ceil(ranges);
        attention_over_ranges(g, ranges, |_, i| {
            let first = i * keys;
            let from = |p: Part| Part { offset: p.offset + first * p.row, ..p };
            let bias = self.bias.map(|(input, [offset, batch, head], row)| (input, [offset + first, batch, head], row));
            let (k, v, keys) = (from(self.k), from(self.v), keys.min(self.keys - first));
            Ok(Self { keys, k, v, bias, ..*self }.over(inputs))
        })
    }

    /// The keys that query `t` meets: a token, or `None` for a padded one.
    fn met(&self, t: usize) -> Vec<Option<usize>> {
        let Some(([h, w], size, pool, _)) = self.windows else {
            let last = if self.causal { self.keys.min(t + 1) } else { self.keys };
            return (0..last).map(Some).collect();
        };
        let (y, x) = (t / (w / pool) * pool / size * size, t % (w / pool) * pool / size * size);
        let token = |n: usize| {
            let (y, x) = (y + n / size, x + n % size);
            (y < h && x < w).then_some(y * w + x)
        };
        (0..size * size).map(token).collect()
    }

    fn twin(&self, inputs: &[Input]) -> Vec<Vec<f32>> {
        let values = self.value_dim.unwrap_or(self.head_dim);
        let row = |p: Part, b: usize, h: usize, token: Option<usize>, width: usize| {
            let (input, start) = match (token, self.windows) {
                (None, Some((.., pad))) => (pad, p.offset + h * p.head),
                (token, _) => (p.input, p.offset + b * p.batch + token.unwrap_or(0) * p.row + h * p.head),
            };
            &inputs[input].values[start..start + width]
        };
        let mut y = Vec::new();
        for b in 0..self.batch {
            for t in 0..self.queries {
                let met = self.met(t);
                for h in 0..self.heads {
                    let (q, kv) = (row(self.q, b, h, Some(t), self.head_dim), h / self.share);
                    let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                    let bias = |n: Option<usize>| match (self.bias, n) {
                        (Some((input, [offset, batch, head], row)), Some(n)) => {
                            let at = (offset + b * batch + h * head + n) as isize + t as isize * row;
                            f64::from(inputs[input].values[at as usize])
                        }
                        _ => 0.0,
                    };
                    let score = |&n: &Option<usize>| {
                        dot(row(self.k, b, kv, n, self.head_dim)) * f64::from(self.scale) + bias(n)
                    };
                    let scores: Vec<f64> = met.iter().map(score).collect();
                    let most = scores.iter().copied().fold(f64::MIN, f64::max);
                    let (mut sum, mut o) = (0.0, vec![0.0; values]);
                    for (score, &n) in scores.iter().zip(&met) {
                        let weight = (score - most).exp();
                        sum += weight;
                        for (o, v) in o.iter_mut().zip(row(self.v, b, kv, n, values)) {
                            *o += weight * f64::from(*v);
                        }
                    }
                    y.extend(o.iter().map(|o| (o / sum) as f32));
                }
            }
        }
        vec![y]
    }

    fn case(self, name: &str, inputs: Vec<Input>) -> Case {
        self.case_over(1, name, inputs)
    }

    fn case_over(self, ranges: usize, name: &str, inputs: Vec<Input>) -> Case {
        let Self { batch, heads, head_dim, queries, keys, .. } = self;
        Case::new(
            format!("{name} {batch}x{heads}x{queries}x{keys}x{head_dim}"),
            inputs,
            TOLERANCE,
            move |g, v| Ok(vec![self.record(g, v, ranges)?]),
            move |inputs| self.twin(inputs),
        )
    }
}

/// f32 dot products and weights: scores of a few units, each good to 1e-6, measured 1e-13 .. 1e-12.
const TOLERANCE: f64 = 1e-9;

/// Separate q, k and v, token-major; `shared` keys and values serve the whole batch. `loud` scales the queries.
fn plain(name: &str, [batch, heads, queries, keys, head_dim]: [usize; 5], shared: bool, loud: f32) -> Case {
    let mut random = Random::new((queries * 31 + keys * 7 + head_dim) as u64);
    let dim = heads * head_dim;
    let part = |input, tokens: usize, shared: bool| Part {
        input,
        offset: 0,
        batch: if shared { 0 } else { tokens * dim },
        row: dim,
        head: head_dim,
    };
    let stored = if shared { 1 } else { batch };
    let q = random.values(batch * queries * dim).into_iter().map(|x| x * loud).collect();
    let inputs = vec![
        Input::f32([batch, queries, dim], q),
        Input::f32([stored, keys, dim], random.values(stored * keys * dim)),
        Input::f32([stored, keys, dim], random.values(stored * keys * dim)),
    ];
    let parts = [part(0, queries, false), part(1, keys, shared), part(2, keys, shared)];
    Call::new([batch, heads, head_dim, queries, keys], parts).case(name, inputs)
}

/// Values of another width than keys.
fn narrow(name: &str, [batch, heads, queries, keys, head_dim, values]: [usize; 6]) -> Case {
    let mut random = Random::new((queries * 31 + keys * 7 + head_dim) as u64);
    let part = |input, tokens: usize, head| {
        let row = heads * head;
        Part { input, offset: 0, batch: tokens * row, row, head }
    };
    let mut input = |tokens, width| {
        let row = heads * width;
        Input::f32([batch, tokens, row], random.values(batch * tokens * row))
    };
    let inputs = vec![input(queries, head_dim), input(keys, head_dim), input(keys, values)];
    let parts = [part(0, queries, head_dim), part(1, keys, head_dim), part(2, keys, values)];
    let call = Call { value_dim: Some(values), ..Call::new([batch, heads, head_dim, queries, keys], parts) };
    call.case(&format!("{name}, values of {values},"), inputs)
}

/// As SAM 2 meets memories of which some objects have fewer: keys that are masked, others for each batch element.
fn padded(name: &str, [batch, queries, keys, head_dim, values]: [usize; 5], shared: bool, ranges: usize) -> Case {
    let mut random = Random::new((queries * 31 + keys * 7 + head_dim + 1) as u64);
    let part = |input, tokens: usize, row: usize| Part { input, offset: 0, batch: tokens * row, row, head: row };
    let mut input = |n, tokens, width| Input::f32([n, tokens, width], random.values(n * tokens * width));
    let mut inputs = vec![
        input(if shared { 1 } else { batch }, queries, head_dim),
        input(batch, keys, head_dim),
        input(batch, keys, values),
    ];
    // The first has all, the second none but the last, the others a hole of other places.
    let live = |b: usize, n: usize| b == 0 || (n + 7 * b) % keys > keys / 2 && b > 1 || n == keys - 1;
    let mask = (0..batch * keys).map(|i| if live(i / keys, i % keys) { 0.0 } else { -1e30 });
    inputs.push(Input::f32([batch, keys], mask.collect()));
    let q = Part { batch: if shared { 0 } else { queries * head_dim }, ..part(0, queries, head_dim) };
    let call = Call::new([batch, 1, head_dim, queries, keys], [q, part(1, keys, head_dim), part(2, keys, values)]);
    let call = Call { bias: Some((3, [0, keys, 0], 0)), value_dim: Some(values), ..call };
    call.case_over(ranges, &format!("{name}, values of {values},"), inputs)
}

/// A fused projection, rows `[q | k | v]` as in Hiera; with windows of `size` if not 0.
fn fused(name: &str, batch: usize, heads: usize, head_dim: usize, grid: [usize; 2], size: usize, pool: usize) -> Case {
    let (dim, keys) = (heads * head_dim, grid[0] * grid[1]);
    let mut random = Random::new((keys * 7 + size * 3 + head_dim) as u64);
    let part = |n: usize| Part { input: 0, offset: n * dim, batch: keys * 3 * dim, row: 3 * dim, head: head_dim };
    let queries = keys / (pool * pool);
    let mut inputs = vec![
        Input::f32([batch, keys, 3 * dim], random.values(batch * keys * 3 * dim)),
        // Louder than a real bias: a padded key that is forgotten or zero must show.
        Input::f32([3 * dim], random.values(3 * dim).into_iter().map(|x| x * 2.0).collect()),
    ];
    let q = if pool == 1 {
        part(0)
    } else {
        inputs.push(Input::f32([batch, queries, dim], random.values(batch * queries * dim)));
        Part { input: 2, offset: 0, batch: queries * dim, row: dim, head: head_dim }
    };
    let windows = (size > 0).then_some((grid, size, pool, 1));
    Call { windows, ..Call::new([batch, heads, head_dim, queries, keys], [q, part(1), part(2)]) }.case(name, inputs)
}

/// Fused rows `[q | k | v]`, with `share` heads of q for one of k and v. Values are loud: what a mask lets through, shows.
fn masked(name: &str, [batch, heads, share, queries, keys, head_dim]: [usize; 6], causal: bool, bias: &str) -> Case {
    let mut random = Random::new((queries * 31 + keys * 7 + head_dim) as u64);
    let (tokens, kv) = (queries.max(keys), heads / share * head_dim);
    let row = heads * head_dim + 2 * kv;
    let part = |offset: usize| Part { input: 0, offset, batch: tokens * row, row, head: head_dim };
    let mut inputs = vec![Input::f32([batch, tokens, row], random.values(batch * tokens * row))];
    // As T5's, by the distance of key and query; or any.
    let (count, at) = match bias {
        "relative" => (heads * (queries + keys - 1), Some((1, [queries - 1, 0, queries + keys - 1], -1))),
        "full" => (heads * queries * keys, Some((1, [0, 0, queries * keys], keys as isize))),
        _ => (0, None),
    };
    if at.is_some() {
        inputs.push(Input::f32([count], random.values(count).into_iter().map(|x| 5.0 * x).collect()));
    }
    let parts = [part(0), part(heads * head_dim), part(heads * head_dim + kv)];
    let call = Call { causal, share, bias: at, ..Call::new([batch, heads, head_dim, queries, keys], parts) };
    call.case(&format!("{name}, {share} heads share, {bias} bias"), inputs)
}

/// Shapes that can fail. Widths and windows repeat where they may: every pair is another shader to compile.
pub fn cases() -> Vec<Case> {
    vec![
        plain("one key", [1, 1, 1, 1, 16], false, 1.0),
        plain("one query", [2, 2, 1, 65, 16], false, 1.0),
        plain("three keys", [1, 2, 15, 3, 40], false, 1.0),
        plain("odd", [2, 1, 65, 257, 16], false, 1.0),
        plain("decoder self", [3, 8, 8, 8, 32], false, 1.0),
        plain("decoder tokens to image", [1, 8, 8, 1024, 16], false, 1.0),
        plain("decoder tokens to shared image", [3, 2, 7, 300, 16], true, 1.0),
        plain("memory of a video, many keys", [1, 1, 33, 30_000, 16], false, 1.0),
        // More turns than llvmpipe makes, if one invocation went through all keys.
        plain("wide heads, many keys", [1, 1, 9, 4096, 256], false, 1.0),
        plain("decoder image to tokens", [2, 8, 129, 9, 16], false, 1.0),
        plain("memory", [1, 1, 33, 70, 256], false, 1.0),
        narrow("memory", [2, 1, 33, 70, 256, 64]),
        narrow("memory, split", [1, 1, 9, 1500, 256, 64]),
        padded("memories of objects", [3, 33, 70, 256, 64], true, 1),
        padded("memories of objects, split", [2, 9, 1500, 256, 64], false, 1),
        padded("memories of objects, in ranges", [2, 32, 150, 256, 64], true, 3),
        padded("memories of objects, in ranges, split", [2, 16, 2500, 256, 64], false, 2),
        narrow("wider than the keys", [1, 2, 20, 33, 16, 24]),
        plain("vae", [1, 1, 18, 35, 512], false, 1.0),
        // Scores to several hundred: a sum of exp without its maximum overflows.
        plain("outliers", [1, 2, 65, 97, 16], false, 80.0),
        fused("global", 1, 2, 128, [9, 9], 0, 1),
        fused("window 8", 1, 1, 96, [16, 16], 8, 1),
        fused("window 8, pooled", 1, 2, 96, [16, 8], 8, 2),
        fused("window 4 of large", 2, 2, 72, [8, 12], 4, 1),
        fused("window 7, padded", 1, 2, 56, [10, 16], 7, 1),
        fused("window 14, padded", 1, 1, 56, [16, 30], 14, 1),
        fused("window 14, pooled, padded", 2, 2, 56, [16, 30], 14, 2),
        masked("clip", [1, 2, 1, 77, 77, 64], true, "no"),
        masked("one token", [1, 4, 4, 1, 1, 16], true, "no"),
        masked("qwen3, padded", [2, 4, 4, 70, 33, 128], true, "no"),
        // Parts of the keys that no query of a tile meets.
        masked("causal, long", [1, 1, 1, 300, 300, 16], true, "no"),
        masked("more keys than queries", [1, 2, 2, 20, 65, 16], true, "no"),
        masked("t5", [1, 3, 1, 65, 65, 64], false, "relative"),
        masked("t5, one token", [1, 2, 1, 1, 1, 16], false, "relative"),
        masked("t5, split", [1, 1, 1, 9, 700, 16], false, "relative"),
        masked("any mask", [2, 4, 2, 35, 50, 16], true, "full"),
    ]
}
