//! What a step depends on besides picture and text: timestep, guidance and pooled text, to the vectors that modulate
//! every block. After `MLPEmbedder`, `timestep_embedding` and `Modulation` of black-forest-labs/flux.
//!
//! The vectors of all steps are computed before sampling, layer by layer: in FLUX.1 these layers are 3.2 of 11.9 billion
//! weights, and none of them stays on the device.

use super::{
    config::Config,
    lora::{self, Lora},
    tensors::TIME_DIM,
};
use crate::{
    error::{Result, ensure},
    gpu::Gpu,
    graph::{BindOptions, Control, Graph, Value},
    kernels::matmul::Activation,
    nn::{
        Storage,
        projection::{Apply, Parameters, Projection, Selection, Tokens},
    },
    shape::DType,
    weights::Weights,
};

/// What one step of one picture depends on.
#[derive(Debug, Clone)]
pub struct Condition {
    /// From 1, noise, to 0, picture.
    pub timestep: f32,
    /// The strength of guidance, where the model takes it.
    pub guidance: Option<f32>,
    /// Pooled text features, where the model takes them.
    pub pooled: Option<Vec<f32>>,
}

/// What becomes of some conditions, one after the other.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// `hidden` features each: the sum of the embeddings (`vec`).
    pub vec: Vec<Vec<f32>>,
    /// Shifts, scales and gates of every block, [`Config::vectors`] times `hidden` elements each.
    pub vectors: Vec<Vec<f32>>,
}

impl Vectors {
    /// The vectors of a batch of `conditions`, by number, as a step takes them: `(vectors, batch, stride)`, where a stride is
    /// `hidden` and zeros up to a multiple of 64.
    ///
    /// # Panics
    /// For a condition that does not exist.
    pub fn batch(&self, c: &Config, conditions: &[usize]) -> Vec<f32> {
        let zeros = c.vector_stride() - c.hidden;
        let one = |v: &[f32]| v.iter().copied().chain(std::iter::repeat_n(0.0, zeros)).collect::<Vec<f32>>();
        let vector = |v: usize| conditions.iter().flat_map(move |i| one(&self.vectors[*i][v * c.hidden..][..c.hidden]));
        (0..c.vectors()).flat_map(vector).collect()
    }
}

/// `[cos | sin]` of `1000 t` at 128 frequencies. `t` is a timestep or a guidance strength. Frequencies and angles are
/// rounded to f32 as in the reference: guidance 30 has angles of 30,000, whose rounding is 1e-3.
fn sinusoid(t: f32) -> impl Iterator<Item = f32> {
    let half = TIME_DIM / 2;
    let angle = move |i: usize| {
        let exponent = -(1e4f64.ln() as f32) * i as f32 / half as f32;
        f64::from(1000.0 * t * f64::from(exponent).exp() as f32)
    };
    (0..half).map(move |i| angle(i).cos() as f32).chain((0..half).map(move |i| angle(i).sin() as f32))
}

/// [`vectors_with`] no LoRAs.
///
/// # Errors
/// Those of [`vectors_with`].
pub async fn vectors(gpu: &Gpu, w: &Weights, c: &Config, conditions: &[Condition]) -> Result<Vectors> {
    vectors_with(gpu, w, c, conditions, &[]).await
}

