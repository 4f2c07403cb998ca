//! The binary as a user meets it: files and flags in, files, JSON, messages and exit codes out. All with the embedded
//! model, on whatever adapter there is.

mod bad_input;
mod bench;
mod generate;
mod masks;
mod others;
mod refused;
mod segment;
mod track;

use impasto::image::{Mask, Picture, Rle, rle::CocoRle};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder of its own for a test, and the program run in it.
struct Place(tempfile::TempDir);

/// What a run gave.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program in this folder, with a model cache that is empty and a Hub that is not there.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
        command.args(args).current_dir(self.0.path());
        command.env("HF_HOME", self.at("hub")).env("HF_ENDPOINT", "http://127.0.0.1:9");
        // What was tuned on this machine is none of a test's business.
        command.env("IMPASTO_CACHE", self.at("tuning"));
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "IMPASTO_LOG"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).output().unwrap())
    }

    /// Splits at spaces; succeeds.
    fn ok(&self, line: &str) -> Run {
        let run = self.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(run.code, 0, "impasto {line}: {}", run.stderr);
        run
    }

    /// `ok` with `--json`: the one object on stdout.
    fn json(&self, line: &str) -> Value {
        let run = self.ok(&format!("{line} --json"));
        assert_eq!(run.stdout.lines().count(), 1, "one object: {}", run.stdout);
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// The names of the files in this folder, sorted.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The picture of the README.
fn sample() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/sample.png").into()
}

/// A written mask: 0 and 255, nothing between.
fn read_mask(path: impl AsRef<Path>) -> Mask {
    let picture = Picture::load(path).unwrap();
    assert!(picture.rgb().iter().all(|v| [0, 255].contains(v)));
    let bytes: Vec<u8> = picture.rgb().chunks(3).map(|p| p[0]).collect();
    Mask::from_fn_of(&bytes, picture.width(), picture.height(), |v| v > 0).unwrap()
}

/// A mask of the JSON output; its area and box are what it says.
fn checked_mask(record: &Value, rle: &str) -> Mask {
    let coco: CocoRle = serde_json::from_value(record[rle].clone()).unwrap();
    let mask = Rle::from_coco(coco).unwrap().decode();
    assert_eq!(record["area"].as_u64(), Some(mask.area()));
    let bbox: Vec<f64> = record["bbox"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(bbox, mask.bbox_xywh().map(f64::from));
    mask
}
