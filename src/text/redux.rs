//! FLUX.1 Redux: pictures in place of words, or beside them. After `FluxPriorReduxPipeline` and `ReduxImageEncoder` of
//! diffusers.

use super::{
    Embeddings, Siglip,
    layers::{EncoderPlan, Run},
    names,
    once::Once,
};
use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    graph::{Graph, Value},
    image::Picture,
    kernels::matmul::Activation,
    nn::{
        Storage,
        projection::{Apply, Parameters, Projection, Selection, Tokens},
    },
    shape::Shape,
    weights::{HostDType, Weights},
};

/// A picture encoder, and the layers that make tokens of T5's width of what it sees.
#[derive(Debug, Clone)]
pub struct Redux {
    vision: Siglip,
    weights: Weights,
    /// Features of a token between the two layers, and that the transformer reads.
    hidden: usize,
    width: usize,
}

/// A picture in a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What [`Redux::embed`] gave, `(tokens, width)`.
    pub tokens: Vec<f32>,
    /// A factor of these tokens and of the text's (`prompt_embeds_scale`), 1 as a rule.
    pub scale: f32,
    /// A factor of the pooled text (`pooled_prompt_embeds_scale`), 1 as a rule.
    pub pooled_scale: f32,
}

impl Redux {
    /// The layers in `weights` (`image_embedder`, or the authors' `flux1-redux-dev.safetensors`) behind `vision`.
    ///
    /// # Errors
    /// `Weights` if they are something else, or for another encoder.
    pub fn new(vision: Siglip, weights: &Weights) -> Result<Self> {
        let weights = names::REDUX.apply(weights)?;
        let ([hidden, seen], [width, _]) = (weights.axes("redux_up.weight")?, weights.axes("redux_down.weight")?);
        ensure!(
            seen == vision.config.width,
            Weights,
            "{}: it reads {seen} features of a picture's token; the encoder {} gives {}",
            weights.origin(),
            vision.weights().origin(),
            vision.config.width
        );
        let tensor = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let [up, down] = ["redux_up", "redux_down"].map(|name| [format!("{name}.weight"), format!("{name}.bias")]);
        weights.expect(
            [
                tensor(&up[0], &[hidden, seen]),
                tensor(&up[1], &[hidden]),
                tensor(&down[0], &[width, hidden]),
                tensor(&down[1], &[width]),
            ]
            .iter(),
        )?;
        Ok(Self { vision, weights, hidden, width })
    }

    /// Both from files or folders, each with its `config.json` if there is one.
    ///
    /// # Errors
    /// Those of [`Weights::open`], [`Siglip::new`] and [`new`](Self::new).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(image_encoder: &std::path::Path, image_embedder: &std::path::Path) -> Result<Self> {
        let is_ours = |json: &str| {
            let json: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
            ["patch_size", "vision_config"].iter().any(|key| !json[key].is_null())
        };
        let (weights, json) = Weights::open_with_config(image_encoder, is_ours)?;
        Self::new(Siglip::new(&weights, json.as_deref())?, &Weights::open(image_embedder)?)
    }

    /// Tokens of a picture, and features of each.
    pub fn size(&self) -> [usize; 2] {
        [self.vision.config.tokens(), self.width]
    }

    /// What a transformer reads of a picture in place of words, `(tokens, width)`. bf16 is kept as f16 unless
    /// `run.storage` says something else.
    ///
    /// # Errors
    /// `Numeric` naming what is not finite, `Cancelled`, `OutOfMemory`, and what else the device reports.
    pub async fn embed(&self, run: Run<'_>, picture: &Picture) -> Result<Vec<f32>> {
        self.embed_pixels(run, &self.vision.pixels(picture)?).await
    }

    /// The same of pixels as [`Siglip::encode`] takes them.
    ///
    /// # Errors
    /// Those of [`embed`](Self::embed), `Shape` for another size.
    pub async fn embed_pixels(&self, run: Run<'_>, pixels: &[f32]) -> Result<Vec<f32>> {
        let run = Run { storage: self.stored(run.storage), ..run };
        let seen = self.vision.encode(run, pixels).await?;
        self.play(run, &seen).await
    }

    /// What [`embed`](Self::embed) takes, part by part.
    ///
    /// # Errors
    /// `OutOfMemory` if a value exceeds what the device binds.
    pub fn plan(&self, gpu: &Gpu, storage: Storage) -> Result<Vec<EncoderPlan>> {
        let storage = self.stored(storage);
        let mut parts = self.vision.plan(gpu, storage)?;
        parts.push(Once::plan(self, gpu, storage)?);
        Ok(parts)
    }

    fn stored(&self, storage: Storage) -> Storage {
        let bf16 = self.vision.weights().summary().dtypes.contains_key(&HostDType::BF16);
        if storage == Storage::AsStored && bf16 { Storage::F16 } else { storage }
    }
}

