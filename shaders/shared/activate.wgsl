// The activation that ACTIVATION names, in f32: 0 none, 1 GELU, 2 ReLU, 3 GELU by tanh, 4 SiLU, 5 quick GELU.
// The last three are x sigmoid(t(x)); the limit keeps exp finite, where the result is below 1e-30 anyway.
#if ACTIVATION == 1
#import activation
#elif ACTIVATION >= 3
fn times_sigmoid(x: vec4<f32>, t: vec4<f32>) -> vec4<f32> {
    return x / (1.0 + exp(min(-t, vec4<f32>(80.0))));
}
#endif

fn activate4(x: vec4<f32>) -> vec4<f32> {
#if ACTIVATION == 1
    return gelu4(x);
#elif ACTIVATION == 2
    return max(x, vec4<f32>());
#elif ACTIVATION == 3
    // (1 + tanh(u)) / 2 = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
    return times_sigmoid(x, 1.5957691216 * x * (1.0 + 0.044715 * x * x));
#elif ACTIVATION == 4
    return times_sigmoid(x, x);
#elif ACTIVATION == 5
    return times_sigmoid(x, 1.702 * x);
#else
    return x;
#endif
}
