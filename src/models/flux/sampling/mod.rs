//! Everything of FLUX between prompt and picture that needs no GPU: noise, schedules, steps, latents and positions.
//!
//! A run without pictures as input goes
//!
//! ```
//! use impasto::models::flux::{Version, sampling::{Curve, Latents, Profile, Schedule, Shift, Size, euler}};
//! # fn main() -> impasto::Result<()> {
//! let size = Size::exact(64, 96)?;
//! let latents = Latents::new(Version::Flux2, size);
//! let noise = Profile::Comfy.noise(Version::Flux2, 42, 1).latents(latents.len());
//! let mut tokens = latents.tokens_of_noise(&noise)?;
//! let schedule = Schedule::new(Curve::Flux2, Shift::Bfl, size.tokens(), 4)?;
//! for step in 0..schedule.steps() {
//!     let velocity = vec![0.0; tokens.len()]; // of the transformer, at schedule.sigma(step)
//!     euler(&mut tokens, &velocity, schedule.delta(step))?;
//! }
//! # Ok(()) }
//! ```

mod cpu_noise;
mod cuda_noise;
mod latents;
mod mask;
mod noise;
mod recipe;
mod schedule;
mod size;
mod step;
#[cfg(test)]
mod tests;

pub use latents::{Latents, Statistics};
pub use mask::{FILL_FEATURES, fill_mask, latent_mask};
pub use noise::{Device, Generator, Noise, Precision, Profile};
pub use recipe::{AppliedLora, Recipe};
pub use schedule::{Curve, Schedule, Shift, empirical_mu, linear_mu};
pub use size::{Size, image_ids, text_ids};
pub use step::{add_noise, euler, keep, true_cfg};
