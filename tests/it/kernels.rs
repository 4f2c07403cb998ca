//! Every variant of every kernel against its CPU twin, between guard bands, checked and trusted.

use crate::common::gpu;
use impasto::{gpu::Checks, kernels::ALL, selftest};

/// One test a kernel, so that their compilations share the cores.
macro_rules! kernels {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            variants_equal_their_twin(stringify!($name));
        })*

        #[test]
        fn every_kernel_has_a_test() {
            let all: Vec<_> = ALL.iter().map(|entry| entry.kernel.name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
        }
    };
}

kernels! {
    attention attention_merge conv2d conv_transpose2d depthwise_conv2d elementwise group_norm group_stats layer_norm mask_stats
    matmul matmul_merge max_pool2d memory_mask memory_store memory_tokens modulate qk_norm_rope quantize_rows resize rms_norm roofline rope
    rope_halves
}

fn variants_equal_their_twin(kernel: &str) {
    let entry = ALL.iter().find(|e| e.kernel.name == kernel).expect("a kernel of that name");
    let (mut failures, mut runs) = (Vec::new(), 0);
    for case in (entry.cases)() {
        let expected = (case.twin)(&case.inputs);
        let recordings = selftest::recordings(gpu(Checks::Trusted), entry.kernel, &case);
        assert!(!recordings.is_empty(), "{} {}: no variant records it", entry.kernel.name, case.name);
        let again = selftest::recordings(gpu(Checks::Checked), entry.kernel, &case);
        for (trusted, checked) in recordings.into_iter().zip(again) {
            let on = |checks, recording| {
                pollster::block_on(selftest::run(gpu(checks), entry.kernel, &case, recording, &expected)).unwrap()
            };
            let variant = trusted.0;
            let start = std::time::Instant::now();
            let (report, bits) = on(Checks::Trusted, trusted);
            let (second, checked_bits) = on(Checks::Checked, checked);
            for r in [&report, &second] {
                if !r.passed() {
                    failures.push(format!(
                        "{}/{} {}: nmse {:.2e} (allowed {:.0e}), max {:.2e}, guards {}",
                        r.kernel, r.variant, r.case, r.nmse, r.allowed, r.max_abs, r.guards_intact
                    ));
                }
            }
            if bits != checked_bits {
                failures
                    .push(format!("{}/{variant} {}: trusted and checked bits differ", entry.kernel.name, case.name));
            }
            // With --nocapture: what takes long to compile or to run.
            println!("{}/{variant} {}: {:.1?}", entry.kernel.name, case.name, start.elapsed());
            runs += 2;
        }
    }
    assert!(runs > 0, "no kernel was run");
    assert!(failures.is_empty(), "{} of {runs} runs failed:\n{}", failures.len(), failures.join("\n"));
}
