//! The activation that a kernel applies to what it stores.

use std::f64::consts::PI;

/// Applied element by element, in f32.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// GELU with the error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// GELU by its approximation with tanh (PyTorch's `approximate="tanh"`): FLUX, T5, SigLIP.
    GeluTanh,
    /// `x sigmoid(x)`.
    Silu,
    /// `x sigmoid(1.702 x)`: CLIP.
    QuickGelu,
}

impl Activation {
    /// What the shaders' `ACTIVATION` define means.
    pub(super) fn define(self) -> (&'static str, i64) {
        ("ACTIVATION", self as i64)
    }

    /// The twin's.
    pub(super) fn apply(self, x: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Gelu => super::layer_norm::gelu(x),
            Self::Relu => x.max(0.0),
            Self::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        }
    }
}
