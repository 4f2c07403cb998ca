//! LoRAs at run time against weights that they were merged into, in every naming and storage.

use crate::{common::gpu, flux::Mini};
use impasto::{
    gpu::Checks,
    graph::Control,
    kernels::{Random, deviation},
    models::flux::{
        self, Denoiser, DenoiserOptions,
        lora::{Lora, Modules},
        rope,
    },
    nn::Storage,
    quant,
    weights::Weights,
};
use pollster::block_on;
use safetensors::tensor::{Dtype, TensorView};
use std::{collections::BTreeMap, ops::Range};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn weights(tensors: &Tensors) -> Weights {
    let bytes: Vec<Vec<u8>> = tensors.values().map(|(_, v)| v.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let all = tensors.iter().zip(&bytes);
    let views =
        all.map(|((name, (shape, _)), bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    Weights::from_bytes(safetensors::serialize(views, None).unwrap()).unwrap()
}

/// A change as a file has it: the authors' layer and rows, and the name that the file gives them.
struct Change {
    module: String,
    rows: Range<usize>,
    name: String,
    /// The file has the second half of the rows first.
    swapped: bool,
}

/// Every layer under the authors' name.
fn every_layer(all: &Tensors) -> Vec<Change> {
    let change = |(name, (shape, _)): (&String, &(Vec<usize>, Vec<f32>))| {
        let module = name.strip_suffix(".weight").filter(|_| shape.len() == 2)?.to_owned();
        Some(Change { name: module.clone(), module, rows: 0..shape[0], swapped: false })
    };
    all.iter().filter_map(change).collect()
}

/// Some layers, and parts of layers, under diffusers' names.
fn diffusers(all: &Tensors, flux2: bool) -> Vec<Change> {
    let (ff, out, mods) = match flux2 {
        false => (["ff.net.0.proj", "ff_context.net.2"], "proj_out", "transformer_blocks.1.norm1_context.linear"),
        true => (["ff.linear_in", "ff_context.linear_out"], "attn.to_out", "double_stream_modulation_txt.linear"),
    };
    let of_mod = if flux2 { "double_stream_modulation_txt.lin" } else { "double_blocks.1.txt_mod.lin" };
    let mut names = vec![
        ("double_blocks.0.img_attn.qkv", Some(0), "transformer_blocks.0.attn.to_q".to_owned()),
        ("double_blocks.0.img_attn.qkv", Some(2), "transformer_blocks.0.attn.to_v".to_owned()),
        ("double_blocks.1.txt_attn.qkv", Some(1), "transformer_blocks.1.attn.add_k_proj".to_owned()),
        ("double_blocks.0.img_attn.proj", None, "transformer_blocks.0.attn.to_out.0".to_owned()),
        ("double_blocks.0.img_mlp.0", None, format!("transformer_blocks.0.{}", ff[0])),
        ("double_blocks.1.txt_mlp.2", None, format!("transformer_blocks.1.{}", ff[1])),
        ("single_blocks.0.linear2", None, format!("single_transformer_blocks.0.{out}")),
        ("final_layer.adaLN_modulation.1", None, "norm_out.linear".to_owned()),
        (of_mod, None, mods.to_owned()),
        ("img_in", None, "x_embedder".to_owned()),
    ];
    names.push(match flux2 {
        true => ("single_blocks.1.linear1", None, "single_transformer_blocks.1.attn.to_qkv_mlp_proj".to_owned()),
        false => ("single_blocks.1.linear1", Some(1), "single_transformer_blocks.1.attn.to_k".to_owned()),
    });
    let change = |(module, third, name): (&str, Option<usize>, String)| {
        let [n, k] = all[&format!("{module}.weight")].0[..] else { panic!("{module} is no matrix") };
        let rows = third.map_or(0..n, |t| t * k..(t + 1) * k);
        Change { module: module.into(), rows, name, swapped: module.starts_with("final_layer.ada") }
    };
    let mut changes: Vec<Change> = names.into_iter().map(change).collect();
    if !flux2 {
        let (n, k) = (all["single_blocks.1.linear1.weight"].0[0], all["single_blocks.1.linear1.weight"].0[1]);
        let name = "single_transformer_blocks.1.proj_mlp".to_owned();
        changes.push(Change { module: "single_blocks.1.linear1".into(), rows: 3 * k..n, name, swapped: false });
    }
    changes
}

/// A file with these changes, of random values; and what it adds to each weight at strength 1.
fn file(
    all: &Tensors,
    changes: &[Change],
    seed: u64,
    form: [&str; 3],
    rank: usize,
    alpha: Option<f32>,
) -> (Weights, Tensors) {
    let (mut file, mut added, mut random) = (Tensors::new(), Tensors::new(), Random::new(seed));
    for c in changes {
        let (shape, _) = &all[&format!("{}.weight", c.module)];
        let (n, k) = (c.rows.len(), shape[1]);
        let mut small = |count: usize| random.values(count).into_iter().map(|v| v * 0.2).collect::<Vec<_>>();
        let (a, b) = (small(rank * k), small(n * rank));
        let [prefix, down, up] = form;
        let name = if prefix.ends_with('_') { c.name.replace('.', "_") } else { c.name.clone() };
        let scale = alpha.map_or(1.0, |alpha| alpha / rank as f32);
        let (_, sum) =
            added.entry(c.module.clone()).or_insert_with(|| (shape.clone(), vec![0.0; shape.iter().product()]));
        for i in 0..n {
            let row = c.rows.start + if c.swapped { (i + n / 2) % n } else { i };
            for j in 0..k {
                sum[row * k + j] += scale * (0..rank).map(|r| b[i * rank + r] * a[r * k + j]).sum::<f32>();
            }
        }
        file.insert(format!("{prefix}{name}.{down}.weight"), (vec![rank, k], a));
        file.insert(format!("{prefix}{name}.{up}.weight"), (vec![n, rank], b));
        if let Some(alpha) = alpha {
            file.insert(format!("{prefix}{name}.alpha"), (vec![], vec![alpha]));
        }
    }
    (weights(&file), added)
}

/// The velocity of a step of `mini` with these weights.
fn velocity(mini: &Mini, weights: &Weights, options: &DenoiserOptions) -> Vec<f32> {
    let (gpu, c) = (gpu(Checks::Trusted), &mini.config);
    let vectors = block_on(flux::vectors_with(gpu, weights, c, &mini.conditions(), &options.loras)).unwrap();
    let mut denoiser = Denoiser::new(gpu, weights, c.clone(), mini.size(), options).unwrap();
    denoiser.begin(&mini.get("in.encoder_hidden_states"), &rope::table(c, &mini.positions()));
    let (img, vectors) = (mini.get("in.hidden_states"), vectors.batch(c, &[0, 1]));
    block_on(denoiser.step(&img, &vectors, Control::default())).unwrap()
}

/// The values that a storage keeps of the blocks' matrices.
fn rounded(all: &Tensors, storage: Storage) -> Tensors {
    let round = |name: &String, shape: &Vec<usize>, values: &Vec<f32>| {
        let block = name.contains("_blocks.") && !name.contains("_mod.") && !name.contains("modulation.");
        match storage {
            Storage::Q4 if shape.len() == 2 && (block || name.starts_with("txt_in")) => {
                quant::unpack_q4(&quant::pack_q4(values), values.len())
            }
            _ => values.clone(),
        }
    };
    all.iter().map(|(name, (shape, v))| (name.clone(), (shape.clone(), round(name, shape, v)))).collect()
}

fn check(name: &'static str, flux2: bool) {
    let mini = Mini::open(name);
    let tensor = |name: String| {
        let tensor = mini.weights.tensor(&name).unwrap();
        (name, (tensor.shape().to_vec(), tensor.to_f32().unwrap()))
    };
    let all: Tensors = mini.weights.names().into_iter().map(tensor).collect();
    let whole = every_layer(&all);
    let files = [
        (file(&all, &diffusers(&all, flux2), 1, ["transformer.", "lora_A", "lora_B"], 4, None), 0.75),
        (file(&all, &whole, 2, ["diffusion_model.", "lora_A", "lora_B"], 2, None), -0.5),
        (file(&all, &whole, 3, ["lora_unet_", "lora_down", "lora_up"], 3, Some(1.5)), 0.5),
    ];
    let modules = Modules::of_config(&mini.config);
    let loras = files.each_ref().map(|((file, _), strength)| (Lora::resolve(file, &modules).unwrap(), *strength));
    assert!(loras.iter().all(|(lora, _)| lora.unmatched.is_empty()));
    let plain = velocity(&mini, &mini.weights, &DenoiserOptions { storage: Storage::F32, ..Default::default() });
    for (storage, used) in [
        (Storage::F32, vec![0]),
        (Storage::F32, vec![1]),
        (Storage::F32, vec![2]),
        (Storage::F32, vec![0, 1, 2]),
        (Storage::Q4, vec![0, 2]),
    ] {
        let mut merged = rounded(&all, storage);
        for &i in &used {
            for (module, (_, added)) in &files[i].0.1 {
                let (_, weight) = merged.get_mut(&format!("{module}.weight")).unwrap();
                weight.iter_mut().zip(added).for_each(|(w, d)| *w += files[i].1 * d);
            }
        }
        let exact = DenoiserOptions { storage: Storage::F32, ..Default::default() };
        let expected = velocity(&mini, &weights(&merged), &exact);
        assert!(deviation(&expected, &plain).0 > 1e-3, "{name} {used:?} changes nothing");
        let loras = used.iter().map(|i| loras[*i].clone()).collect();
        let options = DenoiserOptions { storage, loras, ..Default::default() };
        let found = velocity(&mini, &mini.weights, &options);
        let (nmse, max) = deviation(&found, &expected);
        println!("{name} {storage:?} {used:?}: nmse {nmse:.1e}, max {max:.1e}");
        assert!(nmse <= 1e-9, "{name} {storage:?} {used:?}: nmse {nmse:.1e}, max {max:.1e}");
        if used.len() > 1 {
            // LoRAs stay on the device, blocks do not.
            let plan = |budget| {
                let options = DenoiserOptions { budget, ..options.clone() };
                let gpu = gpu(Checks::Trusted);
                (Denoiser::plan(gpu, &mini.weights, &mini.config, mini.size(), &options).unwrap(), options)
            };
            let (plan, options) = plan(Some(plan(Some(0)).0.bytes()));
            assert!(plan.streamed_blocks() > 0);
            assert!(velocity(&mini, &mini.weights, &options) == found, "{name} {storage:?}: streaming changes bits");
        }
    }
}

#[test]
fn flux1_loras_are_as_merged() {
    check("flux1_dev", false);
}

#[test]
fn flux2_loras_are_as_merged() {
    check("flux2_dev", true);
}
