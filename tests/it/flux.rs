//! FLUX against diffusers, by the miniatures of `tests/fixtures/flux*_mini`: random weights, and what diffusers computed in
//! f64, stage by stage; the transformers for a batch of two. The `dev` transformers are in the authors' layout of
//! weights, the others in diffusers'.

use crate::common::{fixture, gpu};
use impasto::{
    gpu::Checks,
    graph::{BindOptions, Bound, Control, Graph, Value},
    kernels::deviation,
    models::flux::{
        self, Condition, Config, Size, Transformer, Version,
        autoencoder::{self, AutoEncoder},
        rope,
        sampling::{image_ids, text_ids},
    },
    nn::{
        Storage,
        projection::{Apply, Parameters, Projection, Selection, Tokens},
    },
    shape::DType,
    weights::Weights,
};
use pollster::block_on;

/// A miniature: its tensors, by diffusers' names.
pub(crate) struct Mini {
    name: &'static str,
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    io: Weights,
}

impl Mini {
    pub(crate) fn open(name: &'static str) -> Self {
        let folder = fixture(&format!("{name}_transformer_mini"));
        let (config, weights) = flux::open(&folder).unwrap();
        Self { name, config, weights, io: Weights::open(&folder.join("io.safetensors")).unwrap() }
    }

    pub(crate) fn get(&self, name: &str) -> Vec<f32> {
        self.io.tensor(name).unwrap().to_f32().unwrap()
    }

    pub(crate) fn size(&self) -> Size {
        let shape = |name| self.io.shape(name).unwrap();
        let (img, txt) = (shape("in.hidden_states"), shape("in.encoder_hidden_states"));
        Size { batch: img[0], text: txt[1], image: img[1] }
    }

    /// Text and picture tokens of a stage as one sequence, as the graph has them.
    fn joined(&self, txt: &str, img: &str) -> Vec<f32> {
        let (txt, img, batch) = (self.get(txt), self.get(img), self.size().batch);
        let parts = txt.chunks(txt.len() / batch).zip(img.chunks(img.len() / batch));
        parts.flat_map(|(txt, img)| [txt, img].concat()).collect()
    }

    pub(crate) fn positions(&self) -> Vec<[u32; 4]> {
        let Size { text, image, .. } = self.size();
        let axes = if self.config.version == Version::Flux1 { 3 } else { 4 };
        let of = |name: &str, tokens: usize| {
            let all = self.get(name);
            let position = |p: &[f32]| std::array::from_fn(|i| p.get(i).map_or(0, |v| *v as u32));
            all.chunks(axes).take(tokens).map(position).collect::<Vec<[u32; 4]>>()
        };
        [of("in.txt_ids", text), of("in.img_ids", image)].concat()
    }

    pub(crate) fn conditions(&self) -> Vec<Condition> {
        let (times, batch) = (self.get("in.timestep"), self.size().batch);
        let guidance = self.config.guidance.then(|| self.get("in.guidance"));
        let pooled = self.config.pooled.map(|n| (n, self.get("in.pooled_projections")));
        let one = |i: usize| Condition {
            timestep: times[i],
            guidance: guidance.as_ref().map(|g| g[i]),
            pooled: pooled.as_ref().map(|(n, p)| p[i * n..(i + 1) * n].to_vec()),
        };
        (0..batch).map(one).collect()
    }

    /// Every stage that diffusers' tensors have, under our names.
    fn expected(&self) -> Vec<(String, Vec<f32>)> {
        let mut all = vec![("final_layer.norm".to_string(), self.get("norm_out"))];
        if self.io.has("context_embedder") {
            all.push(("in".into(), self.joined("context_embedder", "x_embedder")));
        }
        for i in 0..self.config.double_blocks {
            let at = format!("transformer_blocks.{i}");
            if self.io.has(&format!("{at}.0")) {
                all.push((format!("double_blocks.{i}"), self.joined(&format!("{at}.0"), &format!("{at}.1"))));
            }
        }
        for i in 0..self.config.single_blocks {
            let at = format!("single_transformer_blocks.{i}");
            if self.io.has(&format!("{at}.0")) {
                all.push((format!("single_blocks.{i}"), self.joined(&format!("{at}.0"), &format!("{at}.1"))));
            } else if self.io.has(&at) {
                all.push((format!("single_blocks.{i}"), self.get(&at)));
            }
            // In FLUX.2 diffusers calls more than attention by this name.
            if self.config.version == Version::Flux1 && self.io.has(&format!("{at}.attn")) {
                all.push((format!("single_blocks.{i}.attn"), self.get(&format!("{at}.attn"))));
            }
        }
        all
    }

