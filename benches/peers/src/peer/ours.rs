//! impasto, through its public API.

use super::{Loaded, Peer, verdict, wall};
use crate::{
    Result,
    data::{Data, Samples},
    shapes::Op,
};
use impasto::{
    gpu::{Gpu, Tensor},
    graph::{BindOptions, Bound, Control, Graph, Value},
    kernels::{
        attention::{Attention, Operand, attention},
        conv2d::{Conv2d, conv2d},
        matmul::{Epilogue, matmul},
    },
    shape::DType,
};

/// Work in one recording: small operations are recorded several times, as a model has many of them in one submit.
const FLOPS: u64 = 1_000_000_000;
/// The most repetitions in a recording.
const COPIES: u64 = 64;

/// impasto on an open device.
pub(crate) struct Ours {
    gpu: Gpu,
}

impl Ours {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone() }
    }
}

impl Peer for Ours {
    fn name(&self) -> String {
        "impasto".to_string()
    }

    fn load(&mut self, op: &Op, data: &Data) -> Result<Box<dyn Loaded>> {
        let upload = |i: usize, shape: &[usize]| {
            self.gpu.upload("input", shape, DType::F32, bytemuck::cast_slice(&data.inputs[i]))
        };
        let tensors = match *op {
            Op::Matmul { m, n, k } => vec![upload(0, &[m, k])?, upload(1, &[n, k])?],
            Op::Attention { batch, heads, queries, keys, width } => {
                let shape = |tokens| [batch, tokens, heads * width];
                vec![upload(0, &shape(queries))?, upload(1, &shape(keys))?, upload(2, &shape(keys))?]
            }
            Op::Conv2d { height, width, cin, cout, kernel, .. } => {
                let bias = self.gpu.zeros("bias", [cout], DType::F32)?;
                vec![upload(0, &[1, height, width, cin])?, upload(1, &[cout, kernel, kernel, cin])?, bias]
            }
        };
        let copies = (FLOPS / op.flops().max(1)).clamp(1, COPIES) as usize;
        let mut g = Graph::new(self.gpu.target());
        let inputs: Vec<Value> = tensors.iter().map(|t: &Tensor| g.tensor(t)).collect();
        for _ in 1..copies {
            record(&mut g, op, &inputs)?;
        }
        let y = record(&mut g, op, &inputs)?;
        g.output(y, "y");
        let bound = g.plan()?.bind(&self.gpu, &BindOptions::default())?;
        Ok(Box::new(Recorded { bound, y, copies }))
    }
}

struct Recorded {
    bound: Bound,
    y: Value,
    copies: usize,
}

impl Loaded for Recorded {
    fn verify(&mut self, samples: &Samples) -> Result<Option<f64>> {
        let y = pollster::block_on(self.bound.run_f32(&[], &[self.y], Control::default()))?;
        verdict(&y[0], samples)
    }

    fn time(&mut self, runs: usize) -> Result<f64> {
        let plays = runs.div_ceil(self.copies);
        wall(plays * self.copies, || {
            for _ in 0..plays {
                pollster::block_on(self.bound.run(&[], &[], Control::default()))?;
            }
            Ok(pollster::block_on(self.bound.gpu().done())?)
        })
    }
}

fn record(g: &mut Graph, op: &Op, v: &[Value]) -> Result<Value> {
    Ok(match *op {
        Op::Matmul { .. } => matmul(g, v[0], v[1], Epilogue::default())?,
        Op::Attention { batch, heads, queries, keys, width } => {
            let row = heads * width;
            let operand = |value, tokens| Operand { value, offset: 0, batch: tokens * row, row, head: width };
            let call = Attention {
                batch,
                heads,
                head_dim: width,
                queries,
                keys,
                scale: (width as f32).powf(-0.5),
                q: operand(v[0], queries),
                k: operand(v[1], keys),
                v: operand(v[2], keys),
                windows: None,
            };
            attention(g, call)?
        }
        Op::Conv2d { stride, padding, .. } => {
            conv2d(g, v[0], v[1], v[2], Conv2d { stride, padding, ..Conv2d::default() })?
        }
    })
}
