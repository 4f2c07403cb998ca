//! One test binary. GPU tests run on whatever adapter there is; `IMPASTO_ADAPTER` and the ICD choose another.

mod common;
mod kernels;
mod layering;
mod resize;
mod sam2;
mod shaders;
