//! `impasto doctor`, `impasto models`, Ctrl-C.

use super::{Place, Run, sample};
use serde_json::Value;

#[test]
fn the_doctor_tests_kernels() {
    let place = Place::new();
    let json = place.json("doctor --kernel layer_norm --kernel rope");
    let adapters = json["adapters"].as_array().unwrap();
    let used = &json["used"];
    assert_eq!(adapters[used["index"].as_u64().unwrap() as usize]["name"], used["name"]);
    let test = &json["selftest"];
    let reports = test["reports"].as_array().unwrap();
    assert!(reports.len() > 5 && test["failed"] == 0);
    assert_eq!(test["passed"].as_u64().unwrap() as usize, reports.len());
    for kernel in ["layer_norm", "rope"] {
        assert!(reports.iter().any(|r| r["kernel"] == kernel));
    }
    let all = place.json("doctor --kernel layer_norm --all-variants");
    let variants = |json: &Value| {
        let reports = json["selftest"]["reports"].as_array().unwrap().iter().filter(|r| r["kernel"] == "layer_norm");
        reports.map(|r| r["variant"].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(variants(&json).is_subset(&variants(&all)) && variants(&json).len() < variants(&all).len());
    let text = place.ok("doctor --show adapters").stdout;
    assert!(text.contains(adapters[0]["name"].as_str().unwrap()) && text.contains("used: "), "{text}");
    assert_eq!(place.run(&["doctor", "--kernel", "nothing"]).code, 2);
}

#[test]
fn models_are_listed_inspected_and_found() {
    let place = Place::new();
    let text = place.ok("models list").stdout;
    assert!(text.contains("mini") && text.contains("facebook/sam2.1-hiera-tiny") && text.contains("(default)"));
    let all: Value = serde_json::from_str(&place.ok("models list --json").stdout).unwrap();
    assert!(all.as_array().unwrap().iter().all(|m| m["downloaded"] == false));
    let mini = place.json("models inspect mini");
    assert_eq!((&mini["model"]["version"], &mini["model"]["image_size"]), (&Value::from("2.1"), &Value::from(256)));
    assert_eq!(mini["parameters"], 3_724_194);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sam2_mini_image");
    let text = place.ok(&format!("models inspect {fixture} --tensors")).stdout;
    assert!(text.contains("SAM 2") && text.contains("mask_tokens"), "{text}");
    std::fs::write(place.at("other.safetensors"), other_model()).unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gguf/kinds.gguf");
    let text = place.ok(&format!("models inspect {file}")).stdout;
    for part in ["GGUF", "1 Q6_K", "general.architecture = \"flux\""] {
        assert!(text.contains(part), "{text}");
    }
    let metadata = &place.json(&format!("models inspect {file}"))["metadata"];
    assert!(metadata["general.architecture"] == "flux" && metadata["test.i8"] == -100, "{metadata}");
    let other = place.json("models inspect other.safetensors");
    assert!(other["model"].is_null() && other["parameters"] == 6 && other["problem"].is_string(), "{other}");
    assert_eq!(place.ok(&format!("models path {fixture}")).stdout.trim(), fixture);
    let run = place.run(&["models", "path", "tiny"]);
    assert!(run.code == 1 && run.stderr.contains("models pull"), "{}", run.stderr);
}

/// A whole file that is no SAM 2.
pub(super) fn other_model() -> Vec<u8> {
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &[0; 24]).unwrap();
    safetensors::serialize([("a.weight", view)], None).unwrap()
}

/// Asked to stop while it loads or works, it does, says so, and leaves nothing.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_within_a_second() {
    use std::time::Duration;
    for delay in [500, 1500, 4000] {
        // Other tests use the same cores: one of three tries has to show what it takes.
        let times: Vec<Duration> = (0..3).map(|_| interrupted_after(delay)).collect();
        assert!(times.iter().any(|t| *t < Duration::from_secs(1)), "after {delay} ms: {times:?}");
    }
}

/// The time from the signal to the end.
#[cfg(unix)]
fn interrupted_after(delay: u64) -> std::time::Duration {
    use std::{
        process::{Command, Stdio},
        time::{Duration, Instant},
    };
    let place = Place::new();
    let flags = ["masks", &sample(), "--model", "mini", "--preset", "dense", "-o", "m.json", "--overlay", "o.png"];
    let child = place.command(&flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(delay));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let start = Instant::now();
    let run = Run::of(child.wait_with_output().unwrap());
    let taken = start.elapsed();
    assert_eq!(run.code, 130, "after {delay} ms: {}", run.stderr);
    assert_eq!(run.stderr.trim(), "error: interrupted");
    assert!(place.files().is_empty(), "{:?}", place.files());
    taken
}

/// `impasto .. | head -1`
#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let place = Place::new();
    let mut command = place.command(&["models", "inspect", "mini", "--tensors"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = Run::of(command.stdout(writer).output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn help_and_version() {
    let place = Place::new();
    assert!(place.ok("--version").stdout.contains(env!("CARGO_PKG_VERSION")));
    for command in ["", "segment ", "masks ", "doctor ", "models ", "models pull "] {
        let help = place.ok(&format!("{command}--help")).stdout;
        assert!(help.contains("Usage: impasto"), "{help}");
    }
    assert_eq!(place.run(&[]).code, 2);
}
