//! The picture encoder of SigLIP (Zhai et al. 2023), which FLUX.1 Redux looks through. After `SiglipVisionModel` of
//! transformers, without its pooling head.

use super::{
    config::{Json, check_heads, check_layers, count_layers},
    layers::{EncoderPlan, Layers, Run},
    names,
    once::Once,
    pre_norm::{Layer, Shape, last_norm},
};
use crate::{
    error::{Result, bail, ensure},
    gpu::Gpu,
    graph::{Graph, Value},
    image::Picture,
    kernels::matmul::Activation,
    nn::{Conv2d, Storage, projection::Parameters},
    weights::Weights,
};

/// What a [`Siglip`] is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipConfig {
    /// Layers.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Features inside the MLP.
    pub mlp: usize,
    /// Pixels of the side of the square picture.
    pub side: usize,
    /// Pixels of the side of a patch, which becomes a token. What is left of the picture's side is not seen.
    pub patch: usize,
    /// Epsilon of the norms.
    pub eps: f32,
}

impl SiglipConfig {
    /// From tensors under our names and, where they leave a choice, `config.json`. Without one it is the encoder of Redux,
    /// so400m-patch14-384, if the sizes are its own.
    fn detect(w: &Weights, json: Option<&str>) -> Result<Self> {
        let json = Json::part(json, "vision_config")?;
        let [width, _, patch, _] = w.axes("embeddings.patch_embedding.weight")?;
        let [positions, _] = w.axes("embeddings.position_embedding.weight")?;
        let [mlp, _] = w.axes("encoder.layers.0.mlp.fc1.weight")?;
        let so400m = (width, patch, positions) == (1152, 14, 27 * 27);
        let heads = json.size("num_attention_heads")?.unwrap_or(if so400m { 16 } else { width / 64 });
        check_heads(w, width, heads)?;
        let own = if so400m { 384 } else { positions.isqrt() * patch };
        let side = json.size("image_size")?.unwrap_or(own);
        ensure!(
            patch > 0 && (side / patch).checked_pow(2) == Some(positions) && side <= 4096,
            Weights,
            "{}: {positions} patches of {patch} pixels in a picture of {side}",
            w.origin()
        );
        let activation = json.text("hidden_act").unwrap_or("gelu_pytorch_tanh");
        ensure!(
            activation == "gelu_pytorch_tanh",
            Weights,
            "{}: the activation {activation:?} is not SigLIP's",
            w.origin()
        );
        let layers = count_layers(w, "encoder.layers", "layer_norm1.weight")?;
        check_layers(w, layers, json.size("num_hidden_layers")?)?;
        let eps = json.number("layer_norm_eps").unwrap_or(1e-6) as f32;
        Ok(Self { layers, width, heads, mlp, side, patch, eps })
    }

    /// Tokens of a picture.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    fn grid(&self) -> usize {
        self.side / self.patch
    }

    fn layer(&self) -> Shape {
        let Self { width, heads, mlp, eps, .. } = *self;
        Shape { width, heads, mlp, eps, activation: Activation::GeluTanh, causal: false }
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, p) = (self.width, self.patch);
        let mut all = vec![
            ("embeddings.patch_embedding.weight".to_owned(), vec![h, 3, p, p]),
            ("embeddings.patch_embedding.bias".into(), vec![h]),
            ("embeddings.position_embedding.weight".into(), vec![self.tokens(), h]),
            ("post_layernorm.weight".into(), vec![h]),
            ("post_layernorm.bias".into(), vec![h]),
        ];
        all.extend((0..self.layers).flat_map(|i| self.layer().tensors(i)));
        all
    }
}

/// The encoder: its weights stay in their file.
#[derive(Debug, Clone)]
pub struct Siglip {
    /// What it is made of.
    pub config: SiglipConfig,
    weights: Weights,
}

