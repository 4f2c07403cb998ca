//! Medians: a sample that the operating system spoilt must not count.

/// The value below which a share `q` of the samples lies, interpolated; NaN for none.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    if samples.is_empty() {
        return f64::NAN;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// The middle of the samples; NaN for none.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The median distance from the median.
pub fn mad(samples: &[f64]) -> f64 {
    let middle = median(samples);
    median(&samples.iter().map(|s| (s - middle).abs()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.1), 1.0);
        assert_eq!(mad(&[1.0, 2.0, 3.0, 100.0, 2.0]), 1.0);
        assert!(median(&[]).is_nan());
    }
}
