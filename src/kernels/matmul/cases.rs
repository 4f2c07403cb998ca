//! The CPU twin and the cases.

use super::*;

/// One product with everything that can differ.
#[derive(Clone, Copy)]
struct Spec {
    name: &'static str,
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    w: DType,
    bias: bool,
    activation: Activation,
    glu: bool,
    gate: bool,
    /// Rows of the residual.
    residual: Option<usize>,
    addend: bool,
    layout: Layout,
    outliers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// No gaps.
    Dense,
    /// x and y have the matrices of the batch side by side, as heads are.
    Heads,
    /// Gaps between the rows and matrices of x, w, bias and residual, and offsets. y as `Heads`: NaN fills gaps.
    Loose,
    /// x as `Loose`, but its rows start at no multiple of 4: single loads of every operand.
    Skew,
    /// `Loose`, and one call for each matrix of the batch, all into one `out`, with one bias.
    Calls,
}

const PLAIN: Spec = Spec {
    name: "",
    batch: 1,
    m: 1,
    n: 1,
    k: 1,
    w: DType::F32,
    bias: false,
    activation: Activation::None,
    glu: false,
    gate: false,
    residual: None,
    addend: false,
    layout: Layout::Dense,
    outliers: false,
};

impl Spec {
    /// Columns of y.
    fn columns(&self) -> usize {
        if self.glu { self.n / 2 } else { self.n }
    }

    /// Gates of all matrices side by side, with a gap, and an offset.
    fn gate_at(&self) -> Strides {
        Strides { offset: 4, batch: self.columns() + 8, row: 0 }
    }

    fn batched(&self) -> Batched {
        let (Spec { batch, m, n, k, layout, .. }, columns) = (*self, self.columns());
        let dense = |rows: usize, cols: usize| Strides { offset: 0, batch: rows * cols, row: cols };
        let side = |cols: usize| Strides { offset: 0, batch: cols, row: batch * cols };
        let loose = |rows: usize, cols: usize| {
            let row = cols + 12;
            Strides { offset: 8, batch: rows * row + 4, row }
        };
        let gaps = layout == Layout::Loose || layout == Layout::Calls;
        let x = match layout {
            Layout::Dense => dense(m, k),
            Layout::Heads => side(k),
            Layout::Skew => Strides { offset: 3, batch: m * (k + 5), row: k + 5 },
            _ => loose(m, k),
        };
        let y = if layout == Layout::Dense || layout == Layout::Skew { dense(m, columns) } else { side(columns) };
        let w = if gaps && self.w.block() == 1 { loose(n, k) } else { dense(n, k) };
        let shape = Shape::from([extent(y, [batch, m, columns])]);
        Batched { batch, m, n, k, x, w, bias_batch: if layout == Layout::Loose { n + 8 } else { 0 }, y, shape }
    }

    /// Rows with a gap, and an offset; all matrices of a batch take the same.
    fn addend_at(&self) -> Strides {
        Strides { offset: 8, batch: 0, row: self.n + 4 }
    }

    fn residual_at(&self) -> Strides {
        match self.layout {
            Layout::Dense | Layout::Heads | Layout::Skew => Strides { offset: 0, batch: 0, row: self.columns() },
            _ => Strides { offset: 4, batch: 8, row: self.columns() + 16 },
        }
    }

    fn record(&self, g: &mut Graph, v: &[Value]) -> Result<Vec<Value>> {
        let mut rest = v[2..].iter().copied();
        let bias = if self.bias { rest.next() } else { None };
        let gate = if self.gate { rest.next() } else { None };
        let gate = gate.map(|value| Gate { value, offset: self.gate_at().offset, batch: self.gate_at().batch });
        let residual = if self.residual.is_some() { self.residual.zip(rest.next()) } else { None };
        let residual = residual.map(|(rows, value)| Residual { value, at: self.residual_at(), rows });
        let addend = if self.addend { rest.next() } else { None };
        let addend = addend.map(|value| Addend { value, at: self.addend_at() });
        let Spec { activation, glu, .. } = *self;
        let mut e = Epilogue { bias, addend, activation, glu, gate, residual, ..Epilogue::default() };
        let b = self.batched();
        if self.layout != Layout::Calls {
            return Ok(vec![matmul_batched(g, v[0], v[1], b, e)?]);
        }
        let y = g.temp(b.shape, DType::F32);
        e.out = Some(y);
        for i in 0..self.batch {
            let one = |s: Strides| Strides { offset: at(s, i, 0, 0), ..s };
            e.residual = residual.map(|r| Residual { at: one(r.at), ..r });
            let b = Batched { batch: 1, x: one(b.x), w: one(b.w), y: one(b.y), ..b };
            matmul_batched(g, v[0], v[1], b, e)?;
        }
        Ok(vec![y])
    }
}

