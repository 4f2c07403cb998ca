//! meganeura: a graph of one operation, compiled for inference; its kernels run through blade, not wgpu.

use super::{
    Loaded, Peer,
    layout::{heads_first, transposed},
    verdict, wall,
};
use crate::{
    Result,
    data::{Data, Samples},
    shapes::Op,
};
use impasto::gpu::AdapterInfo;
use meganeura::{GpuOptions, Graph, Mode, Session, SessionConfig};
use std::sync::Arc;

/// meganeura on an adapter.
pub(crate) struct Meganeura {
    /// Makes the configuration of a session on the shared device.
    config: Box<dyn Fn() -> SessionConfig<'static>>,
}

impl Meganeura {
    /// Opens the adapter that blade prefers, or that `MEGANEURA_DEVICE_ID` names.
    ///
    /// # Errors
    /// If it cannot, or if that is another adapter than `info`'s.
    pub(crate) fn new(info: &AdapterInfo) -> Result<Self> {
        let gpu = meganeura::init_gpu_context_with(GpuOptions::from_env()).map_err(|e| format!("{e:?}"))?;
        let name = gpu.device_information().device_name.clone();
        if name != info.name {
            return Err(format!("opened {name}, not {}: set MEGANEURA_DEVICE_ID", info.name).into());
        }
        let gpu = Arc::new(gpu);
        let config = move || SessionConfig {
            mode: Mode::Inference,
            gpu: Some(gpu.clone()),
            tune: true,
            ..SessionConfig::default()
        };
        Ok(Self { config: Box::new(config) })
    }
}

impl Peer for Meganeura {
    fn name(&self) -> String {
        "meganeura".to_string()
    }

    fn load(&mut self, op: &Op, data: &Data) -> Result<Box<dyn Loaded>> {
        let x = &data.inputs;
        let mut g = Graph::new();
        let (names, values, y): (&[&str], _, _) = match *op {
            // Its own models keep weights as (in, out).
            Op::Matmul { m, n, k } => {
                let (input, weight) = (g.input("x", &[m, k]), g.parameter("w", &[k, n]));
                (&["w"], vec![x[0].clone(), transposed(&x[1], n, k)], g.matmul(input, weight))
            }
            // No batch axis: heads of other batch elements are more heads.
            Op::Attention { batch, heads, queries, keys, width } => {
                let row = heads * width;
                let all = (batch * heads) as u32;
                let q = g.input("x", &[queries, batch * row]);
                let (k, v) = (g.input("k", &[keys, batch * row]), g.input("v", &[keys, batch * row]));
                let y = match queries == keys {
                    true => g.full_attention(q, k, v, all, all, width as u32),
                    false => g.cross_attention(q, k, v, all, all, width as u32),
                };
                let of = |i: usize, tokens| heads_first(&x[i], batch, tokens, row);
                (&["k", "v"], vec![of(0, queries), of(1, keys), of(2, keys)], y)
            }
            Op::Conv2d { height, width, cin, cout, kernel, stride, padding } => {
                let image = g.input("x", &[x[0].len()]);
                let weight = g.parameter("w", &[x[1].len()]);
                let [cin32, cout32, h, w] = [cin, cout, height, width].map(|n| n as u32);
                let [kernel32, stride, padding] = [kernel, stride, padding].map(|n| n as u32);
                let y = g.conv2d(image, weight, 1, cin32, h, w, cout32, kernel32, kernel32, stride, padding);
                let image = transposed(&x[0], height * width, cin);
                (&["w"], vec![image, transposed(&x[1], kernel * kernel, cin)], y)
            }
        };
        g.set_outputs(vec![y]);
        let (mut session, _) = meganeura::build(&g, (self.config)());
        session.set_input("x", &values[0]);
        for (name, values) in names.iter().zip(&values[1..]) {
            match *name {
                "w" => session.set_parameter(name, values),
                _ => session.set_input(name, values),
            }
        }
        Ok(Box::new(Compiled { session, op: *op }))
    }
}

struct Compiled {
    session: Session,
    op: Op,
}

impl Loaded for Compiled {
    fn verify(&mut self, samples: &Samples) -> Result<Option<f64>> {
        self.session.step();
        self.session.wait();
        let y = match self.op {
            Op::Matmul { m, n, .. } => self.session.read_output(m * n),
            Op::Attention { batch, heads, queries, width, .. } => {
                let row = heads * width;
                heads_first(&self.session.read_output(queries * batch * row), queries, batch, row)
            }
            Op::Conv2d { height, width, cout, kernel, stride, padding, .. } => {
                let side = |s| Op::out_side(s, kernel, stride, padding);
                let pixels = side(height) * side(width);
                transposed(&self.session.read_output(pixels * cout), cout, pixels)
            }
        };
        verdict(&y, samples)
    }

    fn time(&mut self, runs: usize) -> Result<f64> {
        wall(runs, || {
            (0..runs).for_each(|_| self.session.step());
            self.session.wait();
            Ok(())
        })
    }
}
