//! `torch.randn` of PyTorch's CUDA generator: Philox 4x32-10 as cuRAND runs it, one counter a thread.
//!
//! Which thread makes which element depends on how many threads the GPU runs at once, so a seed gives the same picture on
//! two GPUs only if the latents are no larger than either's number of threads, or that number is the same.
//! (`aten/src/ATen/native/cuda/DistributionTemplates.h`; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".)

/// Threads of a block in PyTorch's random kernels.
const BLOCK: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct CudaNoise {
    key: [u32; 2],
    /// Random numbers that every thread has used up so far.
    offset: u64,
    resident_threads: usize,
}

impl CudaNoise {
    /// `resident_threads` is rounded down to whole blocks, of which there is at least one.
    pub(super) fn new(seed: u64, resident_threads: usize) -> Self {
        let resident_threads = (resident_threads / BLOCK).max(1) * BLOCK;
        Self { key: [seed as u32, (seed >> 32) as u32], offset: 0, resident_threads }
    }

    /// Rounding is left to the caller: PyTorch makes f32 here for every type.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        let threads = count.next_multiple_of(BLOCK).clamp(BLOCK, self.resident_threads);
        let rounds = count.div_ceil(threads * 4);
        let mut out = vec![0.0; count];
        for round in 0..rounds {
            let counter = self.offset / 4 + round as u64;
            for thread in 0..threads.min(count - round * threads * 4) {
                let bits = philox([counter as u32, (counter >> 32) as u32, thread as u32, 0], self.key);
                for (i, value) in normals(bits).into_iter().enumerate() {
                    if let Some(place) = out.get_mut((round * 4 + i) * threads + thread) {
                        *place = value;
                    }
                }
            }
        }
        self.offset += rounds as u64 * 4;
        out
    }
}

/// Ten rounds of Philox 4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let [a, b, c, d] = counter;
        let (p, q) = (u64::from(a) * 0xd251_1f53, u64::from(c) * 0xcd9e_8d57);
        counter = [(q >> 32) as u32 ^ b ^ key[0], q as u32, (p >> 32) as u32 ^ d ^ key[1], p as u32];
    }
    counter
}

/// Box-Muller on two pairs, sine first (`curand_normal4`). CUDA's own `logf`, `sinf` and `cosf` are not known to the bit:
/// these are the correctly rounded ones, which are within 1 or 2 units in the last place of them.
fn normals([a, b, c, d]: [u32; 4]) -> [f32; 4] {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    const TURN: f32 = SCALE * std::f32::consts::TAU;
    let pair = |x: u32, y: u32| {
        let u = (x as f32).mul_add(SCALE, SCALE / 2.0);
        let v = (y as f32).mul_add(TURN, TURN / 2.0);
        let radius = (-2.0 * f64::from(u).ln()).sqrt();
        let (sin, cos) = f64::from(v).sin_cos();
        [(radius * sin) as f32, (radius * cos) as f32]
    };
    let ([p, q], [r, s]) = (pair(a, b), pair(c, d));
    [p, q, r, s]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        let ones = u32::MAX;
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn small_draws_are_those_of_a_gpu() {
        // torch.randn(4, device="cuda") of two seeds, as a GPU printed them.
        for (seed, known) in [(0, [-0.9247, -0.4253, -2.6438, 0.1452]), (42, [0.1940, 2.1614, -0.1721, 0.8491])] {
            let drawn = CudaNoise::new(seed, 1 << 16).normal(4);
            assert!(drawn.iter().zip(known).all(|(a, b)| (a - b).abs() < 6e-5), "{drawn:?}");
        }
    }

    #[test]
    fn more_elements_than_threads_take_each_threads_next_numbers() {
        let wide = CudaNoise::new(7, 1 << 16).normal(2048);
        let narrow = CudaNoise::new(7, 512 + 255).normal(2048 + 300);
        assert_eq!(narrow[..512], wide[..512]);
        for thread in 0..512 {
            let first = normals(philox([0, 0, thread as u32, 0], [7, 0]));
            for (i, value) in first.into_iter().enumerate() {
                assert_eq!(narrow[i * 512 + thread], value);
            }
            let second = normals(philox([1, 0, thread as u32, 0], [7, 0]));
            assert!(narrow.get(2048 + thread).is_none_or(|v| *v == second[0]));
        }
    }

    #[test]
    fn a_second_draw_goes_on_after_the_first() {
        let mut one = CudaNoise::new(9, 1 << 16);
        let first = one.normal(300);
        let second = one.normal(300);
        assert_ne!(first, second);
        assert_eq!(second[5], normals(philox([1, 0, 5, 0], [9, 0]))[0]);
    }
}
