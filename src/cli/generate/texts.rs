//! The texts of a picture: given embedded, or on their way through the model's text encoders.

use super::{super::failure::Outcome, Args, Progress};
use impasto::{
    gpu::Gpu,
    graph::Control,
    models::flux::pipeline::{Model, Prompts, Settings, TextEncoders, TextPlan},
    text::{Cache, Run},
};
use std::sync::Arc;

pub(super) struct Texts<'a> {
    prompt: &'a str,
    /// Where guidance needs it.
    negative: Option<&'a str>,
    /// Tokens of each.
    pub(super) length: usize,
    source: Source,
    run: Run<'a>,
}

enum Source {
    Given(Prompts),
    Encoders(Arc<TextEncoders>, Option<Cache>),
}

impl<'a> Texts<'a> {
    /// `given` from a file, or else those of the command line, for which the model's text encoders are opened.
    pub(super) fn new(
        args: &'a Args,
        given: Option<Prompts>,
        (gpu, model): (&'a Gpu, &Model),
        settings: &Settings,
        progress: &Progress,
    ) -> Outcome<Self> {
        let asked = args.picture.max_sequence_length.unwrap_or(model.defaults.max_sequence_length);
        let length = given.as_ref().map_or(asked, |p| p.prompt.tokens);
        let source = match given {
            Some(prompts) => Source::Given(prompts),
            None => {
                progress.stage("reading the text encoders");
                Source::Encoders(model.text.open(&model.config)?, Cache::of_user())
            }
        };
        // Without a negative prompt, guidance leads away from the empty one.
        let negative = args.picture.negative.as_deref().unwrap_or_default();
        Ok(Self {
            prompt: args.prompt.as_deref().unwrap_or_default(),
            negative: settings.true_cfg.map(|_| negative),
            length,
            source,
            run: Run { gpu, storage: args.model.asked(), control: Control::default() },
        })
    }

    /// What each takes.
    pub(super) fn plan(&self) -> Outcome<Vec<TextPlan>> {
        let plan = |text: &str| match &self.source {
            Source::Given(_) => Ok(TextPlan::Given),
            Source::Encoders(encoders, cache) => Ok(encoders.plan(self.run, text, self.length, cache.as_ref())?),
        };
        [self.prompt].into_iter().chain(self.negative).map(plan).collect()
    }

    /// All embedded. Closes the encoders.
    pub(super) fn embed(self, progress: &Progress) -> Outcome<Prompts> {
        let (encoders, cache) = match self.source {
            Source::Given(prompts) => return Ok(prompts),
            Source::Encoders(encoders, cache) => (encoders, cache),
        };
        let embed = |stage: &'static str, text: &str| {
            progress.stage(stage);
            progress.with(|control| {
                pollster::block_on(encoders.embed(Run { control, ..self.run }, text, self.length, cache.as_ref()))
            })
        };
        let prompt = embed("encoding the prompt", self.prompt)?;
        let negative = self.negative.map(|text| embed("encoding the negative prompt", text)).transpose()?;
        Ok(Prompts { prompt, negative })
    }
}