fn extent(s: Strides, [batch, rows, cols]: [usize; 3]) -> usize {
    s.offset + (batch - 1) * s.batch + (rows - 1) * s.row + cols
}

fn at(s: Strides, b: usize, r: usize, c: usize) -> usize {
    s.offset + b * s.batch + r * s.row + c
}

/// The product in f64.
fn twin(inputs: &[Input], s: &Spec) -> Vec<f32> {
    let b = s.batched();
    let [x, w, rest @ ..] = inputs else { unreachable!("matmul has at least two inputs") };
    let mut rest = rest.iter().map(|input| &input.values);
    let bias = if s.bias { rest.next() } else { None };
    let gate = if s.gate { rest.next() } else { None };
    let residual = if s.residual.is_some() { s.residual.zip(rest.next()) } else { None };
    let addend = if s.addend { rest.next() } else { None };
    let mut y = vec![0f32; b.shape.count()];
    for i in 0..s.batch {
        for r in 0..s.m {
            let row = &x.values[at(b.x, i, r, 0)..][..s.k];
            let sum = |c: usize| {
                let col = &w.values[at(b.w, i, c, 0)..][..s.k];
                let product = row.iter().zip(col).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                let more = addend.map_or(0.0, |values| f64::from(values[at(s.addend_at(), i, r, c)]));
                product + more + bias.map_or(0.0, |bias| f64::from(bias[i * b.bias_batch + c]))
            };
            for c in 0..s.columns() {
                let mut v = match s.glu {
                    true => s.activation.apply(sum(2 * c)) * sum(2 * c + 1),
                    false => s.activation.apply(sum(c)),
                };
                v *= gate.map_or(1.0, |gate| f64::from(gate[at(s.gate_at(), i, 0, c)]));
                if let Some((rows, values)) = residual {
                    v += f64::from(values[at(s.residual_at(), i, r % rows, c)]);
                }
                y[at(b.y, i, r, c)] = v as f32;
            }
        }
    }
    y
}

fn case(random: &mut Random, s: Spec) -> Case {
    let b = s.batched();
    let Spec { name, batch, m, n, k, .. } = s;
    let x = extent(b.x, [batch, m, k]);
    let w = extent(b.w, [batch, n, k]);
    let mut inputs = vec![
        Input::f32([x], if s.outliers { random.outliers(x) } else { random.values(x) }),
        Input::stored(s.w, [w], random.values(w)),
    ];
    if s.bias {
        let count = n + (batch - 1) * b.bias_batch;
        inputs.push(Input::f32([count], random.values(count)));
    }
    if s.gate {
        let count = extent(s.gate_at(), [batch, 1, s.columns()]);
        inputs.push(Input::f32([count], random.values(count)));
    }
    if let Some(rows) = s.residual {
        let count = extent(s.residual_at(), [batch, rows, s.columns()]);
        inputs.push(Input::f32([count], random.values(count)));
    }
    if s.addend {
        let count = extent(s.addend_at(), [batch, m, n]);
        inputs.push(Input::f32([count], random.values(count)));
    }
    Case::new(
        format!("{name} {batch} x {m}x{n}x{k} {:?}", s.w),
        inputs,
        // Sums of up to 4096 f32 products drift by a random walk: k eps^2 / 3 = 5e-12 of the mean square.
        1e-10,
        move |g, v| s.record(g, v),
        move |inputs| vec![twin(inputs, &s)],
    )
}