    /// A step's inputs and its output, and the recording bound.
    fn bind(&self, transformer: &Transformer, g: Graph) -> ([Value; 5], Bound) {
        let flux::Step { graph, img, txt, vectors, table, velocity } = transformer.record(g, self.size()).unwrap();
        let bound = graph.plan().unwrap().bind(gpu(Checks::Trusted), &BindOptions::default()).unwrap();
        ([img, txt, vectors, table, velocity], bound)
    }

    /// What `taps` and the velocity are after a step.
    fn play(&self, values: &[Value; 5], mut bound: Bound, vectors: &[f32], taps: &[Value]) -> Vec<Vec<f32>> {
        let [img, txt, at, table, velocity] = *values;
        let angles = rope::table(&self.config, &self.positions());
        let (image, text) = (self.get("in.hidden_states"), self.get("in.encoder_hidden_states"));
        let inputs: [(_, &[u8]); 4] = [(img, &*image), (txt, &*text), (at, vectors), (table, &*angles)]
            .map(|(v, values)| (v, bytemuck::cast_slice(values)));
        block_on(bound.run_f32(&inputs, &[taps, &[velocity]].concat(), Control::default())).unwrap()
    }

    /// Runs a step and holds every stage against diffusers'.
    fn check(&self, storage: Storage, allowed: f64) {
        let gpu = gpu(Checks::Trusted);
        let near = |stage: &str, found: &[f32], expected: &[f32]| {
            let (nmse, max) = deviation(found, expected);
            println!("{} {storage:?} {stage}: nmse {nmse:.1e}, max {max:.1e}", self.name);
            assert!(nmse <= allowed, "{} {storage:?} {stage}: nmse {nmse:.1e}, max {max:.1e}", self.name);
        };
        let (c, size) = (&self.config, self.size());
        let vectors = block_on(flux::vectors(gpu, &self.weights, c, &self.conditions())).unwrap();
        for name in ["time_text_embed", "time_guidance_embed"] {
            if self.io.has(name) {
                near(name, &vectors.vec.concat(), &self.get(name));
            }
        }
        if self.io.has("double_stream_modulation_img") {
            let of = |from: usize, len: usize| -> Vec<f32> {
                vectors.vectors.iter().flat_map(|v| v[from * c.hidden..][..len * c.hidden].to_vec()).collect()
            };
            near("double_stream_modulation_img", &of(6, 6), &self.get("double_stream_modulation_img"));
            near("single_stream_modulation", &of(12, 3), &self.get("single_stream_modulation"));
        }

        let vectors = vectors.batch(c, &[0, 1]);

        let transformer = Transformer::load(gpu, &self.weights, c.clone(), storage).unwrap();
        let mut g = Graph::new(gpu.target());
        g.tap(["*"]);
        let (values, bound) = self.bind(&transformer, g);
        let tapped = bound.tapped().to_vec();
        let taps: Vec<_> = tapped.iter().map(|(_, v)| *v).collect();
        let found = self.play(&values, bound, &vectors, &taps);
        let expected = self.expected();
        assert!(expected.len() > 1 || !self.io.has("context_embedder"), "no stages in the fixture");
        for (stage, expected) in expected {
            let place = tapped.iter().position(|(path, _)| *path == stage).unwrap_or_else(|| panic!("no tap {stage}"));
            let mut values = found[place].clone();
            if stage == "final_layer.norm" {
                let row = (size.text + size.image) * c.hidden;
                values = values.chunks(row).flat_map(|s| s[size.text * c.hidden..].to_vec()).collect();
            }
            near(&stage, &values, &expected);
        }
        near("velocity", found.last().unwrap(), &self.get("sample"));
    }
}

/// f32 differs from f64 by some 1e-12 at this depth, and by up to 1e-9 where guidance 30 has angles of 30,000, which the
/// reference rounds to f32; half weights by their rounding.
fn check(name: &'static str) {
    let mini = Mini::open(name);
    mini.check(Storage::F32, 1e-8);
    mini.check(Storage::F16, 1e-4);
}

#[test]
fn flux1_dev_equals_the_reference() {
    check("flux1_dev");
}

#[test]
fn flux1_schnell_equals_the_reference() {
    check("flux1_schnell");
}

#[test]
fn flux1_fill_equals_the_reference() {
    check("flux1_fill");
}

#[test]
fn flux1_control_equals_the_reference() {
    check("flux1_control");
}

