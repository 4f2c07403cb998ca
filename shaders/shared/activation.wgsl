// GELU with the error function, as PyTorch's default (`approximate="none"`). WGSL has no erf.
//
// erfc(a) = t exp(-a^2 + P(t)), t = 1 / (1 + a/2), by the Chebyshev fit of Numerical Recipes (erfcc): relative
// error 1.2e-7 for all a >= 0. From it gelu(x) = x (1 - erfc(a)/2) for x >= 0 and x erfc(a)/2 below, with
// a = |x| / sqrt(2): nothing cancels, so the relative error stays, and there is no branch.
fn gelu4(x: vec4<f32>) -> vec4<f32> {
    let a = min(abs(x) * 0.70710678, vec4<f32>(10.0));
    let t = 1.0 / (1.0 + 0.5 * a);
    let q = -0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))));
    let p = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * q)));
    let half = 0.5 * t * exp(p - a * a);
    return x * select(half, 1.0 - half, x >= vec4<f32>());
}

fn gelu(x: f32) -> f32 {
    return gelu4(vec4<f32>(x)).x;
}