/// Edges, strides, epilogues, storages, and SAM 2's shapes with fewer rows.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(2);
    let (gelu, relu) = (Activation::Gelu, Activation::Relu);
    // Compiling takes most of the time of a test, so there are few texts: three epilogues, f32 with vec4 or single
    // loads, f16 with both, q8. `full` is bias and residual; `odd` has sizes that are no multiples of 4.
    let plain = |name, m, n, k| Spec { name, m, n, k, ..PLAIN };
    let full = |name, m, n, k| Spec { bias: true, residual: Some(m), ..plain(name, m, n, k) };
    let odd = |name, m, n, k| Spec { activation: relu, residual: Some(m / 2), ..full(name, m, n, k) };
    let all = [
        Spec { residual: Some(1), ..odd("two rows, one column", 2, 1, 1) },
        odd("odd", 4, 1, 65),
        odd("odd", 17, 3, 33),
        odd("odd", 31, 65, 17),
        odd("odd", 33, 31, 3),
        Spec { w: DType::F16, ..odd("odd", 13, 17, 131) },
        plain("no epilogue", 1, 1, 4),
        plain("no epilogue", 13, 33, 64),
        Spec { outliers: true, ..full("outliers", 33, 36, 512) },
        full("edge of all tiles", 130, 132, 48),
        full("deep", 5, 12, 4096),
        Spec { residual: None, activation: gelu, ..full("gelu, tail of k", 66, 68, 20) },
        Spec { batch: 3, layout: Layout::Loose, ..full("loose", 35, 36, 48) },
        Spec { batch: 2, layout: Layout::Calls, ..full("calls", 7, 32, 128) },
        Spec { batch: 4, layout: Layout::Heads, ..full("heads", 12, 32, 32) },
        Spec { w: DType::F16, ..full("half", 40, 68, 96) },
        Spec { w: DType::F16, ..full("half", 1, 100, 256) },
        Spec { w: DType::F16, batch: 3, layout: Layout::Loose, ..full("half loose", 5, 8, 48) },
        Spec { w: DType::Q8, ..full("q8", 68, 44, 96) },
        Spec { w: DType::Q8, batch: 2, layout: Layout::Heads, ..full("q8 heads", 9, 36, 64) },
        Spec { w: DType::Q8, layout: Layout::Skew, ..plain("q8 skew", 5, 12, 96) },
        Spec { w: DType::Q4, ..full("q4", 68, 44, 96) },
        Spec { w: DType::Q4, batch: 2, layout: Layout::Heads, ..full("q4 heads", 9, 36, 64) },
        Spec { w: DType::Q4, layout: Layout::Skew, ..plain("q4 skew", 5, 12, 96) },
        Spec { w: DType::Q4K, ..full("q4k", 66, 36, 512) },
        Spec { w: DType::Q4K, layout: Layout::Skew, ..plain("q4k skew", 5, 12, 256) },
        Spec { w: DType::Q5, ..full("q5", 68, 44, 96) },
        Spec { w: DType::Q5, layout: Layout::Skew, ..plain("q5 skew", 5, 12, 96) },
        Spec { w: DType::Q5K, ..full("q5k", 66, 36, 512) },
        Spec { w: DType::Q5K, layout: Layout::Skew, ..plain("q5k skew", 5, 12, 256) },
        Spec { w: DType::Q6K, ..full("q6k", 66, 36, 512) },
        Spec { w: DType::Q6K, layout: Layout::Skew, ..plain("q6k skew", 5, 12, 256) },
        Spec { w: DType::F16, outliers: true, ..full("half outliers", 129, 132, 256) },
        // FLUX: a gated projection, SwiGLU, and the other activations.
        Spec { batch: 2, gate: true, ..full("gate", 70, 40, 64) },
        Spec { glu: true, activation: Activation::Silu, ..plain("swiglu", 70, 136, 64) },
        Spec { glu: true, gate: true, activation: Activation::GeluTanh, ..odd("odd geglu", 7, 6, 33) },
        Spec { activation: Activation::GeluTanh, ..plain("gelu by tanh", 33, 36, 32) },
        Spec { activation: Activation::QuickGelu, ..plain("quick gelu", 4, 20, 16) },
        Spec { gate: true, w: DType::F16, ..full("few tiles, long k", 40, 64, 2304) },
        // A low-rank change to a projection, and to one with an activation.
        Spec { batch: 2, gate: true, addend: true, ..full("addend", 35, 40, 64) },
        Spec { glu: true, addend: true, activation: Activation::Silu, ..plain("swiglu of a sum", 35, 72, 64) },
        Spec { glu: true, addend: true, activation: Activation::Silu, ..plain("odd swiglu of a sum", 7, 6, 33) },
        Spec { addend: true, w: DType::F16, ..full("addend, few tiles, long k", 40, 64, 2304) },
        // SAM 2: qkv and MLP of the trunk, the decoder's projections and MLPs, the product that makes the masks.
        full("hiera tiny qkv", 70, 288, 96),
        full("hiera large proj", 64, 144, 144),
        full("hiera tiny mlp", 40, 96, 768),
        full("decoder projection", 8, 128, 256),
        full("decoder mlp", 9, 64, 2048),
        full("masks", 4, 1032, 32),
        Spec { batch: 3, ..full("masks of three prompts", 4, 260, 32) },
    ];
    all.into_iter().map(|s| case(&mut random, s)).collect()
}
