//! One device for all tests of a kind: opening one takes longer than most tests.

use impasto::gpu::{Checks, Gpu, Options};
use std::sync::OnceLock;

/// The device of this run.
pub(crate) fn gpu(checks: Checks) -> &'static Gpu {
    static TRUSTED: OnceLock<Gpu> = OnceLock::new();
    static CHECKED: OnceLock<Gpu> = OnceLock::new();
    let cell = if checks == Checks::Checked { &CHECKED } else { &TRUSTED };
    cell.get_or_init(|| {
        let options = Options { checks, untuned: true, ..Options::from_env() };
        pollster::block_on(Gpu::open(&options)).expect("an adapter: see the README for a software one")
    })
}

/// A file of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