impl Once for Redux {
    const NAME: &'static str = "Redux";

    fn input(&self) -> Shape {
        [1, self.vision.config.tokens(), self.vision.config.width].into()
    }

    fn record(&self, p: &Parameters<'_>, g: &mut Graph, x: Value) -> Result<Value> {
        let x = Tokens::all(g, x)?;
        let up = Projection::load(
            p,
            &self.weights,
            &Selection::of("redux_up", self.hidden, self.vision.config.width, true),
        )?;
        let down = Projection::load(p, &self.weights, &Selection::of("redux_down", self.width, self.hidden, true))?;
        let y = g.scope("redux_up", |g| up.run(g, x, Apply { activation: Activation::Silu, ..Apply::default() }))?;
        let y = Tokens::all(g, y)?;
        g.scope("redux_down", |g| down.run(g, y, Apply::default()))
    }
}

impl Embeddings {
    /// With pictures behind the text, as diffusers puts them together: text and picture are scaled, and several pictures, each
    /// with the text before it, are added up.
    ///
    /// diffusers' pipeline without text encoders takes [`Embeddings::blank`] for the text.
    ///
    /// # Errors
    /// `Argument` for no pictures, or tokens of another width or number.
    pub fn with_pictures(&self, pictures: &[Seen]) -> Result<Self> {
        let Some(first) = pictures.first() else { crate::error::bail!(Argument, "no pictures beside the text") };
        let each = first.tokens.len();
        ensure!(
            each > 0 && each.is_multiple_of(self.width.max(1)) && pictures.iter().all(|p| p.tokens.len() == each),
            Argument,
            "tokens of pictures that are not of the text's {} features, or not of one number",
            self.width
        );
        let mut prompt = vec![0.0; self.prompt.len() + each];
        for picture in pictures {
            let all = self.prompt.iter().chain(&picture.tokens);
            prompt.iter_mut().zip(all).for_each(|(sum, v)| *sum += picture.scale * v);
        }
        let pooled_scale: f32 = pictures.iter().map(|p| p.pooled_scale).sum();
        let pooled = self.pooled.as_ref().map(|pooled| pooled.iter().map(|v| pooled_scale * v).collect());
        Ok(Self { prompt, tokens: self.tokens + each / self.width, width: self.width, pooled })
    }

    /// No text: zeros, which is not what an empty text is encoded to.
    pub fn blank(tokens: usize, width: usize, pooled: Option<usize>) -> Self {
        Self { prompt: vec![0.0; tokens * width], tokens, width, pooled: pooled.map(|n| vec![0.0; n]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_behind_the_text_and_are_added_up() {
        let text = Embeddings { prompt: vec![1.0, 2.0], tokens: 1, width: 2, pooled: Some(vec![3.0]) };
        let seen = |tokens: [f32; 4], scale, pooled_scale| Seen { tokens: tokens.to_vec(), scale, pooled_scale };
        let one = seen([5.0, 6.0, 7.0, 8.0], 1.0, 1.0);
        let with = text.with_pictures(std::slice::from_ref(&one)).unwrap();
        assert_eq!((with.prompt, with.tokens, with.pooled), (vec![1.0, 2.0, 5.0, 6.0, 7.0, 8.0], 3, Some(vec![3.0])));
        let both = text.with_pictures(&[one.clone(), seen([1.0; 4], 0.5, 0.25)]).unwrap();
        assert_eq!((both.prompt, both.pooled), (vec![1.5, 3.0, 5.5, 6.5, 7.5, 8.5], Some(vec![3.75])));
        assert!(text.with_pictures(&[]).is_err());
        assert!(text.with_pictures(&[one, Seen { tokens: vec![0.0; 2], scale: 1.0, pooled_scale: 1.0 }]).is_err());
        assert!(Embeddings::blank(1, 3, None).with_pictures(&[seen([0.0; 4], 1.0, 1.0)]).is_err());
    }
}
