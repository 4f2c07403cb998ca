//! Where a picture begins: noise from a seed, as the programs that people compare with draw it.

use super::{super::Version, cpu_noise::CpuNoise, cuda_noise::CudaNoise};
use crate::error::{Result, bail};
use half::bf16;

/// The type that the reference draws in. What is drawn is given back in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    F32,
    /// bf16 as PyTorch draws it today: normals of f32, rounded.
    Bf16,
    /// bf16 as PyTorch up to 2.7 drew it on the CPU: 8 bits of uniform number, every step rounded, nothing beyond 3.33.
    /// On CUDA as [`Precision::Bf16`].
    Bf16Narrow,
}

impl Precision {
    pub(super) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 | Self::Bf16Narrow => bf16::from_f32(value).to_f32(),
        }
    }
}

/// The device whose generator is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// `torch.Generator("cpu")`: the same numbers everywhere.
    Cpu,
    /// `torch.Generator("cuda")`, to 1 or 2 units in the last place.
    Cuda {
        /// Threads that the GPU runs at once: its multiprocessors times the threads of one (196608 on an RTX 4090,
        /// 221184 on an A100, 270336 on an H100). Draws larger than that depend on it.
        resident_threads: usize,
    },
}

/// A seeded generator of normal numbers: `torch.Generator`, asked by `torch.randn`.
#[derive(Debug, Clone)]
pub struct Generator(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Cpu(CpuNoise),
    Cuda(CudaNoise),
}

impl Generator {
    /// `torch.Generator(device).manual_seed(seed)`. Of the seed, the CPU uses the lower 32 bits.
    pub fn new(device: Device, seed: u64) -> Self {
        Self(match device {
            Device::Cpu => Kind::Cpu(CpuNoise::new(seed)),
            Device::Cuda { resident_threads } => Kind::Cuda(CudaNoise::new(seed, resident_threads)),
        })
    }

    /// `torch.randn(count)` in this type; the shape does not matter, only how many there are. A second call goes on where
    /// the first ended, and is not the same as one call for both.
    pub fn normal(&mut self, count: usize, precision: Precision) -> Vec<f32> {
        match &mut self.0 {
            Kind::Cpu(cpu) => cpu.normal(count, precision),
            Kind::Cuda(cuda) => cuda.normal(count).into_iter().map(|v| precision.round(v)).collect(),
        }
    }
}

/// Whose pictures a seed gives. All are drawn in the shape of the reference's latents (see
/// [`Latents::tokens_of_noise`](super::Latents::tokens_of_noise)).
///
/// | profile | generator | type | a batch of `n` |
/// |---|---|---|---|
/// | `diffusers` | CPU | f32 | one draw for all, as with one `generator` and `num_images_per_prompt=n` |
/// | `diffusers-bf16` | CPU | bf16 | the same, pipeline loaded with `torch_dtype=torch.bfloat16` |
/// | `comfy` | CPU | f32 | one draw for all, as `batch_size` of the empty latent |
/// | `bfl` | CPU for FLUX.1, CUDA for FLUX.2 | bf16 | picture `i` has a generator of its own, of `seed + i` |
///
/// bf16 is that of today's PyTorch. They differ also in the latents of an input picture: for FLUX.1, `diffusers` and
/// `diffusers-bf16` draw a sample of the autoencoder's posterior, from the same generator and before the noise. The others
/// take its mean (what ComfyUI may draw there does not follow from the seed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// A diffusers pipeline in f32 with a CPU generator.
    #[default]
    Diffusers,
    /// A diffusers pipeline in bf16 with a CPU generator.
    DiffusersBf16,
    /// ComfyUI.
    Comfy,
    /// The command lines of Black Forest Labs; FLUX.2's on an H100.
    Bfl,
}

/// Threads of the GPU that is assumed where noise depends on it.
const H100: usize = 132 * 2048;

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 4] = [Self::Diffusers, Self::DiffusersBf16, Self::Comfy, Self::Bfl];

    /// The name on the command line and in metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::DiffusersBf16 => "diffusers-bf16",
            Self::Comfy => "comfy",
            Self::Bfl => "bfl",
        }
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// `Argument` for any other name, with those that there are.
    pub fn from_name(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|p| p.name() == name) {
            Some(profile) => Ok(profile),
            None => {
                bail!(Argument, "no noise profile '{name}': use {}", Self::ALL.map(Self::name).join(", "))
            }
        }
    }

    /// The generators of `images` pictures from `seed`.
    pub fn noise(self, version: Version, seed: u64, images: usize) -> Noise {
        let device = match (self, version) {
            (Self::Bfl, Version::Flux2) => Device::Cuda { resident_threads: H100 },
            _ => Device::Cpu,
        };
        let precision = match self {
            Self::Diffusers | Self::Comfy => Precision::F32,
            Self::DiffusersBf16 | Self::Bfl => Precision::Bf16,
        };
        let generator = |i| Generator::new(device, seed.wrapping_add(i));
        let (generators, together) = match self {
            Self::Bfl => ((0..images as u64).map(generator).collect(), 1),
            _ => (vec![generator(0)], images),
        };
        let samples_posterior = matches!(self, Self::Diffusers | Self::DiffusersBf16) && version == Version::Flux1;
        Noise { generators, together, precision, samples_posterior }
    }
}

