//! New memories into a bank of them. Shader: `memory_store.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    memory: u32,
    width: u32,
    slots: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "memory_store",
    source: wgsl!("memory_store"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "vec4", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// Writes memory `i` of `x` into slot `places[i, 0]` of `bank`, with `places[i, 1]` times `mark` added to every cell, rounded
/// to bfloat16 with `bf16`. Returns `bank`; its other slots stay as they are.
///
/// `x`: `(n, cells, dim)`; `places`: `(n, 2)`; `mark`: `(dim)`; `bank`: `(slots, cells, dim)`; all f32, slots too: they are
/// written by the host. SAM 2's `no_obj_embed_spatial`, and the bfloat16 in which both official implementations keep
/// memories.
///
/// # Errors
/// `Shape` if the operands do not fit each other, or dim is no multiple of 4.
pub fn memory_store(g: &mut Graph, x: Value, places: Value, mark: Value, bank: Value, bf16: bool) -> Result<Value> {
    g.call(&KERNEL, &(x, places, mark, bank, bf16))?;
    let [n, cells, dim] = g.shape(x).axes("memory_store: x")?;
    let [slots, bank_cells, bank_dim] = g.shape(bank).axes("memory_store: bank")?;
    let fits = n > 0 && slots > 0 && dim.is_multiple_of(4) && dim > 0 && [cells, dim] == [bank_cells, bank_dim];
    let said = *g.shape(places) == [n, 2] && g.shape(mark).count() == dim;
    ensure!(fits && said, Shape, "memory_store: {} into {}, at {}", g.shape(x), g.shape(bank), g.shape(places));
    expect_f32(g, KERNEL.name, &[x, places, mark, bank])?;
    let count = n * cells * dim / 4;
    let params =
        Params { count: count as u32, memory: (cells * dim / 4) as u32, width: (dim / 4) as u32, slots: slots as u32 };
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![("BF16", bf16.into())],
        params: bytes_of(&params).to_vec(),
        reads: vec![x, places, mark],
        writes: vec![bank],
        grid: [count.div_ceil(64) as u32, 1, 1],
        flops: 2 * (n * cells * dim) as u64,
        scope: String::new(),
    })?;
    Ok(bank)
}

fn twin(inputs: &[Input], bf16: bool) -> Vec<Vec<f32>> {
    let [x, places, mark, bank] = inputs else { unreachable!("memory_store has four inputs") };
    let (memory, dim) = (x.shape[1] * x.shape[2], x.shape[2]);
    let mut y = bank.values.clone();
    for (values, place) in x.values.chunks(memory).zip(places.values.chunks(2)) {
        for (i, v) in values.iter().enumerate() {
            let v = (f64::from(*v) + f64::from(place[1]) * f64::from(mark.values[i % dim])) as f32;
            y[place[0] as usize * memory + i] = if bf16 { half::bf16::from_f32(v).to_f32() } else { v };
        }
    }
    vec![y]
}

/// Present and absent objects, out of order, with and without rounding.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(37);
    let mut case = |name: &str, slots: usize, cells: usize, dim: usize, places: Vec<f32>, bf16: bool| {
        let n = places.len() / 2;
        let inputs = vec![
            Input::f32([n, cells, dim], random.outliers(n * cells * dim)),
            Input::f32([n, 2], places),
            Input::f32([dim], random.values(dim)),
            Input::f32([slots, cells, dim], random.values(slots * cells * dim)),
        ];
        Case::new(
            format!("{name} {n} of {slots}, {cells}x{dim}"),
            inputs,
            0.0,
            move |g, v| Ok(vec![memory_store(g, v[0], v[1], v[2], v[3], bf16)?]),
            move |inputs| twin(inputs, bf16),
        )
    };
    vec![
        case("one", 1, 1, 4, vec![0.0, 0.0], false),
        case("out of order", 7, 9, 16, vec![5.0, 0.0, 0.0, 1.0, 3.0, 0.0], false),
        case("rounded", 4, 25, 64, vec![3.0, 1.0, 1.0, 0.0], true),
    ]
}
