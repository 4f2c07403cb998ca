//! What a run begins with: the tokens of its first step, and what stands beside them in every step.

use super::{
    super::sampling::{self, Latents, Size},
    autoencoder::finite,
    references,
    run::{Event, Run, Stage},
};
use crate::error::{Result, ensure};

/// What every step reads beside the latents.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Tokens of the references, one picture after the other.
    references: Vec<f32>,
    /// Their positions.
    pub(super) ids: Vec<[u32; 4]>,
}

impl Beside {
    /// What the transformer reads in a step from the latents `x`.
    pub(super) fn input(&self, x: &[f32]) -> Vec<f32> {
        [x, &self.references].concat()
    }
}

impl Run<'_> {
    /// The tokens that the first step of each picture begins with, and what stands beside them.
    pub(super) async fn begin(&mut self) -> Result<(Vec<Vec<f32>>, Beside)> {
        let init = self.init().await?;
        let beside = self.beside().await?;
        Ok((init, beside))
    }

    async fn init(&mut self) -> Result<Vec<Vec<f32>>> {
        let (o, version) = (self.options, self.model.config.version);
        let latents = Latents::new(version, o.size);
        if let Some(given) = &o.init_latents {
            ensure!(
                given.len() == o.images * latents.len(),
                Argument,
                "initial latents of {} elements for {} of {}x{}, which take {} each",
                given.len(),
                if o.images == 1 { "a picture".to_owned() } else { format!("{} pictures", o.images) },
                o.size.width(),
                o.size.height(),
                latents.len()
            );
            finite(given, "the initial latents")?;
            return Ok(given.chunks(latents.len()).map(<[f32]>::to_vec).collect());
        }
        let mut noise = o.profile.noise(version, o.seed, o.images);
        let start = match &o.start {
            None => None,
            Some(start) => {
                self.watch.tell(Event::Stage(Stage::Encode));
                // The reference draws for the autoencoder before it draws the noise.
                let posterior = noise.posterior(latents.len());
                let (ae, control) = (&self.model.autoencoder, self.control);
                let tokens =
                    ae.encode(self.gpu, &start.picture, o.size, posterior.as_deref(), o.budget, control).await?;
                self.lap("encode");
                Some(tokens)
            }
        };
        let drawn = noise.latents(latents.len());
        let tokens = drawn.chunks(latents.len()).map(|noise| {
            let noise = latents.tokens_of_noise(noise)?;
            let Some(mut picture) = start.clone() else { return Ok(noise) };
            sampling::add_noise(&mut picture, &noise, self.settings.schedule.sigma(0))?;
            Ok(picture)
        });
        tokens.collect()
    }

    async fn beside(&mut self) -> Result<Beside> {
        let (o, version) = (self.options, self.model.config.version);
        let Some(given) = &o.references else { return Ok(Beside::default()) };
        self.watch.tell(Event::Stage(Stage::Encode));
        let fitted = given.fitted(version)?;
        let mut tokens = Vec::new();
        for (picture, size) in &fitted {
            // The mean in every profile: no reference implementation samples here.
            let (ae, control) = (&self.model.autoencoder, self.control);
            tokens.extend(ae.encode(self.gpu, picture, *size, None, o.budget, control).await?);
        }
        self.lap("encode");
        let sizes: Vec<Size> = fitted.iter().map(|(_, size)| *size).collect();
        Ok(Beside { references: tokens, ids: references::ids(version, &sizes) })
    }
}