/// The generators of one run, to be asked in the reference's order: first for the posterior, if there is an input
/// picture, then for the latents.
#[derive(Debug, Clone)]
pub struct Noise {
    generators: Vec<Generator>,
    /// Pictures that one draw of one generator makes.
    together: usize,
    precision: Precision,
    samples_posterior: bool,
}

impl Noise {
    /// Noise for a sample of the autoencoder's posterior, `mean + std * noise`, of the one input picture that all share;
    /// nothing where the mean is taken.
    pub fn posterior(&mut self, count: usize) -> Option<Vec<f32>> {
        let generator = self.generators.first_mut().filter(|_| self.samples_posterior)?;
        Some(generator.normal(count, self.precision))
    }

    /// The noise of all pictures, `(images, count)` with `count` elements each.
    pub fn latents(&mut self, count: usize) -> Vec<f32> {
        let (count, precision) = (self.together * count, self.precision);
        self.generators.iter_mut().flat_map(|g| g.normal(count, precision)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::Fixture;

    fn crc(values: &[f32]) -> [u8; 4] {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        crc32fast::hash(&bytes).to_le_bytes()
    }

    #[test]
    fn draws_are_torchs_bit_for_bit() {
        let torch = Fixture::open("sampling/noise.safetensors");
        let mut counts = [0; 2];
        for name in torch.names() {
            let parts: Vec<&str> = name.split('.').collect();
            let precision = match parts[0] {
                "f32" => Precision::F32,
                "bf16" => Precision::Bf16,
                "narrow" => Precision::Bf16Narrow,
                _ => continue,
            };
            let (seed, count) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
            let drawn = Generator::new(Device::Cpu, seed).normal(count, precision);
            assert_eq!(drawn.len(), count);
            if parts.get(3) == Some(&"crc") {
                assert_eq!(torch.u8(&name).1, crc(&drawn), "{name}");
                counts[1] += 1;
            } else {
                assert_eq!(torch.f32(&name).1, drawn, "{name}");
                counts[0] += 1;
            }
        }
        assert_eq!(counts, [37, 7]);
    }

    #[test]
    fn a_generator_goes_on_as_torchs() {
        let torch = Fixture::open("sampling/noise.safetensors");
        let mut generator = Generator::new(Device::Cpu, 3);
        let mut drawn = Vec::new();
        for (count, precision) in [
            (5, Precision::F32),
            (5, Precision::Bf16),
            (20, Precision::F32),
            (3, Precision::F32),
            (35, Precision::Bf16),
            (4, Precision::F32),
        ] {
            drawn.extend(generator.normal(count, precision));
        }
        assert_eq!(torch.f32("sequence").1, drawn);
    }

    #[test]
    fn vectors_of_the_research() {
        let seed_0 = Generator::new(Device::Cpu, 0).normal(64, Precision::F32);
        let known = [-1.12584, -1.15236, -0.250579, -0.433879, 0.84871, 0.692009, -0.316013, -2.115219];
        assert!(seed_0.iter().zip(known).all(|(a, b)| (a - b).abs() < 1e-6), "{seed_0:?}");
        let seed_42 = Generator::new(Device::Cpu, 42).normal(262_144, Precision::F32);
        let known = [-1.301058, 0.608102, -1.762246, -2.329417];
        assert!(seed_42[262_140..].iter().zip(known).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn batches_are_those_of_the_profile() {
        let one = |seed| Generator::new(Device::Cpu, seed).normal(1024, Precision::F32);
        let batch = Profile::Comfy.noise(Version::Flux2, 5, 3).latents(1024);
        // One draw: its first picture is that of a batch of one, as long as a picture is whole groups of 16.
        assert_eq!((batch.len(), &batch[..1024]), (3072, one(5).as_slice()));
        assert!(!batch.chunks(1024).any(|p| p == one(6)));

        let bfl = Profile::Bfl.noise(Version::Flux1, 5, 2).latents(1024);
        let rounded = |v: Vec<f32>| v.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect::<Vec<_>>();
        assert_eq!(bfl, [rounded(one(5)), rounded(one(6))].concat());
        let cuda = Profile::Bfl.noise(Version::Flux2, 0, 1).latents(1024);
        assert!((cuda[0] + 0.924_663).abs() < 4e-3, "{}", cuda[0]);
    }

    #[test]
    fn the_posterior_comes_first_from_the_same_generator() {
        let mut noise = Profile::Diffusers.noise(Version::Flux1, 11, 2);
        let posterior = noise.posterior(512).unwrap();
        let latents = noise.latents(512);
        let all = Generator::new(Device::Cpu, 11).normal(512 * 3, Precision::F32);
        assert_eq!([posterior, latents].concat(), all);
        for (profile, version) in [(Profile::Diffusers, Version::Flux2), (Profile::Comfy, Version::Flux1)] {
            assert_eq!(profile.noise(version, 11, 1).posterior(512), None);
        }
    }

    #[test]
    fn profiles_go_by_their_names() {
        for profile in Profile::ALL {
            assert_eq!(Profile::from_name(profile.name()).unwrap(), profile);
        }
        let e = Profile::from_name("a1111").unwrap_err();
        assert_eq!(e.to_string(), "no noise profile 'a1111': use diffusers, diffusers-bf16, comfy, bfl");
    }
}
