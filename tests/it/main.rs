//! One test binary. GPU tests run on whatever adapter there is; `IMPASTO_ADAPTER` and the ICD choose another.

mod amg;
mod blocks;
mod cli;
mod common;
mod edit;
mod flux;
mod full_size;
mod generate;
mod kernels;
mod layering;
mod limits;
mod lora;
mod memory;
mod mini;
mod redux;
mod resize;
mod sam2;
mod shaders;
mod text;
mod vae;
