//! What a device can do at best: the roofs for `impasto bench`. Shader: `roofline.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    iterations: u32,
    count: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "roofline",
    source: wgsl!("roofline"),
    params: size_of::<Params>(),
    variants: &[
        Variant {
            name: "half",
            class: Class::Gpu,
            defines: &[("THREADS", 128), ("CHAINS", 12), ("UNROLL", 16), ("F16", 1)],
            subgroup: None,
        },
        Variant {
            name: "chains12",
            class: Class::Gpu,
            defines: &[("THREADS", 128), ("CHAINS", 12), ("UNROLL", 16)],
            subgroup: None,
        },
    ],
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// f32 multiply-adds in registers.
    Fma,
    /// The same in pairs of f16; of f32 where shaders have no f16.
    Half,
    /// Dot products of four packed 8-bit integers.
    Dot4,
    /// Reads of workgroup memory, four f32 each.
    Workgroup,
    /// A copy in device memory.
    Memory,
}

/// Invocations that read past the window of a [`Probe::Workgroup`] turn: `UNROLL` of them, four reads each.
const WINDOW: usize = 128 - 4 * 16;

/// One probe: `iterations` turns of its loop on each of `invocations` (a multiple of 128).
///
/// `x`: f32, at least 4, for [`Probe::Memory`] a multiple of 4; the result: `(invocations)`, or a copy of `x`. The
/// operations of the recorded dispatch are multiply-adds, twice the products of a dot product, or bytes that move.
///
/// # Errors
/// `Shape` if `x` is too short.
pub fn roofline(g: &mut Graph, x: Value, probe: Probe, iterations: usize, invocations: usize) -> Result<Value> {
    g.call(&KERNEL, &(x, probe, iterations, invocations))?;
    let count = g.shape(x).count();
    ensure!(count >= 4 && count.is_multiple_of(4), Shape, "roofline: {count} values");
    ensure!(invocations > 0 && invocations.is_multiple_of(128), Shape, "roofline: {invocations} invocations");
    expect_f32(g, KERNEL.name, &[x])?;
    let variant = KERNEL.choose(g.target(), |v| probe == Probe::Half || v.name != "half")?;
    let (chains, unroll) = (u64::from(variant.get("CHAINS")), u64::from(variant.get("UNROLL")));
    let turns = (iterations * invocations) as u64;
    let (y, groups, operations) = match probe {
        Probe::Fma => (invocations, invocations / 128, 2 * turns * chains * unroll),
        Probe::Half => (invocations, invocations / 128, 4 * turns * chains * unroll),
        Probe::Dot4 => (invocations, invocations / 128, 8 * turns * chains * unroll),
        Probe::Workgroup => (invocations, invocations / 128, 16 * turns * 4 * unroll),
        Probe::Memory => (count, count.div_ceil(4 * 4 * 128), 8 * count as u64),
    };
    let y = g.temp([y], DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines: vec![("PROBE", probe as i64)],
        params: bytes_of(&Params { iterations: iterations as u32, count: (count / 4) as u32 }).to_vec(),
        reads: vec![x],
        writes: vec![y],
        grid: [groups as u32, 1, 1],
        flops: operations,
        scope: String::new(),
    })?;
    Ok(y)
}

fn twin(x: &[f32], probe: Probe, iterations: usize, invocations: usize) -> Vec<f32> {
    let one = |i: usize| match probe {
        Probe::Fma => {
            let end = |c: usize| (0..16 * iterations).fold(x[c % 4] + c as f32, |a, _| a.mul_add(x[i & 1], x[2]));
            (0..12).map(end).sum()
        }
        Probe::Half => {
            let end = |c: usize, lane: usize| {
                (0..16 * iterations).fold(x[c % 4], |a, _| a.mul_add(x[(i + lane) & 1], x[2 + lane]))
            };
            (0..12).map(|c| end(c, 0) + end(c, 1)).sum()
        }
        Probe::Dot4 => {
            let b = x[i & 3].to_bits().to_le_bytes();
            let dot =
                |a: i32| a.to_le_bytes().iter().zip(b).map(|(&a, b)| i32::from(a as i8) * i32::from(b as i8)).sum();
            let end = |c: i32| (0..16 * iterations).fold(c + 1, |a, _| a.wrapping_add(dot(a)));
            ((0..12).fold(0, |sum, c| sum ^ end(c)) & 0xffff) as f32
        }
        Probe::Workgroup => {
            let group = i / 128 * 128;
            let read = |at: usize| if at < 128 { x[(group + at) & 3] + 6.0 } else { 4.0 * x[(group + at - 128) & 3] };
            let turns = (0..iterations).flat_map(|n| (0..64).map(move |u| i % 128 + n % WINDOW + u));
            turns.map(|at| f64::from(read(at))).sum::<f64>() as f32
        }
        Probe::Memory => x[i],
    };
    (0..if probe == Probe::Memory { x.len() } else { invocations }).map(one).collect()
}

/// Every probe, a few turns.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(0x500F);
    let mut case = |probe: Probe, count: usize, iterations: usize, invocations: usize, nmse: f64| {
        Case::new(
            format!("{probe:?} {count} values, {iterations} turns of {invocations}"),
            vec![Input::f32([count], random.values(count))],
            nmse,
            move |g, v| Ok(vec![roofline(g, v[0], probe, iterations, invocations)?]),
            move |inputs| vec![twin(&inputs[0].values, probe, iterations, invocations)],
        )
    };
    vec![
        case(Probe::Fma, 4, 3, 256, 1e-11),
        // Sixteen roundings to f16, each on the last.
        case(Probe::Half, 4, 1, 256, 5e-6),
        case(Probe::Dot4, 4, 2, 256, 0.0),
        case(Probe::Workgroup, 4, 70, 256, 1e-11),
        case(Probe::Memory, 4 * 4 * 128 + 12, 1, 128, 0.0),
    ]
}
