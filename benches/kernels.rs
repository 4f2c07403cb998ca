//! The suite of `impasto bench run` through criterion: `cargo bench -- 'matmul 1024x1024'`.
//!
//! Times are the device's own where it has timestamps; criterion brings history, plots and significance. The adapter is
//! chosen as everywhere (`IMPASTO_ADAPTER`). A call whose variant is wrong on this device is not timed.

use criterion::Criterion;
use impasto::{
    bench::{Lab, Options, standard},
    gpu,
};
use std::time::Duration;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut lab = match pollster::block_on(Lab::open(&gpu::Options::from_env(), Options::default())) {
        Ok(lab) => lab,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::exit(1);
        }
    };
    for work in standard().expect("standard shapes record without a device") {
        // Compiled and verified only if the filter lets it through: at its first measurement.
        let mut prepared = None;
        let lab = &mut lab;
        criterion.bench_function(&work.name(), |b| {
            let prepared = prepared.get_or_insert_with(|| pollster::block_on(lab.prepare(&work)));
            match prepared {
                Ok(prepared) => b.iter_custom(|plays| {
                    let nanoseconds = pollster::block_on(lab.time(prepared, plays as usize)).expect("a device");
                    Duration::from_nanos(nanoseconds as u64)
                }),
                Err(e) => panic!("{}: {e}", work.name()),
            }
        });
    }
    criterion.final_summary();
}
