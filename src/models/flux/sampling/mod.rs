//! Everything of FLUX between prompt and picture that needs no GPU: noise, schedules, steps, latents and positions.
//!
//! A run without pictures as input goes
//!
//! ```
//! use impasto::models::flux::sampling::{Curve, Family, Latents, Profile, Schedule, Shift, Size, euler};
//! # fn main() -> impasto::Result<()> {
//! let size = Size::exact(64, 96)?;
//! let latents = Latents::new(Family::Flux2, size);
//! let noise = Profile::Comfy.noise(Family::Flux2, 42, 1).latents(latents.len());
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
mod noise;
mod recipe;
mod schedule;
mod size;
mod step;
#[cfg(test)]
mod tests;

pub use latents::{Latents, Statistics};
pub use noise::{Device, Generator, Noise, Precision, Profile};
pub use recipe::{AppliedLora, Recipe};
pub use schedule::{Curve, Schedule, Shift, empirical_mu, linear_mu};
pub use size::{Size, image_ids, text_ids};
pub use step::{add_noise, euler, true_cfg};

/// The two generations, which differ in their latents, their statistics, their positions and their noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// schnell, dev, Krea, Kontext, Fill, Canny, Depth: 16 latent channels.
    Flux1,
    /// klein and dev of FLUX.2: 32 latent channels.
    Flux2,
}
