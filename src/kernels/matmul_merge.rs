//! The parts of a product whose k was split, added. Shader: `matmul_merge.wgsl`.

use super::{
    matmul::{Epilogue, Finish, FinishParams, Strides},
    prelude::*,
};

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    splits: u32,
    m: u32,
    finish: FinishParams,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "matmul_merge",
    source: wgsl!("matmul_merge"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "lane", class: Class::Gpu, defines: &[("THREADS", 64)], subgroup: None }],
};

/// `(splits, m, n)` to `(m, n)`: the sum over the splits, in their order, and then the epilogue of the product.
///
/// # Errors
/// `Shape` if the parts have no three axes, or not everything is read and written by fours.
pub(super) fn matmul_merge(g: &mut Graph, parts: Value, finish: Finish) -> Result<Value> {
    let [splits, m, n] = g.shape(parts).axes("matmul_merge")?;
    ensure!(finish.vec, Shape, "matmul_merge: {n} columns, or strides that are no multiple of 4");
    let variant = KERNEL.choose(g.target(), |_| true)?;
    let mut defines = vec![("VEC_N", 1)];
    defines.extend(finish.defines);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant,
        defines,
        params: bytes_of(&Params { splits: splits as u32, m: m as u32, finish: finish.params }).to_vec(),
        reads: [parts].into_iter().chain(finish.reads).collect(),
        writes: vec![finish.y],
        grid: [(m * n / 4).div_ceil(variant.get("THREADS") as usize) as u32, 1, 1],
        flops: (splits * m * n) as u64,
        scope: String::new(),
    })?;
    Ok(finish.y)
}

fn twin(inputs: &[Input], [splits, m, n]: [usize; 3]) -> Vec<Vec<f32>> {
    let [parts, bias] = inputs else { unreachable!("matmul_merge has two inputs here") };
    let sum = |i: usize| (0..splits).map(|s| f64::from(parts.values[s * m * n + i])).sum::<f64>();
    vec![(0..m * n).map(|i| (sum(i) + f64::from(bias.values[i % n])) as f32).collect()]
}

/// Shapes that can fail. The epilogue is the product's, whose cases have all of it.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(0x3E6);
    let mut case = |name: &str, size: [usize; 3]| {
        let [splits, m, n] = size;
        let inputs = vec![Input::f32(size, random.values(splits * m * n)), Input::f32([n], random.values(n))];
        let record = move |g: &mut Graph, v: &[Value]| {
            let e = Epilogue { bias: Some(v[1]), ..Epilogue::default() };
            let at = Strides { offset: 0, batch: 0, row: n };
            let finish = Finish::new(g, &e, [1, m, n], 0, at, [m, n].into())?;
            Ok(vec![matmul_merge(g, v[0], finish)?])
        };
        // Eight f32 sums.
        Case::new(format!("{name} {splits}x{m}x{n}"), inputs, 1e-12, record, move |inputs| twin(inputs, size))
    };
    vec![case("one part", [1, 1, 4]), case("odd", [3, 7, 12]), case("many groups", [8, 33, 260])]
}