#[test]
fn flux2_dev_equals_the_reference() {
    check("flux2_dev");
}

#[test]
fn flux2_klein_equals_the_reference() {
    check("flux2_klein");
}

#[test]
fn small_bindings_change_nothing() {
    let mini = Mini::open("flux1_dev");
    let gpu = gpu(Checks::Trusted);
    let transformer = Transformer::load(gpu, &mini.weights, mini.config.clone(), Storage::F32).unwrap();
    let vectors = block_on(flux::vectors(gpu, &mini.weights, &mini.config, &mini.conditions())).unwrap();
    // 64 KiB do not hold [q | k | v] of both sequences, nor the inner features of a single block's MLP.
    let mut launches = Vec::new();
    let mut velocity = |binding: u64| {
        let mut target = gpu.target().clone();
        target.limits.binding = binding;
        let (step, bound) = mini.bind(&transformer, Graph::new(&target));
        let all = bound.graph().dispatches();
        // Attention may split its keys and merge the parts.
        launches.push(all.iter().filter(|d| d.kernel.name != "attention_merge").count());
        mini.play(&step, bound, &vectors.batch(&mini.config, &[0, 1]), &[]).pop().unwrap()
    };
    let (whole, cut) = (velocity(gpu.target().limits.binding), velocity(64 << 10));
    assert!(deviation(&cut, &whole).0 <= 1e-12);
    // 12 launches of a double block, 7 of a single one, 2 before them and 2 after; cut, 4 more projections and a norm in a
    // double block, 2 and a norm and a second run of the MLP in a single one.
    assert_eq!(launches, [2 * 12 + 2 * 7 + 4, 2 * 17 + 2 * 12 + 4]);
}

#[test]
fn a_projection_of_many_tensors_is_the_same() {
    let mini = Mini::open("flux1_dev");
    let (gpu, w) = (gpu(Checks::Trusted), mini.weights.at("single_blocks.0"));
    let run = |binding: u64, columns: Option<[usize; 2]>, glu: bool| {
        let p = Parameters { binding, ..Parameters::new(gpu, Storage::F32) };
        let selection = Selection { glu, ..Selection::of("linear1", 448, 64, true) };
        let projection = Projection::load(&p, &w, &selection).unwrap();
        let mut g = Graph::new(gpu.target());
        let x = g.input("x", [2, 24, 64], DType::F32);
        // Not the first tokens, and not from the first column on.
        let tokens = Tokens { value: x, first: 5, len: 18 };
        let y = projection.run(&mut g, tokens, Apply { columns, ..Apply::default() }).unwrap();
        g.output(y, "y");
        let dispatches = g.dispatches().len();
        let mut bound = g.plan().unwrap().bind(gpu, &BindOptions::default()).unwrap();
        let values = mini.get("x_embedder");
        let inputs: [(_, &[u8]); 1] = [(x, bytemuck::cast_slice(&values))];
        (block_on(bound.run_f32(&inputs, &[y], Control::default())).unwrap().remove(0), dispatches)
    };
    for (columns, glu) in [(None, false), (Some([64, 384]), false), (Some([320, 448]), false), (None, true)] {
        let (whole, one) = run(u64::MAX, columns, glu);
        let (parts, launches) = run(4 << 10, columns, glu);
        let expected = if columns == Some([320, 448]) { 1 } else { 2 };
        assert_eq!((one, launches, whole.len()), (1, expected, parts.len()), "{columns:?}");
        assert!(deviation(&parts, &whole).0 <= 1e-12, "{columns:?} {glu}");
    }
    // Rows that alternate are pairs: SiLU is not applied, so half a row times the other half.
    let (pairs, rows) = (run(u64::MAX, None, true).0, run(u64::MAX, None, false).0);
    let expected = rows.chunks(448).flat_map(|r| (0..224).map(|j| r[j] * r[224 + j]).collect::<Vec<_>>());
    assert!(deviation(&pairs, &expected.collect::<Vec<_>>()).0 <= 1e-12);
}

