//! Bars on stderr, where a person looks at it.

use impasto::{graph::Control, weights::source};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::{Arc, Mutex, PoisonError};

/// A bar that can say what is under way and how far it is, or nothing at all.
pub(super) struct Progress(Option<ProgressBar>);

/// Steps of a bar: shares come as fractions.
const STEPS: u64 = 1000;

impl Progress {
    pub(super) fn new(shown: bool) -> Self {
        Self(shown.then(|| {
            let bar = ProgressBar::new(STEPS);
            bar.set_style(style("{spinner} {prefix}{msg} {wide_bar} {percent:>3}%"));
            bar.enable_steady_tick(std::time::Duration::from_millis(120));
            bar
        }))
    }

    /// A new stage begins.
    pub(super) fn stage(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        if let Some(bar) = &self.0 {
            bar.set_message(what);
            bar.set_position(0);
        }
    }

    /// A stage begins that takes long: with the time that is left.
    pub(super) fn timed(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.stage(what);
        if let Some(bar) = &self.0 {
            bar.set_style(style("{spinner} {prefix}{msg} {wide_bar} {percent:>3}% {eta}"));
            bar.reset_eta();
        }
    }

    /// What is said of the stage under way.
    pub(super) fn say(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        if let Some(bar) = &self.0 {
            bar.set_message(what);
        }
    }

    /// The share of the stage under way that is done.
    pub(super) fn share(&self, share: f32) {
        if let Some(bar) = &self.0 {
            bar.set_position((share * STEPS as f32) as u64);
        }
    }

    /// Item `n` of several is at work; one alone is not counted.
    pub(super) fn item(&self, n: usize, of: usize) {
        if let Some(bar) = self.0.as_ref().filter(|_| of > 1) {
            bar.set_prefix(format!("{n}/{of} "));
        }
    }

    /// What to hand to the library for the stage under way.
    pub(super) fn with<T>(&self, f: impl FnOnce(Control<'_>) -> T) -> T {
        let cancel = Some(&super::signal::CANCEL);
        match &self.0 {
            None => f(Control { cancel, progress: None }),
            Some(_) => {
                let report = |share: f32| self.share(share);
                f(Control { cancel, progress: Some(&report) })
            }
        }
    }

    /// Runs `f`, which writes to the terminal, beside the bar.
    pub(super) fn beside<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.0 {
            None => f(),
            Some(bar) => bar.suspend(f),
        }
    }

    /// For [`source::Options::progress`]: a bar for each file.
    pub(super) fn of_downloads(shown: bool) -> Option<source::OnProgress> {
        if !shown {
            return None;
        }
        let bar: Mutex<Option<(String, ProgressBar)>> = Mutex::new(None);
        Some(Arc::new(move |p: source::Progress<'_>| {
            let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
            let (_, shown) = match bar.take() {
                Some((file, shown)) if file == p.file => bar.insert((file, shown)),
                _ => {
                    let shown = ProgressBar::new(p.total);
                    shown.set_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
                    shown.set_message(p.file.to_string());
                    bar.insert((p.file.to_string(), shown))
                }
            };
            shown.set_position(p.done);
            if p.done >= p.total {
                shown.finish_and_clear();
            }
        }))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; a mistake in one shows as the default bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
