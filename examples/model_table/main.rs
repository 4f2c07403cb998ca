//! The README's table of models: what each takes of a GPU at 1024 x 1024, by the plan that `generate --dry-run` prints.
//!
//! The weights are not needed. Files of the released shapes are written as headers followed by a hole, which takes no room
//! on the disk, and the plan reads no more than headers.
//!
//!     cargo run --example model_table

mod shapes;

use impasto::{
    Result,
    gpu::{self, Gpu},
    models::flux::{
        Layout,
        config::RELEASED,
        pipeline::{Locations, Model, Options, Plan, TextPlan},
        sampling::Size,
        tensors::tensors,
    },
    nn::Storage,
    text::{Clip, LanguageModel, T5},
    weights::Weights,
};
use serde_json::json;
use shapes::Tensors;
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

/// A released model: repository, architecture, licence, gate, steps, scale of classifier-free guidance, text tokens.
type Row = (&'static str, &'static str, &'static str, bool, usize, f32, usize);

const ROWS: [Row; 8] = [
    ("FLUX.2-klein-4B", "flux2-klein-4b", "Apache-2.0", false, 4, 1.0, 512),
    ("FLUX.2-klein-base-4B", "flux2-klein-4b", "Apache-2.0", false, 50, 4.0, 512),
    ("FLUX.2-klein-9B", "flux2-klein-9b", "non-commercial", true, 4, 1.0, 512),
    ("FLUX.2-klein-base-9B", "flux2-klein-9b", "non-commercial", true, 50, 4.0, 512),
    ("FLUX.2-dev", "flux2-dev", "non-commercial", true, 28, 1.0, 512),
    ("FLUX.1-schnell", "flux1-schnell", "Apache-2.0", true, 4, 1.0, 256),
    ("FLUX.1-dev", "flux1-dev", "non-commercial", true, 28, 1.0, 512),
    ("FLUX.1-Krea-dev", "flux1-dev", "non-commercial", true, 28, 1.0, 512),
];

/// A safetensors file of these shapes, its values a hole. Gives its path and its size.
fn write(folder: &Path, name: &str, dtype: &str, size: usize, tensors: Tensors) -> std::io::Result<(PathBuf, u64)> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors.0 {
        let start = end;
        end += shape.iter().product::<usize>() * size;
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::to_vec(&header)?;
    let path = folder.join(name);
    let mut file = File::create(&path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let bytes = (8 + header.len() + end) as u64;
    file.set_len(bytes)?;
    Ok((path, bytes))
}

fn row(gpu: &Gpu, folder: &Path, (name, size, licence, gated, steps, cfg, tokens): Row) -> Result<String> {
    let Some((_, config)) = RELEASED.iter().find(|(n, _)| *n == size) else { unreachable!("{size} is released") };
    let file = |name: &str, dtype, size, tensors| write(folder, name, dtype, size, tensors).expect("a temporary file");
    let (language, norms) = (Tensors::language_model, ["self_attn.q_norm", "self_attn.k_norm"]);
    let language = match size {
        "flux2-klein-4b" => Some(language([2560, 36, 4096, 9728, 151_936], &norms, &[])),
        "flux2-klein-9b" => Some(language([4096, 36, 4096, 12288, 151_936], &norms, &["lm_head"])),
        "flux2-dev" => Some(language([5120, 40, 4096, 32768, 131_072], &[], &["lm_head"])),
        _ => None,
    };
    let z = if language.is_some() { 32 } else { 16 };
    let encoders = match language {
        Some(tensors) => vec![file("language_model", "BF16", 2, tensors)],
        None => vec![file("clip", "BF16", 2, Tensors::clip()), file("t5", "BF16", 2, Tensors::t5())],
    };
    let transformer = file("transformer", "BF16", 2, Tensors(tensors(config, Layout::Bfl)));
    let vae = file("vae", "F32", 4, Tensors::autoencoder(z));
    let download: u64 = encoders.iter().chain([&transformer, &vae]).map(|(_, bytes)| bytes).sum();
    let model = Model::open(&Locations { transformer: Some(transformer.0), vae: Some(vae.0), ..Locations::default() })?;
    let opened = encoders.iter().map(|(path, _)| Weights::open(path)).collect::<Result<Vec<_>>>()?;
    let text = |storage| {
        Ok::<_, impasto::Error>(TextPlan::Encoded(match &opened[..] {
            [clip, t5] => {
                vec![Clip::new(clip, None)?.plan(gpu, storage, 77)?, T5::new(t5, None)?.plan(gpu, storage, tokens)?]
            }
            [one, ..] => vec![LanguageModel::new(one, None, None)?.plan(gpu, storage, tokens, tokens)?],
            [] => Vec::new(),
        }))
    };
    let plan = |storage, budget| {
        let texts = vec![text(storage)?; if cfg > 1.0 { 2 } else { 1 }];
        let size = Size::exact(1024, 1024)?;
        let options = Options { steps: Some(steps), true_cfg: Some(cfg), storage, budget, ..Options::new(size) };
        Plan::new(gpu, &model, &options, texts, tokens)
    };
    let gb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e9);
    let mut cells = vec![name.to_owned(), licence.into(), if gated { "yes" } else { "no" }.into(), gb(download)];
    for storage in [Storage::F16, Storage::Q8, Storage::Q4] {
        // Within no memory at all, everything is as small as it can be.
        cells.push(format!("{} / {}", gb(plan(storage, None)?.bytes()), gb(plan(storage, Some(0))?.bytes())));
    }
    cells.push(format!("{:.0}", plan(Storage::F16, None)?.flops() as f64 / 1e12));
    Ok(format!("| {} |", cells.join(" | ")))
}

fn main() -> Result<()> {
    let gpu = pollster::block_on(Gpu::open(&gpu::Options::from_env()))?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    println!("Planned for {}; GB, resident / the least --max-vram.\n", gpu.info().name);
    println!(
        "| model | licence | gated | download | f16 | q8 | q4 | TFLOP a picture |\n|---|---|---|---|---|---|---|---|"
    );
    for of in ROWS {
        println!("{}", row(&gpu, folder.path(), of)?);
    }
    Ok(())
}