/// Computes the vectors of `conditions`, in f32 whatever the storage of the blocks. LoRAs, each with its strength, may change
/// the layers that do.
///
/// # Errors
/// `Argument` if a condition lacks what the model takes; `Weights`, `OutOfMemory`, and what the device reports.
pub async fn vectors_with(
    gpu: &Gpu,
    w: &Weights,
    c: &Config,
    conditions: &[Condition],
    loras: &[(Lora, f32)],
) -> Result<Vectors> {
    let adapters = lora::adapters(loras);
    let p = Parameters::new(gpu, Storage::AsStored).with(&adapters);
    let m = conditions.len();
    ensure!(m > 0, Argument, "no conditions");
    let mut guidance = Vec::new();
    let mut pooled = Vec::new();
    for condition in conditions {
        if c.guidance {
            let Some(strength) = condition.guidance else { return missing("a guidance strength") };
            guidance.extend(sinusoid(strength));
        }
        if let Some(features) = c.pooled {
            match &condition.pooled {
                Some(values) if values.len() == features => pooled.extend_from_slice(values),
                _ => return missing(&format!("{features} pooled text features")),
            }
        }
    }
    let times: Vec<f32> = conditions.iter().flat_map(|c| sinusoid(c.timestep)).collect();

    let mut g = Graph::new(gpu.target());
    let (mut inputs, mut vec) = (Vec::new(), None);
    for (name, values) in [("time_in", &times), ("guidance_in", &guidance), ("vector_in", &pooled)] {
        if !values.is_empty() {
            let x = g.input(name, [1, m, values.len() / m], DType::F32);
            inputs.push((x, bytemuck::cast_slice(values)));
            vec = Some(g.scope(name, |g| embed(g, &p, &w.at(name), c, x, vec))?);
        }
    }
    let Some(vec) = vec else { return missing("a timestep") };
    let vec = play(gpu, g, &inputs, vec).await?;

    let activated: Vec<f32> = vec.iter().map(|&v| (f64::from(v) / (1.0 + f64::from(-v).exp())) as f32).collect();
    let mut vectors = vec![Vec::with_capacity(c.vectors() * c.hidden); m];
    for (name, count) in c.modulations() {
        // diffusers stores the final layer's two halves the other way round.
        let swapped = format!("{name}.swapped");
        let is_swapped = !w.at(&name).has("weight");
        let layer = if is_swapped { &swapped } else { &name };
        let n = count * c.hidden;
        let all = Selection::of(layer, n, c.hidden, c.bias());
        let lin = Projection::load(&p, w, &Selection { name: &name, swapped: is_swapped, ..all })?;
        let mut g = Graph::new(gpu.target());
        let x = g.input("vec", [1, m, c.hidden], DType::F32);
        let y = g.scope(&name, |g| {
            let x = Tokens::all(g, x)?;
            lin.run(g, x, Apply::default())
        })?;
        let y = play(gpu, g, &[(x, bytemuck::cast_slice(&activated))], y).await?;
        vectors.iter_mut().zip(y.chunks(n)).for_each(|(of_one, values)| of_one.extend_from_slice(values));
    }
    Ok(Vectors { vec: vec.chunks(c.hidden).map(<[f32]>::to_vec).collect(), vectors })
}

fn missing<T>(what: &str) -> Result<T> {
    crate::error::bail!(Argument, "this transformer takes {what} for every step")
}

/// `MLPEmbedder` of `x (1, m, features)`, added to `sum`.
fn embed(g: &mut Graph, p: &Parameters<'_>, w: &Weights, c: &Config, x: Value, sum: Option<Value>) -> Result<Value> {
    let x = Tokens::all(g, x)?;
    let features = g.shape(x.value).rows_cols().1;
    let in_layer = Projection::load(p, w, &Selection::of("in_layer", c.hidden, features, c.bias()))?;
    let out_layer = Projection::load(p, w, &Selection::of("out_layer", c.hidden, c.hidden, c.bias()))?;
    let y = in_layer.run(g, x, Apply { activation: Activation::Silu, ..Apply::default() })?;
    let y = Tokens::all(g, y)?;
    let residual = match sum {
        Some(sum) => Some(Tokens::all(g, sum)?),
        None => None,
    };
    out_layer.run(g, y, Apply { residual, ..Apply::default() })
}

/// Binds and plays a recording once, for its only result.
async fn play(gpu: &Gpu, mut g: Graph, inputs: &[(Value, &[u8])], y: Value) -> Result<Vec<f32>> {
    g.output(y, "y");
    let mut bound = g.plan()?.bind(gpu, &BindOptions::default())?;
    Ok(bound.run_f32(inputs, &[y], Control::default()).await?.swap_remove(0))
}

#[cfg(test)]
mod tests {
    use crate::models::flux::config::{Config, RELEASED};

    #[test]
    fn vectors_of_odd_widths_begin_at_multiples_of_256_bytes() {
        let c = Config { hidden: 48, ..RELEASED[0].1.clone() };
        let count = c.vectors();
        let vectors = (0..2).map(|i| (0..count * 48).map(|j| (i * 1000 + j) as f32).collect()).collect();
        let batch = super::Vectors { vec: Vec::new(), vectors }.batch(&c, &[1, 0]);
        assert_eq!(batch.len(), count * 2 * 64);
        assert_eq!(batch[64 * 3], 48.0, "vector 1 of condition 0");
        assert!(batch[64 * 3 + 48..64 * 4].iter().all(|&v| v == 0.0));
    }

    #[test]
    fn sinusoids_are_cosines_first() {
        let s: Vec<f32> = super::sinusoid(0.25).collect();
        assert_eq!(s.len(), 256);
        for i in [0, 127usize] {
            let angle = 250.0 * 1e4f64.powf(-(i as f64) / 128.0);
            assert!((f64::from(s[i]) - angle.cos()).abs() < 1e-6, "cos {i}");
            assert!((f64::from(s[128 + i]) - angle.sin()).abs() < 1e-6, "sin {i}");
        }
    }
}
