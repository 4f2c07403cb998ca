//! Options of all subcommands.

use super::{failure::Outcome, progress::Progress};
use impasto::{
    gpu::{self, Checks, Gpu},
    kernels::ALL,
    selftest,
    weights::source,
};
use std::{io::IsTerminal, path::PathBuf};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Which adapter: a part of its name, or its index in `impasto doctor` [env: IMPASTO_ADAPTER]
    #[arg(long, global = true, value_name = "NAME|INDEX")]
    pub(super) adapter: Option<String>,
    /// Which graphics API [env: WGPU_BACKEND]
    #[arg(long, global = true, value_name = "API", value_parser = ["vulkan", "metal", "dx12"])]
    pub(super) backend: Option<String>,
    /// Run shaders with bounds checks: slower, for doubtful drivers [env: IMPASTO_CHECKED=1]
    #[arg(long, global = true)]
    checked: bool,
    /// Force a variant of a kernel, may be repeated; `bench` also takes all, best, or a name [env: IMPASTO_VARIANT]
    #[arg(long, global = true, value_name = "KERNEL=NAME", value_parser = variant)]
    variant: Vec<Asked>,
    /// Refuse what would need more GPU memory than this: 2GiB, 900MB, 1073741824
    #[arg(long, global = true, value_name = "BYTES", value_parser = bytes)]
    pub(super) max_memory: Option<u64>,
    /// Take models from this machine only [env: HF_HUB_OFFLINE=1]
    #[arg(long, global = true)]
    offline: bool,
    /// Write what host and GPU did when: opens in ui.perfetto.dev and chrome://tracing. Slows the GPU's work down
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// No progress, no summary, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Say what is done on stderr; -vv says more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// A value of `--variant`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// Kernel and variant.
    Force(String, String),
    /// For `bench`: all, best, or a variant's name.
    Measure(String),
}

impl Global {
    /// What `bench` is to measure, if it was said.
    pub(super) fn measured_variant(&self) -> Option<&str> {
        self.variant.iter().find_map(|v| match v {
            Asked::Measure(word) => Some(word.as_str()),
            Asked::Force(..) => None,
        })
    }

    /// What the environment says, overruled by the flags.
    pub(super) fn gpu_options(&self) -> gpu::Options {
        let mut options = gpu::Options::from_env();
        options.adapter = self.adapter.clone().or(options.adapter);
        options.backend = self.backend.clone().or(options.backend);
        if self.checked {
            options.checks = Checks::Checked;
        }
        // The first that names a kernel counts.
        let forced = self.variant.iter().filter_map(|v| match v {
            Asked::Force(kernel, name) => Some((kernel.clone(), name.clone())),
            Asked::Measure(_) => None,
        });
        options.variants.splice(0..0, forced);
        options
    }

    pub(super) fn open_gpu(&self) -> Outcome<Gpu> {
        Ok(pollster::block_on(selftest::open(&self.gpu_options()))?)
    }

    /// Where models are looked for, with a bar for downloads.
    pub(super) fn source_options(&self) -> source::Options {
        let mut options = source::Options::from_env();
        options.offline |= self.offline;
        options.progress = Progress::of_downloads(self.shows_progress());
        options
    }

    /// Progress is for people: not for files, pipes and logs.
    pub(super) fn shows_progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// A bar, if anybody looks.
    pub(super) fn progress(&self) -> Progress {
        Progress::new(self.shows_progress())
    }

    /// `tracing` to stderr. `IMPASTO_LOG` takes a filter as `tracing_subscriber::EnvFilter` reads it.
    pub(super) fn start_logging(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "impasto=info,warn",
            (false, 2) => "impasto=debug,warn",
            (false, _) => "impasto=trace,info",
        };
        let filter = tracing_subscriber::EnvFilter::try_from_env("IMPASTO_LOG")
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .without_time()
            .init();
    }
}

fn variant(text: &str) -> Result<Asked, String> {
    let Some((kernel, name)) = text.split_once('=') else {
        let known =
            ["all", "best"].contains(&text) || ALL.iter().any(|e| e.kernel.variants.iter().any(|v| v.name == text));
        return if known { Ok(Asked::Measure(text.into())) } else { Err("expected KERNEL=NAME".into()) };
    };
    let list = |names: &mut dyn Iterator<Item = &'static str>| names.collect::<Vec<_>>().join(", ");
    let entry = ALL.iter().find(|e| e.kernel.name == kernel);
    let entry = entry
        .ok_or_else(|| format!("no kernel {kernel}; there are {}", list(&mut ALL.iter().map(|e| e.kernel.name))))?;
    let variants = entry.kernel.variants;
    match variants.iter().any(|v| v.name == name) {
        true => Ok(Asked::Force(kernel.into(), name.into())),
        false => Err(format!("no variant {name}; {kernel} has {}", list(&mut variants.iter().map(|v| v.name)))),
    }
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number = number.parse::<f64>().ok().filter(|n| *n > 0.0).ok_or("expected a size such as 2GiB")?;
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        other => return Err(format!("unknown unit {other}: KiB, MiB, GiB, kB, MB or GB")),
    };
    Ok((number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("1.5 MiB"), Ok(3 << 19));
        assert_eq!(bytes("900MB"), Ok(900_000_000));
        assert_eq!(bytes("4096"), Ok(4096));
        for bad in ["", "GiB", "0", "-1", "1.2.3GiB", "3 parsecs", "nan"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variants_must_exist() {
        let entry = &ALL[0];
        let text = format!("{}={}", entry.kernel.name, entry.kernel.variants[0].name);
        assert!(variant(&text).is_ok());
        assert_eq!(variant("all"), Ok(Asked::Measure("all".into())));
        assert!(variant("matmul").unwrap_err().contains("KERNEL=NAME"));
        assert!(variant("nothing=x").unwrap_err().contains(entry.kernel.name));
        assert!(variant(&format!("{}=nothing", entry.kernel.name)).unwrap_err().contains("has "));
    }
}
