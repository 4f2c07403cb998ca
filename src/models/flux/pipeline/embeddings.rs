//! What the transformer is told about a picture: embedded prompts, encoded or from a file.

use super::super::{Config, Version};
pub use crate::text::Embeddings;
use crate::{
    error::{Result, ensure},
    weights::Weights,
};

/// The texts of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompts {
    /// What is to be seen.
    pub prompt: Embeddings,
    /// What classifier-free guidance leads away from.
    pub negative: Option<Embeddings>,
}

impl Prompts {
    /// From a file with `prompt_embeds` `(1, tokens, width)` and, for FLUX.1, `pooled_prompt_embeds` `(1, width)`; the same
    /// under `negative_...` for a negative prompt. The names are those of diffusers' arguments.
    ///
    /// # Errors
    /// `Weights` if a tensor is missing or has other axes.
    pub fn read(file: &Weights) -> Result<Self> {
        let prompt = read(file, "")?;
        let negative = file.has("negative_prompt_embeds").then(|| read(file, "negative_")).transpose()?;
        Ok(Self { prompt, negative })
    }

    /// Whether a transformer can be told this.
    ///
    /// # Errors
    /// `Argument` if widths differ or the pooled text is missing; `Numeric` for values that are not finite.
    pub fn check(&self, c: &Config) -> Result<()> {
        check(&self.prompt, c, "the prompt")?;
        self.negative.as_ref().map_or(Ok(()), |negative| check(negative, c, "the negative prompt"))
    }
}

fn read(file: &Weights, prefix: &str) -> Result<Embeddings> {
    let name = format!("{prefix}prompt_embeds");
    let [one, tokens, width] = file.axes(&name)?;
    ensure!(one == 1 && tokens > 0, Weights, "{}: '{name}' is of {one} prompts of {tokens} tokens", file.origin());
    let pooled = format!("{prefix}pooled_prompt_embeds");
    let pooled = file.has(&pooled).then(|| file.tensor(&pooled)?.to_f32()).transpose()?;
    Ok(Embeddings { prompt: file.tensor(&name)?.to_f32()?, tokens, width, pooled })
}

fn check(e: &Embeddings, c: &Config, what: &str) -> Result<()> {
    ensure!(
        e.width == c.context && e.tokens > 0 && e.prompt.len() == e.tokens * e.width,
        Argument,
        "{what} is embedded in {} tokens of {} features; this transformer takes {}",
        e.tokens,
        e.width,
        c.context
    );
    let pooled = e.pooled.as_ref().map(Vec::len);
    ensure!(
        c.version == Version::Flux2 || pooled == c.pooled,
        Argument,
        "{what} has {} pooled features (pooled_prompt_embeds); this transformer takes {}",
        pooled.unwrap_or(0),
        c.pooled.unwrap_or(0)
    );
    let all = e.prompt.iter().chain(e.pooled.iter().flatten());
    let bad = all.filter(|v| !v.is_finite()).count();
    ensure!(bad == 0, Numeric, "{what}: {bad} values of its embedding are NaN or infinite");
    Ok(())
}
