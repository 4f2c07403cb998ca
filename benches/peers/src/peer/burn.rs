//! burn's wgpu backend: WGSL through wgpu, autotune on.

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
use burn::tensor::{
    Device, DeviceKind, Tensor, TensorData,
    module::{attention, conv2d},
    ops::{AttentionModuleOptions, ConvOptions},
    wgpu::WgpuBackend,
};
use impasto::gpu::{AdapterInfo, adapters};

/// burn on an adapter.
pub(crate) struct Burn {
    device: Device,
}

impl Burn {
    /// Opens the adapter that `info` describes: burn knows it by its kind and its place among those of that kind.
    ///
    /// # Errors
    /// If burn cannot open it.
    pub(crate) fn new(info: &AdapterInfo) -> Result<Self> {
        let same_kind = |a: &AdapterInfo| a.device_type == info.device_type && a.backend == info.backend;
        let all = pollster::block_on(adapters(Some(&info.backend)))?;
        let place = all.iter().filter(|a| same_kind(a)).position(|a| a.name == info.name).unwrap_or(0);
        let kind = match info.device_type.as_str() {
            "discrete" => DeviceKind::DiscreteGpu(place),
            "integrated" => DeviceKind::IntegratedGpu(place),
            "virtual" => DeviceKind::VirtualGpu(place),
            "cpu" if place > 0 => return Err("burn opens the first software adapter only".into()),
            "cpu" => DeviceKind::Cpu,
            other => return Err(format!("burn cannot be asked for an adapter of kind {other}").into()),
        };
        let api = match info.backend.as_str() {
            "vulkan" => WgpuBackend::Vulkan,
            "metal" => WgpuBackend::Metal,
            "dx12" => WgpuBackend::Dx12,
            other => return Err(format!("no {other} in burn").into()),
        };
        let opened = Device::wgpu_options().device_kind(kind).graphics_api(api).init_with_setup();
        let (device, setup) = opened.map_err(|e| format!("{e:?}"))?;
        let name = setup.adapter.get_info().name;
        match name == info.name {
            true => Ok(Self { device }),
            false => Err(format!("opened {name}, not {}", info.name).into()),
        }
    }

    fn tensor<const D: usize>(&self, shape: [usize; D], values: Vec<f32>) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

impl Peer for Burn {
    fn name(&self) -> String {
        "burn".to_string()
    }

    fn load(&mut self, op: &Op, data: &Data) -> Result<Box<dyn Loaded>> {
        let x = &data.inputs;
        let call = match *op {
            // A burn Linear keeps its weight as (in, out).
            Op::Matmul { m, n, k } => {
                Call::Matmul(self.tensor([m, k], x[0].clone()), self.tensor([k, n], transposed(&x[1], n, k)))
            }
            Op::Attention { batch, heads, queries, keys, width } => {
                let of = |i: usize, tokens| {
                    self.tensor([batch, heads, tokens, width], heads_first(&x[i], tokens, heads, width))
                };
                Call::Attention([of(0, queries), of(1, keys), of(2, keys)])
            }
            Op::Conv2d { height, width, cin, cout, kernel, stride, padding } => {
                let image = self.tensor([1, cin, height, width], transposed(&x[0], height * width, cin));
                let taps = kernel * kernel;
                let weight = self.tensor([cout, cin, kernel, kernel], transposed(&x[1], taps, cin));
                Call::Conv2d(image, weight, ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1))
            }
        };
        Ok(Box::new(Ready { device: self.device.clone(), op: *op, call }))
    }
}

enum Call {
    Matmul(Tensor<2>, Tensor<2>),
    Attention([Tensor<4>; 3]),
    Conv2d(Tensor<4>, Tensor<4>, ConvOptions<2>),
}

struct Ready {
    device: Device,
    op: Op,
    call: Call,
}

/// A result of either rank.
enum Output {
    Matrix(Tensor<2>),
    Heads(Tensor<4>),
}

impl Ready {
    /// Enqueues the operation; clones of tensors share their buffers.
    fn run(&self) -> Output {
        match &self.call {
            Call::Matmul(x, w) => Output::Matrix(x.clone().matmul(w.clone())),
            Call::Attention([q, k, v]) => {
                let options = AttentionModuleOptions { scale: None, softcap: None, is_causal: false };
                Output::Heads(attention(q.clone(), k.clone(), v.clone(), None, None, options))
            }
            Call::Conv2d(x, w, options) => Output::Heads(conv2d(x.clone(), w.clone(), None, options.clone())),
        }
    }

    fn sync(&self) -> Result<()> {
        self.device.sync().map_err(|e| format!("{e:?}").into())
    }
}

impl Loaded for Ready {
    fn verify(&mut self, samples: &Samples) -> Result<Option<f64>> {
        let y = match self.run() {
            Output::Matrix(y) => y.try_into_vec_as::<f32>(),
            Output::Heads(y) => y.try_into_vec_as::<f32>(),
        };
        let y = y.map_err(|e| format!("{e:?}"))?;
        let y = match self.op {
            Op::Matmul { .. } => y,
            Op::Attention { heads, queries, width, .. } => heads_first(&y, heads, queries, width),
            Op::Conv2d { cout, .. } => transposed(&y, cout, y.len() / cout),
        };
        verdict(&y, samples)
    }

    fn time(&mut self, runs: usize) -> Result<f64> {
        self.sync()?;
        wall(runs, || {
            (0..runs).for_each(|_| drop(self.run()));
            self.sync()
        })
    }
}
