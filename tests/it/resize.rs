//! Resampling against torch: `tests/fixtures/resize/io.safetensors`, made by `torch.nn.functional.interpolate`
//! (`align_corners=False`) from `mask_low`.

use crate::common::{fixture, gpu};
use impasto::{
    gpu::Checks,
    graph::{BindOptions, Control, Graph},
    kernels::{
        deviation,
        mask_stats::mask_stats,
        resize::{Resize, resize},
    },
    shape::DType,
};
use safetensors::SafeTensors;

/// A tensor `(1, channels, h, w)` of the fixture and its size.
fn tensor(file: &SafeTensors<'_>, name: &str) -> (Vec<f32>, [usize; 3]) {
    let t = file.tensor(name).unwrap();
    let [_, c, h, w] = t.shape() else { panic!("{name} has shape {:?}", t.shape()) };
    (bytemuck::pod_collect_to_vec(t.data()), [*c, *h, *w])
}

/// `(c, h, w)` to `(h, w, c)`.
fn nhwc(values: &[f32], [c, h, w]: [usize; 3]) -> Vec<f32> {
    (0..h * w * c).map(|i| values[i % c * h * w + i / c]).collect()
}

#[test]
fn equals_torch() {
    let bytes = std::fs::read(fixture("resize/io.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (low, size) = tensor(&file, "mask_low");
    let gpu = gpu(Checks::Trusted);
    for (name, mode, allowed) in [
        ("nearest_2x", Resize::Nearest, 0.0),
        // A few roundings of values up to 4.
        ("mask_bilinear_74x106", Resize::Bilinear, 2e-6),
        ("mask_down_antialias_6x5", Resize::BilinearAntialias, 2e-6),
        ("pos_bicubic_23x20", Resize::Bicubic, 2e-6),
    ] {
        let (expected, to) = tensor(&file, name);
        let mut g = Graph::new(gpu.target());
        let x = g.input("x", [1, size[1], size[2], size[0]], DType::F32);
        let y = resize(&mut g, x, to[1], to[2], mode).unwrap();
        g.output(y, "y");
        let mut bound = g.plan().unwrap().bind(gpu, &BindOptions::default()).unwrap();
        let input = nhwc(&low, size);
        let inputs = [(x, bytemuck::cast_slice(&input))];
        let found = pollster::block_on(bound.run_f32(&inputs, &[y], Control::default())).unwrap().remove(0);
        let (_, largest) = deviation(&found, &nhwc(&expected, to));
        assert!(largest <= allowed, "{name}: off by {largest:e}");
    }
}

/// The counts and boxes of torch's upsampled masks.
#[test]
fn mask_stats_equal_torch() {
    let bytes = std::fs::read(fixture("resize/io.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (low, [masks, h, w]) = tensor(&file, "mask_low");
    let (full, [_, height, width]) = tensor(&file, "mask_bilinear_74x106");
    let levels = [0.5, -0.1, 0.2f32];
    let mut expected = Vec::new();
    for mask in full.chunks(height * width) {
        // Torch may round otherwise: no value may be so near a level that it would matter.
        assert!(mask.iter().all(|v| levels.iter().all(|l| (v - l).abs() > 2e-6)));
        expected.extend(levels.map(|l| mask.iter().filter(|v| **v > l).count()));
        let inside = || (0..mask.len()).filter(|i| mask[*i] > levels[2]);
        let columns = || inside().map(|i| i % width);
        let lines = || inside().map(|i| i / width);
        expected.extend([columns().min(), lines().min(), columns().max(), lines().max()].map(Option::unwrap));
        expected.push(0);
    }

    let gpu = gpu(Checks::Trusted);
    let mut g = Graph::new(gpu.target());
    let x = g.input("logits", [masks, h, w], DType::F32);
    let stats = mask_stats(&mut g, x, height, width, 0.2, 0.3).unwrap();
    g.output(stats, "stats");
    let mut bound = g.plan().unwrap().bind(gpu, &BindOptions::default()).unwrap();
    let inputs = [(x, bytemuck::cast_slice(&low))];
    let outputs = pollster::block_on(bound.run(&inputs, &[stats], Control::default())).unwrap();
    let found: Vec<u32> = bytemuck::pod_collect_to_vec(&outputs[0]);
    assert_eq!(found.iter().map(|&n| n as usize).collect::<Vec<_>>(), expected);
}
