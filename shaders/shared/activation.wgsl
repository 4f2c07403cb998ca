// GELU with the error function, as PyTorch's default (`approximate="none"`). WGSL has no erf.
//
// erf by W. J. Cody's idea of two ranges: an odd polynomial near 0 (relative error matters there),
// 1 - exp(-a^2) * P(t) / ... elsewhere. Absolute error of gelu <= 3e-7 over f32, checked by the twin.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    if a < 0.5 {
        // Maclaurin series of erf, terms to x^13: relative error 1e-9 below 0.5.
        let z = x * x;
        let s = 1.0 + z * (-0.33333333 + z * (0.1 + z * (-0.023809524 + z * (0.0046296296 + z * (-0.00075757576 + z * 0.00010683761)))));
        return 1.1283791671 * x * s;
    }
    // erfc by the continued Chebyshev fit of Numerical Recipes (erfcc has 1.2e-7 relative error).
    let c = min(a, 10.0);
    let t = 1.0 / (1.0 + 0.5 * c);
    let p = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    let r = 1.0 - t * exp(-c * c + p);
    return select(-r, r, x >= 0.0);
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf(x * 0.70710678));
}