#[test]
fn rotary_tables_equal_the_reference() {
    for (name, parts) in [("flux1_dev", vec!["pos_embed"]), ("flux2_klein", vec!["pos_embed#1", "pos_embed"])] {
        let mini = Mini::open(name);
        let table = rope::table(&mini.config, &mini.positions());
        for (k, function) in ["cos", "sin"].into_iter().enumerate() {
            // diffusers repeats the value of a pair.
            let ours: Vec<f32> = table.chunks(2).flat_map(|pair| [pair[k]; 2]).collect();
            let theirs: Vec<f32> = parts.iter().flat_map(|part| mini.get(&format!("{part}.{k}"))).collect();
            assert!(deviation(&ours, &theirs).1 <= 1e-6, "{name} {function}");
        }
    }
    // klein's miniature has a picture of 6 by 4 tokens and refers to one of 3 by 2.
    let mini = Mini::open("flux2_klein");
    let pictures = [image_ids(0, 6, 4), image_ids(10, 3, 2)].concat();
    let ours = [text_ids(mini.config.version, mini.size().text), pictures].concat();
    assert_eq!(ours, mini.positions());
}

/// `(n, c, h, w)` to `(n, h, w, c)`.
fn channels_last(nchw: &[f32], [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let at = |i: usize| {
        let (image, y, x, k) = (i / (c * h * w), i / (c * w) % h, i / c % w, i % c);
        nchw[((image * c + k) * h + y) * w + x]
    };
    (0..n * c * h * w).map(at).collect()
}

/// An autoencoder's fixture: every stage of encoder and decoder, some with every fourth channel only.
fn check_autoencoder(name: &str, latent: usize) {
    let (gpu, folder) = (gpu(Checks::Trusted), fixture(name));
    let io = Weights::open(&folder.join("io.safetensors")).unwrap();
    let weights = Weights::open(&folder.join("model.safetensors")).unwrap();
    let ae = AutoEncoder::load(gpu, &weights, autoencoder::GROUPS).unwrap();
    assert_eq!(ae.latent_channels(), latent);
    let get = |name: &str| {
        let tensor = io.tensor(name).unwrap();
        let shape: [usize; 4] = tensor.shape().try_into().unwrap();
        (channels_last(&tensor.to_f32().unwrap(), shape), shape)
    };
    // Of some stages the fixture has every fourth channel.
    let near = |stage: &str, found: &[f32], channels: usize| {
        let (expected, shape) = get(stage);
        let found: Vec<f32> = found.iter().copied().step_by(channels / shape[1]).collect();
        let (nmse, max) = deviation(&found, &expected);
        println!("{name} {stage}: nmse {nmse:.1e}, max {max:.1e}");
        assert!(nmse <= 1e-8, "{name} {stage}: nmse {nmse:.1e}, max {max:.1e}");
    };
    let run = |input: &str, encode: bool| {
        let (values, [n, _, h, w]) = get(input);
        let mut g = Graph::new(gpu.target());
        g.tap(["*"]);
        let (graph, x, y) = match encode {
            true => ae.record_encode(g, [n, h, w]).unwrap(),
            false => ae.record_decode(g, [n, h, w]).unwrap(),
        };
        let mut bound = graph.plan().unwrap().bind(gpu, &BindOptions::default()).unwrap();
        let tapped = bound.tapped().to_vec();
        let outputs: Vec<_> = tapped.iter().map(|(_, v)| *v).chain([y]).collect();
        let inputs: [(_, &[u8]); 1] = [(x, bytemuck::cast_slice(&values))];
        let mut found = block_on(bound.run_f32(&inputs, &outputs, Control::default())).unwrap();
        let result = found.pop().unwrap();
        let theirs = |path: &str| match path.strip_prefix("decoder.up.") {
            Some(level) => format!("decoder.up_blocks.{}", 3 - level.parse::<usize>().unwrap()),
            None => {
                path.replace(".mid", ".mid_block").replace("attn_1", "attentions.0").replace(".down.", ".down_blocks.")
            }
        };
        let mut stages = 0;
        for ((path, v), values) in tapped.iter().zip(&found) {
            let stage = theirs(path);
            if io.has(&stage) {
                near(&stage, values, *bound.graph().shape(*v).last().unwrap());
                stages += 1;
            }
        }
        assert!(stages >= 4, "only {stages} stages of {input} were compared");
        result
    };
    let moments = run("in.image", true);
    let half =
        |k: usize| moments.chunks(2 * latent).flat_map(|m| m[k * latent..][..latent].to_vec()).collect::<Vec<_>>();
    near("latent_mean", &half(0), latent);
    near("latent_logvar", &half(1), latent);
    near("decoded", &run("in.z", false), 3);
}

#[test]
fn flux1_autoencoder_equals_the_reference() {
    check_autoencoder("flux1_vae_mini", 16);
}

#[test]
fn flux2_autoencoder_equals_the_reference() {
    check_autoencoder("flux2_vae_mini", 32);
}
