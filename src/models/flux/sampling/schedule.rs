//! Which noise levels a run passes through.

use crate::error::{Result, bail, ensure};

/// How a model's noise levels are spread over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// Even steps: FLUX.1 schnell.
    Linear,
    /// Shifted by the picture's size: FLUX.1 dev and all that were made from it.
    Flux1,
    /// Shifted by the picture's size and the number of steps: FLUX.2.
    Flux2,
}

/// Whose schedule is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shift {
    /// As Black Forest Labs and diffusers: the shift follows the size. Equal to diffusers to the bit.
    #[default]
    Bfl,
    /// As ComfyUI's `simple` scheduler: FLUX.1 dev has a shift of 1.15 at any size, and levels come from a table of 10000
    /// (schnell: 1000). FLUX.2 is as [`Shift::Bfl`], which is what its `Flux2Scheduler` node computes.
    Comfy,
}

impl Shift {
    /// Every schedule.
    pub const ALL: [Self; 2] = [Self::Bfl, Self::Comfy];

    /// The name on the command line and in metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bfl => "bfl",
            Self::Comfy => "comfy",
        }
    }

    /// The schedule of this name.
    ///
    /// # Errors
    /// `Argument` for any other name, with those that there are.
    pub fn from_name(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|s| s.name() == name) {
            Some(shift) => Ok(shift),
            None => bail!(Argument, "no schedule '{name}': use {}", Self::ALL.map(Self::name).join(" or ")),
        }
    }
}

/// Falling noise levels `sigma` from 1 (only noise) to 0 (the picture), one more than there are steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    sigmas: Vec<f32>,
}

impl Schedule {
    /// The levels of `steps` steps for a picture of `tokens` packed latents. Reference pictures do not count.
    ///
    /// # Errors
    /// `Argument` for 0 steps, or more than 1000.
    pub fn new(curve: Curve, shift: Shift, tokens: usize, steps: usize) -> Result<Self> {
        ensure!((1..=1000).contains(&steps), Argument, "{steps} steps: a picture takes 1 to 1000");
        let mut sigmas = match (shift, curve) {
            (_, Curve::Flux2) => shifted(empirical_mu(tokens, steps), steps),
            (Shift::Bfl, Curve::Flux1) => shifted(linear_mu(tokens), steps),
            (Shift::Bfl, Curve::Linear) => even(steps),
            (Shift::Comfy, Curve::Flux1) => from_table(10_000, steps, |t| {
                let e = 1.15_f64.exp() as f32;
                // PyTorch divides a number by a tensor as the tensor's reciprocal times the number.
                (1.0 / (e + (1.0 / t - 1.0))) * e
            }),
            (Shift::Comfy, Curve::Linear) => from_table(1000, steps, |t| t),
        };
        sigmas.push(0.0);
        Ok(Self { sigmas })
    }

    /// The last part of the schedule, for a run that begins with a picture: `strength` 1 passes through all of it, 0.6 through
    /// the last 60 % of the steps, rounded up (diffusers' `get_timesteps`, in the same double precision).
    ///
    /// # Errors
    /// `Argument` if `strength` is not in 0..=1, or no step would be left.
    pub fn at_strength(&self, strength: f64) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&strength), Argument, "a strength of {strength} is not in 0..=1");
        let steps = self.steps() as f64;
        let first = (steps - (steps * strength).min(steps)).max(0.0) as usize;
        ensure!(
            first < self.steps(),
            Argument,
            "a strength of {strength} leaves none of {} steps: raise one of the two",
            self.steps()
        );
        Ok(Self { sigmas: self.sigmas[first..].to_vec() })
    }

    /// Steps from the first level to 0, at least 1.
    pub fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// All levels, the last of which is 0.
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The level at which `step` begins, which is also the time `t` in 0..=1 that the transformer is told.
    pub fn sigma(&self, step: usize) -> f32 {
        self.sigmas[step]
    }

    /// What `step` adds to the level, below 0: the factor of the velocity in [`euler`](super::euler).
    pub fn delta(&self, step: usize) -> f32 {
        self.sigmas[step + 1] - self.sigmas[step]
    }
}

