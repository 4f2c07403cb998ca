//! Parts of the memory path against tensors of transformers.

use super::{
    super::{
        config::Config,
        model::{EmbeddingTensors, Model},
        open,
    },
    model::{Sizes, VideoModel},
};
use crate::{
    gpu::{Gpu, Options},
    graph::{BindOptions, Control, Graph, Value},
    kernels::deviation,
    nn::{Loader, Storage},
    shape::DType,
    weights::Weights,
};
use pollster::block_on;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

struct Mini {
    gpu: Gpu,
    config: Config,
    image: Model,
    video: VideoModel,
    embedding: EmbeddingTensors,
    io: Weights,
}

impl Mini {
    fn open() -> Self {
        let gpu = block_on(Gpu::open(&Options { untuned: true, ..Options::from_env() })).unwrap();
        let (config, weights) = open(&fixture("sam2_mini_image")).unwrap();
        let image = block_on(Model::load(&gpu, &weights, config.clone(), 256, Storage::F32)).unwrap();
        let l = Loader { gpu: &gpu, storage: Storage::F32 };
        let video = VideoModel::load(&l, &weights, &config, 256).unwrap();
        let embedding = image.embedding(&gpu).unwrap();
        let io = Weights::open(&PathBuf::from(std::env::var("VIDEO_IO").unwrap())).unwrap();
        Self { gpu, config, image, video, embedding, io }
    }

    fn get(&self, name: &str) -> Vec<f32> {
        self.io.tensor(name).unwrap().to_f32().unwrap()
    }

    fn encode(&self, frame: usize) {
        let (g, input) = self.image.record_encode(Graph::new(self.gpu.target()), &self.embedding).unwrap();
        let frames = self.io.tensor("frames_u8").unwrap();
        let pixels = &frames.bytes()[frame * 256 * 256 * 3..][..256 * 256 * 3];
        let (mean, std) = (super::super::model::MEAN, super::super::model::STD);
        let pixels: Vec<f32> =
            pixels.iter().enumerate().map(|(i, v)| (f32::from(*v) / 255.0 - mean[i % 3]) / std[i % 3]).collect();
        let mut bound = g.plan().unwrap().bind(&self.gpu, &BindOptions::default()).unwrap();
        block_on(bound.run(&[(input, bytemuck::cast_slice(&pixels))], &[], Control::default())).unwrap();
    }

    fn play(&self, mut g: Graph, tap: &str, inputs: &[(Value, Vec<f32>)], outputs: &[Value]) -> Vec<Vec<f32>> {
        let _ = &mut g;
        let mut bound = g.plan().unwrap().bind(&self.gpu, &BindOptions::default()).unwrap();
        let inputs: Vec<(Value, &[u8])> = inputs.iter().map(|(v, x)| (*v, bytemuck::cast_slice(x))).collect();
        let mut wanted = outputs.to_vec();
        wanted.extend(bound.tapped().iter().find(|(name, _)| name == tap).map(|(_, v)| *v));
        block_on(bound.run_f32(&inputs, &wanted, Control::default())).unwrap()
    }
}

#[test]
fn memories_and_attention() {
    let mini = Mini::open();
    let (cells, dim, d) = (256, mini.config.memory.as_ref().unwrap().dim, mini.config.hidden);
    let bank = mini.gpu.zeros("bank", [8, cells, dim], DType::F32).unwrap();
    for frame in 0..2 {
        mini.encode(frame);
        let mut g = Graph::new(mini.gpu.target());
        g.tap(["memory_encoder"]);
        let r = mini.video.record_remember(g, &mini.embedding, &bank, [3, 256], false).unwrap();
        let masks = mini.get(&format!("f{frame}.low_res_masks"));
        let hard = vec![if frame == 0 { 1.0 } else { 0.0 }; 3];
        let scores = mini.get(&format!("f{frame}.obj_score"));
        let at = |i: usize| [(frame * 3 + i) as f32, f32::from(scores[i] <= 0.0)];
        let places: Vec<f32> = (0..3).flat_map(at).collect();
        let inputs = [(r.masks, masks), (r.hard, hard), (r.places, places)];
        let found = mini.play(r.graph, "memory_encoder", &inputs, &[]).swap_remove(0);
        let chw = |v: &[f32]| -> Vec<f32> {
            (0..dim).flat_map(|c| (0..cells).map(move |t| t * dim + c)).map(|i| v[i]).collect()
        };
        let found: Vec<f32> = found.chunks(cells * dim).flat_map(chw).collect();
        let expected = mini.get(&format!("f{frame}.mem_enc"));
        for o in 0..3 {
            let own = o * cells * dim..(o + 1) * cells * dim;
            println!("frame {frame} object {o}: {:?}", deviation(&found[own.clone()], &expected[own]));
        }
    }
    // Frame 2 of object 0: two memories, two pointers.
    mini.encode(2);
    let s = Sizes { objects: 3, points: 2, memories: 2, pointers: 2 * d / dim };
    let mut g = Graph::new(mini.gpu.target());
    g.tap(["memory_attention"]);
    let t = mini.video.record_track(&mini.image, g, &mini.embedding, &bank, s).unwrap();
    let places: Vec<f32> = (0..3).flat_map(|o| [o as f32, 6.0, (3 + o) as f32, 0.0]).collect();
    let mut pointers = Vec::new();
    for o in 0..3 {
        for (frame, place) in [(0, 2.0 / 7.0), (1, 1.0 / 7.0)] {
            pointers.extend(mini.video.pointer_tokens(&mini.get(&format!("f{frame}.o{o}.object_pointer")), place));
        }
    }
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.extend_from_slice(mini.image.output_tokens());
        for _ in 0..2 {
            tokens.extend(mini.image.prompt_encoder.point(0.0, 0.0, super::super::prompt_encoder::Label::None, 256));
        }
    }
    let inputs = [(t.tokens, tokens), (t.places, places), (t.pointers, pointers)];
    let out = mini.play(t.graph, "memory_attention", &inputs, &[t.found.masks, t.found.scores, t.found.pointers]);
    let low = 64 * 64;
    let width = out[1].len() / 3 / 6;
    for o in 0..3 {
        let expected = mini.get(&format!("memattn.f2.o{o}"));
        println!("attention {o}: {:?}", deviation(&out[3][o * cells * d..][..cells * d], &expected));
        let iou = |i: usize| out[1][(o * 6 + 1) * width + i];
        let best = super::super::predictor::best_of_three(iou);
        let expected = &mini.get("f2.low_res_masks")[o * low..][..low];
        println!("mask {o}: {:?}", deviation(&out[0][(o * 4 + best) * low..][..low], expected));
        let expected = mini.get(&format!("f2.o{o}.object_pointer"));
        println!("pointer {o}: {:?}", deviation(&out[2][(o * 4 + best) * d..][..d], &expected));
        println!("score {o}: {} {}", out[1][o * 6 * width], mini.get("f2.obj_score")[o]);
    }
}
