//! The files of a miniature FLUX.1, a folder of diffusers: a crate of their own, since crates.io takes 10 MiB a crate.

/// Weights of the transformer, f16 safetensors.
pub const TRANSFORMER: &[u8] = include_bytes!("transformer/diffusion_pytorch_model.safetensors");
/// Its config.
pub const TRANSFORMER_CONFIG: &str = include_str!("transformer/config.json");
/// Weights of the autoencoder.
pub const VAE: &[u8] = include_bytes!("vae/diffusion_pytorch_model.safetensors");
/// Its config.
pub const VAE_CONFIG: &str = include_str!("vae/config.json");
/// Weights of the text encoder CLIP.
pub const CLIP: &[u8] = include_bytes!("text_encoder/model.safetensors");
/// Its config.
pub const CLIP_CONFIG: &str = include_str!("text_encoder/config.json");
/// The words of CLIP's tokenizer.
pub const CLIP_VOCAB: &[u8] = include_bytes!("tokenizer/vocab.json");
/// What CLIP's tokenizer merges.
pub const CLIP_MERGES: &[u8] = include_bytes!("tokenizer/merges.txt");
/// Weights of the text encoder T5.
pub const T5: &[u8] = include_bytes!("text_encoder_2/model.safetensors");
/// Its config.
pub const T5_CONFIG: &str = include_str!("text_encoder_2/config.json");
/// T5's tokenizer.
pub const T5_TOKENIZER: &[u8] = include_bytes!("tokenizer_2/tokenizer.json");
