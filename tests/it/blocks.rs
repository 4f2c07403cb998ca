//! Linear layers whose weights lie in a file as blocks.

use crate::common::{fixture, gpu};
use impasto::{
    gpu::Checks,
    graph::{BindOptions, Control, Graph},
    kernels::matmul::{Epilogue, matmul},
    nn::{Loader, Storage},
    shape::DType,
    weights::Weights,
};

/// As stored, a matrix has the file's values whether kernels read its blocks or not; the storages round it.
#[test]
fn matrices_of_a_gguf_file() {
    let (gpu, weights) = (gpu(Checks::Checked), Weights::open(&fixture("gguf/kinds.gguf")).unwrap());
    let x: Vec<f32> = (0..3 * 256).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let (kept, rounded) = (1e-10, 3e-3);
    let all = [
        ("F16", Storage::AsStored, DType::F16, kept),
        ("Q8_0", Storage::AsStored, DType::Q8, kept),
        ("Q4_0", Storage::AsStored, DType::Q4, kept),
        ("Q4_1", Storage::AsStored, DType::Q5, kept),
        ("Q5_0", Storage::AsStored, DType::Q5, kept),
        ("Q5_1", Storage::AsStored, DType::Q5, kept),
        ("Q4_K", Storage::AsStored, DType::Q4K, kept),
        ("Q5_K", Storage::AsStored, DType::Q5K, kept),
        ("Q6_K", Storage::AsStored, DType::Q6K, kept),
        ("Q6_K", Storage::F32, DType::F32, kept),
        ("F32", Storage::Q8, DType::Q8, rounded),
        ("F32", Storage::Q4, DType::Q4, 10.0 * rounded),
    ];
    for (name, storage, dtype, allowed) in all {
        let tensor = weights.get(name, &[2, 256]).unwrap();
        let weight = Loader { gpu, storage }.weight(name, &tensor).unwrap();
        assert_eq!(weight.dtype(), dtype, "{name} as {storage:?}");

        let mut g = Graph::new(gpu.target());
        let input = g.input("x", [3, 256], DType::F32);
        let w = g.tensor(&weight);
        let y = matmul(&mut g, input, w, Epilogue::default()).unwrap();
        g.output(y, "y");
        let mut bound = g.plan().unwrap().bind(gpu, &BindOptions::default()).unwrap();
        let inputs = [(input, bytemuck::cast_slice(&x))];
        let raw = pollster::block_on(bound.run(&inputs, &[y], Control::default())).unwrap();
        let got: Vec<f32> = bytemuck::pod_collect_to_vec(&raw[0]);

        let values = tensor.to_f32().unwrap();
        let product =
            |row: &[f32], w: &[f32]| row.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let expected: Vec<f64> = x.chunks(256).flat_map(|row| values.chunks(256).map(|w| product(row, w))).collect();
        let error: f64 = got.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        let nmse = error / expected.iter().map(|b| b * b).sum::<f64>();
        assert!(nmse <= allowed, "{name} as {storage:?}: nmse {nmse:.1e}");
    }
}

/// What kernels read of blocks is what the scalar decoder reads, to the bit: a product with the unit matrix has no sums.
#[test]
fn blocks_of_a_gguf_file_to_the_bit() {
    let (gpu, weights) = (gpu(Checks::Checked), Weights::open(&fixture("gguf/kinds.gguf")).unwrap());
    let unit: Vec<f32> = (0..256 * 256).map(|i| if i % 257 == 0 { 1.0 } else { 0.0 }).collect();
    for name in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"] {
        let tensor = weights.get(name, &[2, 256]).unwrap();
        let weight = Loader { gpu, storage: Storage::AsStored }.weight(name, &tensor).unwrap();
        assert!(weight.dtype().block() > 1, "{name}");
        let mut g = Graph::new(gpu.target());
        let x = g.input("x", [256, 256], DType::F32);
        let w = g.tensor(&weight);
        let y = matmul(&mut g, x, w, Epilogue::default()).unwrap();
        g.output(y, "y");
        let mut bound = g.plan().unwrap().bind(gpu, &BindOptions::default()).unwrap();
        let inputs: [(_, &[u8]); 1] = [(x, bytemuck::cast_slice(&unit))];
        let found = pollster::block_on(bound.run_f32(&inputs, &[y], Control::default())).unwrap().remove(0);
        let values = tensor.to_f32().unwrap();
        let expected: Vec<f32> = (0..512).map(|i| values[i % 2 * 256 + i / 2]).collect();
        assert!(found == expected, "{name}");
        assert!(expected.iter().any(|v| *v != 0.0), "{name}");
    }
}
