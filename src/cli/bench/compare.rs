//! `impasto bench compare`.

use super::super::failure::{Failure, Outcome, complain, print_line};
use impasto::{
    Error, ErrorKind, Result,
    bench::{Report, compare::compare},
};
use std::path::{Path, PathBuf};

/// Compare two runs on one adapter; exit code 1 if something became slower
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A row counts as slower if its median grew by more than the threshold and by more than twice the noise of both runs.

Example:
  impasto bench compare base.json new.json --threshold 5%")]
pub(super) struct Args {
    /// What `impasto bench run --json` wrote before
    base: PathBuf,
    /// What it wrote now
    new: PathBuf,
    /// How much slower is allowed: 5% or 0.05
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = share)]
    threshold: f64,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |n| (n, 0.01));
    let share = number.trim().parse::<f64>().ok().map(|n| n * unit);
    share.filter(|s| s.is_finite() && *s >= 0.0).ok_or_else(|| "expected a share such as 5% or 0.05".into())
}

pub(super) fn run(args: &Args) -> Outcome {
    let (base, new) = (read(&args.base)?, read(&args.new)?);
    let changes = compare(&base, &new, args.threshold)?;
    for c in &changes {
        let verdict = if c.regressed { "SLOWER" } else { "" };
        print_line(&format!(
            "{:64} {:>10.1} us {:>10.1} us {:>+7.1}% {verdict}",
            c.name,
            c.base,
            c.new,
            c.slowdown() * 100.0
        ))?;
    }
    let slower = changes.iter().filter(|c| c.regressed).count();
    print_line(&format!(
        "{} rows compared, {slower} slower by more than {:.1}%",
        changes.len(),
        args.threshold * 100.0
    ))?;
    if slower == 0 {
        return Ok(());
    }
    complain(&format!("{slower} of {} became slower", changes.len()));
    Err(Failure::Told)
}

fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::with_source(ErrorKind::Io, format!("cannot read '{}'", path.display()), e))?;
    serde_json::from_str(&text).map_err(|e| {
        let message = format!("'{}' is not what `impasto bench run --json` writes", path.display());
        Error::with_source(ErrorKind::Input, message, e)
    })
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn thresholds() {
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("0.1"), Ok(0.1));
        for bad in ["", "%", "-1%", "nan", "five"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
