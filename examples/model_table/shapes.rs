//! The tensors of the parts that go with FLUX's transformers, as they were released. Dimensions: the config.json of each.

/// Names and shapes.
#[derive(Default)]
pub(super) struct Tensors(pub(super) Vec<(String, Vec<usize>)>);

impl Tensors {
    /// The weights of some layers below `at`, of one shape.
    fn add(&mut self, at: &str, names: &[&str], shape: &[usize]) {
        self.0.extend(names.iter().map(|name| (format!("{at}.{name}.weight"), shape.to_vec())));
    }

    /// The same with biases.
    fn biased(&mut self, at: &str, names: &[&str], shape: &[usize]) {
        self.add(at, names, shape);
        self.0.extend(names.iter().map(|name| (format!("{at}.{name}.bias"), shape[..1].to_vec())));
    }

    /// A residual block of an autoencoder.
    fn resnet(&mut self, at: &str, from: usize, to: usize) {
        self.biased(at, &["norm1"], &[from]);
        self.biased(at, &["conv1"], &[to, from, 3, 3]);
        self.biased(at, &["norm2"], &[to]);
        self.biased(at, &["conv2"], &[to, to, 3, 3]);
        if from != to {
            self.biased(at, &["nin_shortcut"], &[to, from, 1, 1]);
        }
    }

    /// The autoencoder of FLUX.1 (`z` = 16) or FLUX.2 (32), by the authors' names.
    pub(super) fn autoencoder(z: usize) -> Self {
        let mut all = Self::default();
        for (part, first, last, side, blocks, resample) in
            [("encoder", 3, 2 * z, "down", 2, "downsample"), ("decoder", z, 3, "up", 3, "upsample")]
        {
            let mut levels = [(0, 128), (1, 256), (2, 512), (3, 512)];
            if part == "decoder" {
                levels.reverse();
            }
            let mut now = levels[0].1;
            all.biased(part, &["conv_in"], &[now, first, 3, 3]);
            for (i, (level, channels)) in levels.into_iter().enumerate() {
                for block in 0..blocks {
                    all.resnet(&format!("{part}.{side}.{level}.block.{block}"), now, channels);
                    now = channels;
                }
                if i < 3 {
                    all.biased(&format!("{part}.{side}.{level}.{resample}"), &["conv"], &[now, now, 3, 3]);
                }
            }
            all.biased(part, &["norm_out"], &[now]);
            all.biased(part, &["conv_out"], &[last, now, 3, 3]);
            let mid = format!("{part}.mid");
            ["block_1", "block_2"].iter().for_each(|block| all.resnet(&format!("{mid}.{block}"), 512, 512));
            all.biased(&mid, &["attn_1.norm"], &[512]);
            all.biased(&mid, &["attn_1.q", "attn_1.k", "attn_1.v", "attn_1.proj_out"], &[512, 512, 1, 1]);
        }
        if z == 32 {
            all.biased("encoder", &["quant_conv"], &[2 * z, 2 * z, 1, 1]);
            all.biased("decoder", &["post_quant_conv"], &[z, z, 1, 1]);
            all.0.extend(["mean", "var"].map(|name| (format!("bn.running_{name}"), vec![4 * z])));
        }
        all
    }

    /// CLIP-L.
    pub(super) fn clip() -> Self {
        let mut all = Self::default();
        all.add("text_model.embeddings", &["token_embedding"], &[49408, 768]);
        all.add("text_model.embeddings", &["position_embedding"], &[77, 768]);
        for i in 0..12 {
            let at = format!("text_model.encoder.layers.{i}");
            let attention = ["q_proj", "k_proj", "v_proj", "out_proj"];
            all.biased(&format!("{at}.self_attn"), &attention, &[768, 768]);
            all.biased(&at, &["layer_norm1", "layer_norm2"], &[768]);
            all.biased(&at, &["mlp.fc1"], &[3072, 768]);
            all.biased(&at, &["mlp.fc2"], &[768, 3072]);
        }
        all.biased("text_model", &["final_layer_norm"], &[768]);
        all
    }

    /// The encoder of T5 v1.1 XXL.
    pub(super) fn t5() -> Self {
        let (mut all, h, m) = (Self::default(), 4096, 10240);
        all.0.push(("shared.weight".into(), vec![32128, h]));
        all.add("encoder.block.0.layer.0.SelfAttention", &["relative_attention_bias"], &[32, 64]);
        for i in 0..24 {
            let at = format!("encoder.block.{i}.layer");
            all.add(&format!("{at}.0.SelfAttention"), &["q", "k", "v", "o"], &[h, h]);
            all.add(&format!("{at}.1.DenseReluDense"), &["wi_0", "wi_1"], &[m, h]);
            all.add(&format!("{at}.1.DenseReluDense"), &["wo"], &[h, m]);
            all.add(&at, &["0.layer_norm", "1.layer_norm"], &[h]);
        }
        all.add("encoder", &["final_layer_norm"], &[h]);
        all
    }

    /// A language model of heads of 128, with a head of its own or that of its embedding: width, layers, queries, MLP,
    /// vocabulary.
    pub(super) fn language_model([h, layers, q, m, vocabulary]: [usize; 5], norms: &[&str], head: &[&str]) -> Self {
        let mut all = Self::default();
        all.add("model", &["embed_tokens"], &[vocabulary, h]);
        for i in 0..layers {
            let at = format!("model.layers.{i}");
            all.add(&at, &["self_attn.q_proj"], &[q, h]);
            all.add(&at, &["self_attn.k_proj", "self_attn.v_proj"], &[1024, h]);
            all.add(&at, &["self_attn.o_proj"], &[h, q]);
            all.add(&at, norms, &[128]);
            all.add(&at, &["mlp.gate_proj", "mlp.up_proj"], &[m, h]);
            all.add(&at, &["mlp.down_proj"], &[h, m]);
            all.add(&at, &["input_layernorm", "post_attention_layernorm"], &[h]);
        }
        all.add("model", &["norm"], &[h]);
        all.add("language_model", head, &[vocabulary, h]);
        all
    }
}