impl Siglip {
    /// The encoder in `weights`, by whatever names; `json` is the text of its `config.json`, if there is one.
    ///
    /// # Errors
    /// `Weights` if it is none, or tensors are missing or contradict the config.
    pub fn new(weights: &Weights, json: Option<&str>) -> Result<Self> {
        let weights = names::SIGLIP.apply(weights)?;
        let config = SiglipConfig::detect(&weights, json)?;
        weights.expect(config.tensors().iter())?;
        Ok(Self { config, weights })
    }

    /// Its weights, by our names.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The picture as [`encode`](Self::encode) takes it: squashed to its square by Pillow's bicubic filter, from -1 to 1,
    /// `(side, side, 3)`. As `SiglipImageProcessor` of transformers with the settings of Redux.
    ///
    /// # Errors
    /// `Internal` if the picture has not the bytes that it says.
    pub fn pixels(&self, picture: &Picture) -> Result<Vec<f32>> {
        let (w, h, side) = (picture.width() as u32, picture.height() as u32, self.config.side as u32);
        let Some(rgb) = ::image::RgbImage::from_raw(w, h, picture.rgb().to_vec()) else {
            bail!(Internal, "a picture of {w}x{h} has other bytes");
        };
        let resized = ::image::imageops::resize(&rgb, side, side, ::image::imageops::FilterType::CatmullRom);
        Ok(resized.as_raw().iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect())
    }

    /// The last state behind the final norm, `(tokens, width)`, of pixels from -1 to 1, `(side, side, 3)`.
    ///
    /// # Errors
    /// `Shape` for another size; `Weights`, `Numeric`, `OutOfMemory`, and what the device reports.
    pub async fn encode(&self, run: Run<'_>, pixels: &[f32]) -> Result<Vec<f32>> {
        let SiglipConfig { side, width, layers, eps, .. } = self.config;
        ensure!(pixels.len() == 3 * side * side, Shape, "{} values of a picture of {side}x{side}", pixels.len());
        let patches = Patches(self).play(run, pixels).await?;
        let last = Layers::play(self, run, patches, width, &[layers]).await?;
        last_norm(&self.weights, "post_layernorm", width, eps, last.last().map_or(&[][..], |s| s))
    }

    /// What [`encode`](Self::encode) takes, part by part.
    ///
    /// # Errors
    /// `OutOfMemory` if a value exceeds what the device binds.
    pub fn plan(&self, gpu: &Gpu, storage: Storage) -> Result<Vec<EncoderPlan>> {
        let size = [self.config.tokens(), self.config.width];
        let layers = Layers::plan(self, "SigLIP", &Parameters::new(gpu, storage), size, 0)?;
        Ok(vec![Patches(self).plan(gpu, storage)?, layers])
    }
}

impl Layers for Siglip {
    type Layer = Layer;

    const SCOPE: &'static str = "vision_model.encoder.layers";

    fn count(&self) -> usize {
        self.config.layers
    }

    fn load(&self, p: &Parameters<'_>, i: usize) -> Result<Layer> {
        Layer::load(p, &self.weights.at("encoder.layers").at(i), self.config.layer())
    }

    fn record(&self, g: &mut Graph, layer: &Layer, x: Value) -> Result<Value> {
        layer.forward(g, x)
    }
}

/// The embedding of patches and of their positions.
struct Patches<'a>(&'a Siglip);

impl Once for Patches<'_> {
    const NAME: &'static str = "SigLIP's patches";

    fn input(&self) -> crate::shape::Shape {
        let side = self.0.config.side;
        [1, side, side, 3].into()
    }

    fn record(&self, p: &Parameters<'_>, g: &mut Graph, x: Value) -> Result<Value> {
        let (c, w) = (&self.0.config, self.0.weights.at("embeddings"));
        let embed = Conv2d::load(p, &w.at("patch_embedding"), c.width, 3, c.patch, c.patch, 0)?;
        let table = w.get("position_embedding.weight", &[c.tokens(), c.width])?;
        let positions = p.values(w.prefix(), [1, c.grid(), c.grid(), c.width], || table.to_f32())?.value(g);
        embed.forward(g, x, Some(positions))
    }
}