/// FLUX.1's shift: linear in the tokens, 0.5 at 256 (256 x 256 pixels), 1.15 at 4096 (1024 x 1024).
pub fn linear_mu(tokens: usize) -> f64 {
    let slope = (1.15 - 0.5) / (4096.0 - 256.0);
    let at_zero = 0.5 - slope * 256.0;
    tokens as f64 * slope + at_zero
}

/// FLUX.2's shift (`compute_empirical_mu`): two lines fitted for 10 and 200 steps, between which the number of steps
/// interpolates; beyond 4300 tokens that of 200 steps alone, so it jumps there.
pub fn empirical_mu(tokens: usize, steps: usize) -> f64 {
    let tokens = tokens as f64;
    let at_200 = 0.000_169_27 * tokens + 0.456_666_66;
    if tokens > 4300.0 {
        return at_200;
    }
    let at_10 = 8.738_095_24e-5 * tokens + 1.898_333_33;
    let slope = (at_200 - at_10) / 190.0;
    let at_zero = at_200 - 200.0 * slope;
    slope * steps as f64 + at_zero
}

/// `numpy.linspace(1, 1 / steps, steps)`.
fn even(steps: usize) -> Vec<f32> {
    let last = 1.0 / steps as f64;
    let step = (last - 1.0) / (steps.max(2) - 1) as f64;
    let mut levels: Vec<f32> = (0..steps).map(|i| (i as f64 * step + 1.0) as f32).collect();
    if steps > 1 {
        levels[steps - 1] = last as f32;
    }
    levels
}

/// The even levels, warped by `e^mu / (e^mu + (1 / t - 1))`.
fn shifted(mu: f64, steps: usize) -> Vec<f32> {
    let e = mu.exp() as f32;
    even(steps).into_iter().map(|t| e / (e + (1.0 / t - 1.0))).collect()
}

