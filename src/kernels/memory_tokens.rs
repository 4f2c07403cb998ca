//! Memories and object pointers to the keys and values that a frame attends to. Shader: `memory_tokens.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    tokens: u32,
    memories: u32,
    cells: u32,
    width: u32,
    slots: u32,
    ages: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "memory_tokens",
    source: wgsl!("memory_tokens"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "vec4", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// Where memories and their positions are.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Bank {
    /// Memories `(slots, cells, dim)`.
    pub memories: Value,
    /// Positions of the cells `(cells, dim)`.
    pub space: Value,
    /// Positions in time `(ages, dim)`.
    pub times: Value,
}

/// Gathers for `n` objects: `(values, keys)`, both `(n, memories * cells + pointers, dim)`.
///
/// `places`: `(n, memories, 2)`, the slot of a memory and its age; `pointers`, if there are any: `(n, pointers, 2, dim)`, for
/// each token its value and, with its position, its key; all f32, slots too: they are written by the host. What
/// `SAM2Base._prepare_memory_conditioned_features` concatenates.
///
/// # Errors
/// `Shape` if the operands do not fit each other, or dim is no multiple of 4.
pub fn memory_tokens(g: &mut Graph, bank: Bank, places: Value, pointers: Option<Value>) -> Result<(Value, Value)> {
    g.call(&KERNEL, &(bank, places, pointers))?;
    let [slots, cells, dim] = g.shape(bank.memories).axes("memory_tokens: bank")?;
    let [n, memories, two] = g.shape(places).axes("memory_tokens: places")?;
    let [objects, tokens_of_pointers, pair, width] = match pointers {
        Some(pointers) => g.shape(pointers).axes("memory_tokens: pointers")?,
        None => [n, 0, 2, dim],
    };
    let [ages, times_dim] = g.shape(bank.times).axes("memory_tokens: times")?;
    let fits = dim.is_multiple_of(4) && slots * cells * dim * ages * n * memories > 0 && two == 2;
    let positions = *g.shape(bank.space) == [cells, dim] && times_dim == dim;
    ensure!(
        fits && positions && [objects, pair, width] == [n, 2, dim],
        Shape,
        "memory_tokens: bank {}, space {}, times {}, places {}, {objects}x{tokens_of_pointers}x{pair}x{width} of pointers",
        g.shape(bank.memories),
        g.shape(bank.space),
        g.shape(bank.times),
        g.shape(places)
    );
    // What is never read may be any buffer.
    let pointers = pointers.unwrap_or(bank.space);
    expect_f32(g, KERNEL.name, &[bank.memories, bank.space, bank.times, places, pointers])?;
    let tokens = memories * cells + tokens_of_pointers;
    let count = n * tokens * dim / 4;
    let params = Params {
        count: count as u32,
        tokens: tokens as u32,
        memories: memories as u32,
        cells: cells as u32,
        width: (dim / 4) as u32,
        slots: slots as u32,
        ages: ages as u32,
    };
    let [values, keys] = [(); 2].map(|()| g.temp([n, tokens, dim], DType::F32));
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![],
        params: bytes_of(&params).to_vec(),
        reads: vec![bank.memories, places, bank.space, bank.times, pointers],
        writes: vec![values, keys],
        grid: [count.div_ceil(64) as u32, 1, 1],
        flops: 2 * (n * tokens * dim) as u64,
        scope: String::new(),
    })?;
    Ok((values, keys))
}

fn twin(inputs: &[Input]) -> Vec<Vec<f32>> {
    let [bank, space, times, places, pointers @ ..] = inputs else { unreachable!("memory_tokens has four inputs") };
    let (cells, dim) = (bank.shape[1], bank.shape[2]);
    let (mut values, mut keys) = (Vec::new(), Vec::new());
    for n in 0..places.shape[0] {
        for place in places.values[n * places.shape[1] * 2..][..places.shape[1] * 2].chunks(2) {
            for i in 0..cells * dim {
                let v = bank.values[place[0] as usize * cells * dim + i];
                let position = space.values[i] + times.values[place[1] as usize * dim + i % dim];
                values.push(v);
                keys.push(v + position);
            }
        }
        for pointers in pointers {
            let own = pointers.shape[1] * 2 * dim;
            for pair in pointers.values[n * own..][..own].chunks(2 * dim) {
                values.extend_from_slice(&pair[..dim]);
                keys.extend_from_slice(&pair[dim..]);
            }
        }
    }
    vec![values, keys]
}

/// With and without pointers, memories out of order, several objects.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(38);
    let mut case = |name: &str, [slots, cells, dim, ages]: [usize; 4], n: usize, places: &[f32], pointers: usize| {
        let memories = places.len() / 2 / n;
        let mut inputs = vec![
            Input::f32([slots, cells, dim], random.values(slots * cells * dim)),
            Input::f32([cells, dim], random.values(cells * dim)),
            Input::f32([ages, dim], random.values(ages * dim)),
            Input::f32([n, memories, 2], places.to_vec()),
        ];
        if pointers > 0 {
            inputs.push(Input::f32([n, pointers, 2, dim], random.values(n * pointers * 2 * dim)));
        }
        Case::new(
            format!("{name} {n}x{memories} of {slots}, {cells}x{dim}, {pointers} pointers"),
            inputs,
            0.0,
            move |g, v| {
                let bank = Bank { memories: v[0], space: v[1], times: v[2] };
                let (values, keys) = memory_tokens(g, bank, v[3], v.get(4).copied())?;
                Ok(vec![values, keys])
            },
            twin,
        )
    };
    vec![
        case("one", [1, 1, 4, 1], 1, &[0.0, 0.0], 1),
        case("no pointers", [2, 3, 8, 7], 1, &[1.0, 6.0], 0),
        case("out of order", [5, 9, 16, 7], 2, &[4.0, 6.0, 0.0, 2.0, 1.0, 6.0, 3.0, 0.0], 8),
        case("seven", [8, 25, 64, 7], 1, &[7., 6., 0., 5., 1., 4., 2., 3., 3., 2., 4., 1., 5., 0.], 64),
    ]
}
