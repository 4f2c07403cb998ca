//! Area, stability and box of masks at full size, without writing them. Shader: `mask_stats.wgsl`.

use super::prelude::*;

/// Mirrors `Params` in the shader, after `base`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    masks: u32,
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    bands: u32,
    scale_y: f32,
    scale_x: f32,
    high: f32,
    low: f32,
    threshold: f32,
}

/// The kernel's table.
pub const KERNEL: Kernel = Kernel {
    name: "mask_stats",
    source: wgsl!("mask_stats"),
    params: size_of::<Params>(),
    variants: &[
        Variant { name: "band128", class: Class::Gpu, defines: &[("THREADS", 128), ("ROWS", 8)], subgroup: None },
        Variant { name: "lane", class: Class::Software, defines: &[("THREADS", 1), ("ROWS", 1)], subgroup: None },
    ],
};

/// Counts, per mask, the pixels of its bilinear upsampling (torch, `align_corners=False`) to `height` by `width`
/// that are above `threshold + offset`, above `threshold - offset` and above `threshold`, and finds the inclusive
/// box of the last: what the automatic mask generator's stability score and boxes need, without the full-size masks.
///
/// `logits`: `(masks, h, w)` f32; the result: `(masks, 8)` u32:
/// `[above + offset, above - offset, above, xmin, ymin, xmax, ymax, 0]`. An empty mask has `xmin > xmax`.
///
/// # Errors
/// `Shape` for an empty size or one of more than 2^32 pixels, or a negative offset.
pub fn mask_stats(
    g: &mut Graph,
    logits: Value,
    height: usize,
    width: usize,
    threshold: f32,
    offset: f32,
) -> Result<Value> {
    g.call(&KERNEL, &(logits, height, width, threshold, offset))?;
    let [masks, h, w] = g.shape(logits).axes("mask_stats: logits")?;
    let pixels = height as u64 * width as u64;
    let sizes = g.shape(logits).count() > 0 && pixels > 0 && pixels <= u64::from(u32::MAX);
    ensure!(sizes, Shape, "mask_stats: {} to {height} x {width}", g.shape(logits));
    ensure!(offset.is_finite() && !offset.is_sign_negative(), Shape, "mask_stats: offset {offset}");
    expect_f32(g, KERNEL.name, &[logits])?;
    // An invocation of `lane` samples the pixels of a row of cells, all of them at worst.
    let turns = (height.div_ceil(h) + 2) * (width + 2 * w);
    let variant = KERNEL.choose(g.target(), |v| v.get("THREADS") > 1 || turns <= MOST_ITERATIONS)?;
    let bands = h.div_ceil(variant.get("ROWS") as usize);
    let params = Params {
        masks: masks as u32,
        height: h as u32,
        width: w as u32,
        out_height: height as u32,
        out_width: width as u32,
        bands: bands as u32,
        scale_y: h as f32 / height as f32,
        scale_x: w as f32 / width as f32,
        high: threshold + offset,
        low: threshold - offset,
        threshold,
    };
    let partial = g.temp([masks, bands, 8], DType::U32);
    let stats = g.temp([masks, 8], DType::U32);
    let threads = variant.get("THREADS");
    let first = if threads > 1 { [bands, masks, 1] } else { [(masks * bands).div_ceil(64), 1, 1] };
    let second = [(masks * 8).div_ceil(64), 1, 1];
    for (stage, read, write, grid) in [(0, logits, partial, first), (1, partial, stats, second)] {
        g.dispatch(Dispatch {
            kernel: &KERNEL,
            variant,
            defines: vec![("STAGE", stage)],
            params: bytes_of(&params).to_vec(),
            reads: vec![read],
            writes: vec![write],
            grid: grid.map(|n| n as u32),
            // A contour crosses a small share of the cells.
            flops: if stage == 0 {
                masks as u64 * (20 * (h * w) as u64 + pixels / 4)
            } else {
                8 * (masks * bands) as u64
            },
            scope: String::new(),
        })?;
    }
    Ok(stats)
}

