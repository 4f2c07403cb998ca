//! The activation that a kernel applies to what it stores.

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
        }
    }
}
