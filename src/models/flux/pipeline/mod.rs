//! From prompts to pictures: [`Model`] is a model's files, [`Plan`] what a run takes, [`generate`] the run.
//!
//! ```no_run
//! use impasto::{models::flux::{pipeline::{Locations, Model, Options, Prompts, Watch, generate}, sampling::Size},
//!     graph::Control, nn::Storage, text::Run};
//! # async fn run(gpu: &impasto::gpu::Gpu) -> impasto::Result<()> {
//! let model = Model::open(&Locations { model: Some("FLUX.2-klein-4B".into()), ..Locations::default() })?;
//! let run = Run { gpu, storage: Storage::AsStored, control: Control::default() };
//! let prompt = model.text.open(&model.config)?.embed(run, "a fox in the snow", 512, None).await?;
//! let prompts = Prompts { prompt, negative: None };
//! let options = Options::new(Size::exact(1024, 768)?);
//! let made = generate(gpu, &model, &prompts, &options, Watch::default()).await?;
//! let picture = made.picture(0, options.size)?;
//! # Ok(()) }
//! ```
//!
//! Pictures go into a run in one of these ways:
//!
//! | what for | models | where |
//! |---|---|---|
//! | to begin with | all | [`Options::start`] |
//! | to replace a part of | FLUX.1 | [`Start::mask`] |
//! | to fill in; edges or depths to follow | FLUX.1 Fill; Canny, Depth | [`Options::channels`] |
//! | to edit, to put together | FLUX.1 Kontext; FLUX.2 | [`Options::references`] |
//! | to vary | FLUX.1 with Redux | [`Embeddings::with_pictures`] |
//!
//! With the default [`Profile`](super::sampling::Profile) a seed gives what the pipelines of diffusers make of the same
//! pictures: what they draw to encode them comes from the same generator, in the same order.

mod autoencoder;
mod begin;
mod channels;
mod embeddings;
mod model;
mod options;
mod plan;
mod preview;
mod references;
mod run;
mod text;

pub use autoencoder::{Autoencoder, Posterior};
pub use channels::{Channels, read_mask};
pub use embeddings::{Embeddings, Prompts};
pub use model::{Defaults, Locations, Model};
pub use options::{Options, Settings, Start};
pub use plan::Plan;
pub use preview::Preview;
pub use references::References;
pub use run::{Event, Made, Stage, Watch, generate};
pub use text::{Text, TextEncoders, TextParts, TextPlan};