/// Every `size / steps`th level of a table of `warp(k / size)`, from its end.
fn from_table(size: usize, steps: usize, warp: impl Fn(f32) -> f32) -> Vec<f32> {
    let stride = size as f64 / steps as f64;
    (0..steps).map(|i| warp((size - (i as f64 * stride) as usize) as f32 / size as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    #[test]
    fn levels_are_the_references_bit_for_bit() {
        let reference = Fixture::open("sampling/schedules.safetensors");
        let names = reference.names();
        assert_eq!(names.len(), 120);
        for name in names {
            let parts: Vec<&str> = name.split('.').collect();
            let (curve, shift) = match parts[0] {
                "flux1" => (Curve::Flux1, Shift::Bfl),
                "flux2" => (Curve::Flux2, Shift::Bfl),
                "linear" => (Curve::Linear, Shift::Bfl),
                "comfy-flux1" => (Curve::Flux1, Shift::Comfy),
                _ => (Curve::Linear, Shift::Comfy),
            };
            let schedule = Schedule::new(curve, shift, parts[2].parse().unwrap(), parts[1].parse().unwrap()).unwrap();
            assert_eq!(schedule.sigmas(), reference.f32(&name).1, "{name}");
        }
    }

    #[test]
    fn levels_and_shifts_are_the_oracles() {
        let oracle = Fixture::open("sampling/oracle_schedulers.safetensors");
        let mut seen = [0; 2];
        for name in oracle.names() {
            let (steps, rest) = name.split_once(".n").unwrap().1.split_once('.').unwrap();
            let steps = steps.parse().unwrap();
            let side = rest.strip_prefix("hw").and_then(|r| r.split('.').next());
            let tokens = side.map_or(0, |s| (s.parse::<usize>().unwrap() / 16).pow(2));
            let (curve, mu) = match name.split('.').next().unwrap() {
                "flux1_dev" => (Curve::Flux1, linear_mu(tokens)),
                "flux2" => (Curve::Flux2, empirical_mu(tokens, steps)),
                _ => (Curve::Linear, 0.0),
            };
            let reference = oracle.f32(&name).1;
            if name.ends_with(".mu") {
                assert_eq!(mu as f32, reference[0], "{name}");
                seen[0] += 1;
            } else {
                let schedule = Schedule::new(curve, Shift::Bfl, tokens, steps).unwrap();
                assert_eq!(schedule.sigmas(), reference, "{name}");
                seen[1] += 1;
            }
        }
        assert_eq!(seen, [50, 55]);
    }

    #[test]
    fn published_values() {
        // Tokens, steps, mu and levels, as the research notes them from the authors' code and stable-diffusion.cpp's log.
        let near = |a: &[f32], b: &[f64]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6);
        for (tokens, mu, sigmas) in [
            (1024, 2.030690, [1.0, 0.958085, 0.883982, 0.717497, 0.0]),
            (4096, 2.291180, [1.0, 0.967384, 0.908144, 0.767200, 0.0]),
            (8160, 1.837910, [1.0, 0.949623, 0.862701, 0.676842, 0.0]),
        ] {
            assert!((empirical_mu(tokens, 4) - mu).abs() < 1e-6);
            assert!(near(Schedule::new(Curve::Flux2, Shift::Bfl, tokens, 4).unwrap().sigmas(), &sigmas));
        }
        assert!((empirical_mu(4096, 50) - 2.023351).abs() < 1e-6);
        for (tokens, mu) in [(256, 0.5), (1024, 0.63), (4096, 1.15), (8160, 1.837917)] {
            assert!((linear_mu(tokens) - mu).abs() < 1e-6);
        }
        let dev = Schedule::new(Curve::Flux1, Shift::Bfl, 4096, 4).unwrap();
        assert!(near(dev.sigmas(), &[1.0, 0.904531, 0.759511, 0.512844, 0.0]));
        // At 1024 x 1024 the two shifts agree, elsewhere not.
        let comfy = Schedule::new(Curve::Flux1, Shift::Comfy, 4096, 4).unwrap();
        assert!(near(comfy.sigmas(), &dev.sigmas().iter().map(|s| f64::from(*s)).collect::<Vec<_>>()));
        assert_ne!(Schedule::new(Curve::Flux1, Shift::Bfl, 1024, 4).unwrap(), comfy);
        let schnell = Schedule::new(Curve::Linear, Shift::Bfl, 4096, 4).unwrap();
        assert_eq!(schnell.sigmas(), [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!((schnell.delta(3), schnell.sigma(1)), (-0.25, 0.75));
    }

    #[test]
    fn strengths_leave_as_many_steps_as_in_diffusers() {
        let cases: Vec<(usize, f64, usize)> =
            serde_json::from_str(Fixture::open("sampling/strengths.json").text()).unwrap();
        assert_eq!(cases.len(), 54);
        for (steps, strength, left) in cases {
            let all = Schedule::new(Curve::Flux1, Shift::Bfl, 1024, steps).unwrap();
            match all.at_strength(strength) {
                Ok(part) => {
                    assert_eq!(part.steps(), left, "{steps} at {strength}");
                    assert_eq!(part.sigmas(), &all.sigmas()[steps - left..]);
                }
                Err(e) => assert_eq!((left, e.kind()), (0, crate::ErrorKind::Argument), "{steps} at {strength}"),
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for steps in [0, 1001] {
            assert!(Schedule::new(Curve::Linear, Shift::Bfl, 256, steps).is_err());
        }
        let schedule = Schedule::new(Curve::Linear, Shift::Bfl, 256, 4).unwrap();
        for strength in [-0.1, 1.1, f64::NAN] {
            assert!(schedule.at_strength(strength).is_err());
        }
        assert!(Shift::ALL.iter().all(|s| Shift::from_name(s.name()).unwrap() == *s));
        assert_eq!(Shift::from_name("karras").unwrap_err().to_string(), "no schedule 'karras': use bfl or comfy");
        assert_eq!(
            schedule.at_strength(0.0).unwrap_err().to_string(),
            "a strength of 0 leaves none of 4 steps: raise one of the two"
        );
    }
}