/// Every pixel in plain f32, torch's formula: the counts must be equal.
fn twin(inputs: &[Input], height: usize, width: usize, threshold: f32, offset: f32) -> Vec<Vec<f32>> {
    let &[masks, h, w] = &inputs[0].shape[..] else { unreachable!("rank 3") };
    let source = |d: usize, size: usize, out: usize| {
        let s = ((d as f32 + 0.5) * (size as f32 / out as f32) - 0.5).max(0.0);
        let i = (s as usize).min(size - 1);
        (i, (i + 1).min(size - 1), (s - i as f32).clamp(0.0, 1.0))
    };
    let columns: Vec<_> = (0..width).map(|d| source(d, w, width)).collect();
    let mut result = Vec::with_capacity(masks * 8);
    for mask in inputs[0].values.chunks(h * w) {
        let mut counts = [0u32; 3];
        let mut area = [width, height, 0, 0];
        for y in 0..height {
            let (i, j, t) = source(y, h, height);
            for (x, &(k, l, u)) in columns.iter().enumerate() {
                let above = mask[i * w + k] * (1.0 - u) + mask[i * w + l] * u;
                let below = mask[j * w + k] * (1.0 - u) + mask[j * w + l] * u;
                let value = above * (1.0 - t) + below * t;
                for (n, level) in counts.iter_mut().zip([threshold + offset, threshold - offset, threshold]) {
                    *n += u32::from(value > level);
                }
                if value > threshold {
                    area = [area[0].min(x), area[1].min(y), area[2].max(x), area[3].max(y)];
                }
            }
        }
        result.extend(counts.map(|n| n as f32));
        result.extend(area.map(|n| n as f32));
        result.push(0.0);
    }
    vec![result]
}

/// Discs of every size, noise, full and empty masks; growing, shrinking and odd ratios. Exact.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(9);
    let mut case = |name: &str, [masks, h, w]: [usize; 3], [height, width]: [usize; 2], threshold: f32, offset: f32| {
        let values = (0..masks * h * w).map(|i| {
            let (mask, y, x) = (i / (h * w), (i / w % h) as f32, (i % w) as f32);
            let radius = (h.max(w) * mask) as f32 / masks as f32;
            let distance = (x - 0.4 * w as f32).hypot(y - 0.6 * h as f32);
            match name {
                "noise" | "noise, large cells" => 4.0 * random.uniform(),
                "empty and full" => [-1024.0, 30.0][mask % 2],
                // A slope of 0.7 a pixel, like real logits near a contour, and some noise.
                _ => (0.7 * (radius - distance)).clamp(-12.0, 12.0) + 0.3 * random.uniform(),
            }
        });
        Case::new(
            format!("{name} {masks}x{h}x{w} to {height}x{width}"),
            vec![Input::f32([masks, h, w], values.collect())],
            0.0,
            move |g, v| Ok(vec![mask_stats(g, v[0], height, width, threshold, offset)?]),
            move |inputs| twin(inputs, height, width, threshold, offset),
        )
    };
    vec![
        case("one", [1, 1, 1], [3, 5], 0.0, 1.0),
        case("noise", [3, 9, 13], [75, 41], 0.0, 1.0),
        case("noise", [2, 64, 64], [31, 17], 0.5, 0.25),
        case("empty and full", [2, 16, 16], [123, 77], 0.0, 1.0),
        case("discs", [6, 64, 64], [301, 427], 0.0, 1.0),
        case("discs", [3, 256, 256], [540, 960], 0.0, 1.0),
        case("discs", [2, 32, 48], [1024, 700], 0.0, 1.0),
        case("discs", [4, 40, 30], [30, 40], -1.0, 0.0),
        // More turns than llvmpipe makes, for one invocation.
        case("noise, large cells", [1, 4, 4], [1400, 1200], 0.0, 1.0),
    ]
}
