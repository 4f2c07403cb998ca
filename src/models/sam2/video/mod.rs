//! SAM 2 on video: objects followed through frames by memories of them.
//!
//! ```no_run
//! use impasto::gpu::{self, Gpu};
//! use impasto::graph::Control;
//! use impasto::image::Picture;
//! use impasto::models::sam2::{Prompt, mini, video::{Options, Session}};
//!
//! # async fn follow() -> impasto::Result<()> {
//! let gpu = Gpu::open(&gpu::Options::from_env()).await?;
//! let (config, weights) = mini()?;
//! let mut session = Session::new(&gpu, config, &weights, Options::default()).await?;
//! // An object is clicked on frame 0, on which it is then tracked as on all others.
//! session.set_frame(0, &Picture::load("0.png")?, Control::default()).await?;
//! session.prompt(1, &Prompt::point(210.0, 150.0), false, Control::default()).await?;
//! session.track(false, Control::default()).await?;
//! for index in 1..100 {
//!     let picture = Picture::load(format!("{index}.png"))?;
//!     for found in session.step(index, &picture, false, Control::default()).await? {
//!         println!("object {}: {} pixels, score {:.1}", found.object, found.mask()?.area(), found.score);
//!     }
//! }
//! // To go on another day.
//! let file = session.save(Control::default()).await?;
//! session.restore(&file)?;
//! # Ok(())
//! # }
//! ```

mod bank;
mod choice;
#[cfg(not(target_arch = "wasm32"))]
pub mod clip;
mod device;
mod directions;
mod graphs;
mod layout;
mod model;
mod object;
mod options;
mod prompting;
mod recall;
mod saved;
mod session;
#[cfg(test)]
mod tests;
mod tracked;
mod workload;

pub use options::{MaskPrompts, Options};
pub use session::Session;
pub use tracked::Tracked;
pub use workload::recordings;
