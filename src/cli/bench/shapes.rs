//! Which calls are measured: of a model, the standard ones, or from a file.

use super::super::{failure::Outcome, global::Global};
use impasto::{
    Error, ErrorKind, Result,
    bench::{Report, Work, standard, works},
    graph::Graph,
    models::{flux, sam2},
    shape::DType,
};
use std::path::Path;

/// Flags that choose calls.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Only kernels and shapes that match this regular expression, as `impasto bench list` writes them
    #[arg(short, long, value_name = "REGEX", value_parser = pattern)]
    pattern: Option<regex::Regex>,
    /// Only calls whose weights (or else inputs) are stored like this
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    dtype: Option<DType>,
    /// standard; of a model: sam2-tiny, sam2-small, sam2-base-plus, sam2-large, mini (SAM 2, a picture and a click; with
    /// -video a frame of a clip and an object in it), flux1-dev, flux1-schnell, flux1-fill-dev, flux1-canny-dev,
    /// flux2-klein-4b, flux2-klein-9b, flux2-dev (a step at 1024 x 1024); or a file that `list --json` or `run --json` wrote
    #[arg(long, value_name = "SET|FILE", default_value = "standard")]
    shapes: String,
}

fn pattern(text: &str) -> std::result::Result<regex::Regex, String> {
    regex::Regex::new(text).map_err(|e| e.to_string().lines().last().unwrap_or_default().to_string())
}

fn dtype(text: &str) -> std::result::Result<DType, String> {
    let all = [DType::F32, DType::F16, DType::Q8, DType::Q4, DType::Q4K];
    let name = |d: &DType| format!("{d:?}").to_lowercase();
    let names = || all.iter().map(name).collect::<Vec<_>>().join(", ");
    all.iter().find(|d| name(d) == text).copied().ok_or_else(|| format!("expected one of {}", names()))
}

impl Filter {
    /// The set itself.
    pub(super) fn set(&self) -> &str {
        &self.shapes
    }

    /// The calls that pass.
    pub(super) fn works(&self, global: &Global) -> Outcome<Vec<Work>> {
        let mut works = set(&self.shapes, global)?;
        let all = works.len();
        works.retain(|w| self.pattern.as_ref().is_none_or(|p| p.is_match(&w.name())));
        works.retain(|w| self.dtype.is_none_or(|d| w.dtype() == d));
        if works.is_empty() {
            let message = format!(
                "none of the {all} calls of {} passes the filter; `impasto bench list --shapes {}` shows them",
                self.shapes, self.shapes
            );
            return Err(Error::new(ErrorKind::Argument, message).into());
        }
        Ok(works)
    }
}

/// The calls of a set.
pub(super) fn set(name: &str, global: &Global) -> Outcome<Vec<Work>> {
    if name == "standard" {
        return Ok(standard()?);
    }
    let Some(recordings) = recordings(name, global)? else { return Ok(from_file(name)?) };
    let mut all: Vec<Work> = Vec::new();
    for (part, graph) in recordings {
        for mut work in works(&graph) {
            match all.iter_mut().find(|w| w.call == work.call) {
                Some(known) => known.count += work.count,
                None => {
                    work.scope = format!("{part}: {}", work.scope);
                    all.push(work);
                }
            }
        }
    }
    Ok(all)
}

/// What the model of this name launches, if it is one's.
fn recordings(name: &str, global: &Global) -> Outcome<Option<Vec<(&'static str, Graph)>>> {
    if let Some((_, config)) = flux::config::RELEASED.iter().find(|(flux, _)| *flux == name) {
        return Ok(Some(flux::recordings(&global.open_gpu()?, config)?));
    }
    let (model, video) = name.strip_suffix("-video").map_or((name, false), |model| (model, true));
    let sam2 = |(size, _): &(&str, sam2::Config)| model.strip_prefix("sam2-") == size.strip_prefix("hiera-");
    let config = match sam2::config::SIZES.into_iter().find(sam2) {
        Some((_, config)) => config,
        None if model == "mini" => sam2::mini()?.0,
        None => return Ok(None),
    };
    let gpu = global.open_gpu()?;
    Ok(Some(match video {
        true => pollster::block_on(sam2::video::recordings(&gpu, &config))?,
        false => pollster::block_on(sam2::recordings(&gpu, &config))?,
    }))
}

fn from_file(path: &str) -> Result<Vec<Work>> {
    if !Path::new(path).is_file() {
        let flux = flux::config::RELEASED.map(|(name, _)| name).join(", ");
        let sets = format!(
            "standard, sam2-tiny, sam2-small, sam2-base-plus, sam2-large, mini, each of these with -video, {flux}"
        );
        return Err(Error::new(ErrorKind::NotFound, format!("no shapes '{path}': it is no file and none of {sets}")));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::with_source(ErrorKind::Io, format!("cannot read '{path}'"), e))?;
    let list = serde_json::from_str::<Vec<Work>>(&text);
    let report = || serde_json::from_str::<Report>(&text).ok();
    let mut works: Vec<Work> = match list {
        Ok(works) => works,
        Err(e) => match report() {
            Some(report) => report.rows.into_iter().map(|r| r.work).collect(),
            None => return Err(Error::with_source(ErrorKind::Input, format!("'{path}' holds no shapes"), e)),
        },
    };
    works.dedup_by(|a, b| a.call == b.call);
    Ok(works)
}
