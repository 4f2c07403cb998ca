//! Sums and products of tensors, the second repeated over the first. Shader: `elementwise.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    period: u32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "elementwise",
    source: wgsl!("elementwise"),
    params: size_of::<Params>(),
    variants: &[Variant { name: "element", class: Class::Gpu, defines: &[], subgroup: None }],
};

/// What [`elementwise`] computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a * b`.
    Mul,
}

/// `y = op(a, b)`, f32. `b` has the shape of `a`, or its elements repeat over the front axes of `a`.
///
/// # Errors
/// `Shape` if the count of `b` does not divide that of `a`.
pub fn elementwise(g: &mut Graph, a: Value, b: Value, op: Binary) -> Result<Value> {
    g.call(&KERNEL, &(a, b, op))?;
    let (count, period) = (g.shape(a).count(), g.shape(b).count());
    let divides = period > 0 && count.is_multiple_of(period);
    ensure!(divides, Shape, "elementwise: {} does not repeat over {}", g.shape(b), g.shape(a));
    expect_f32(g, KERNEL.name, &[a, b])?;
    let vec = if period.is_multiple_of(4) { 4 } else { 1 };
    let y = g.temp(g.shape(a), DType::F32);
    g.dispatch(Dispatch {
        kernel: &KERNEL,
        variant: KERNEL.choose(g.target(), |_| true)?,
        defines: vec![("VEC", vec as i64), ("MUL", (op == Binary::Mul).into())],
        params: bytes_of(&Params { count: (count / vec) as u32, period: (period / vec) as u32 }).to_vec(),
        reads: vec![a, b],
        writes: vec![y],
        grid: [(count / vec).div_ceil(64) as u32, 1, 1],
        flops: count as u64,
        scope: String::new(),
    })?;
    Ok(y)
}

/// Equal shapes, repeats and edges; exact: one rounding an element.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(6);
    let mut case = |name: &str, count: usize, period: usize, op: Binary| {
        let inputs = vec![Input::f32([count], random.outliers(count)), Input::f32([period], random.outliers(period))];
        let apply = move |a: f32, b: f32| if op == Binary::Add { a + b } else { a * b };
        Case::new(
            format!("{name} {count} by {period} {op:?}"),
            inputs,
            0.0,
            move |g, v| Ok(vec![elementwise(g, v[0], v[1], op)?]),
            move |i| vec![i[0].values.iter().zip(i[1].values.iter().cycle()).map(|(&a, &b)| apply(a, b)).collect()],
        )
    };
    vec![
        case("one", 1, 1, Binary::Add),
        case("same shape", 1000, 1000, Binary::Mul),
        case("scalar", 37, 1, Binary::Mul),
        case("odd", 7 * 33, 33, Binary::Add),
        case("channels", 50 * 256, 256, Binary::Mul),
        case("positions", 3 * 1024, 1024, Binary::Add),
    ]
}
