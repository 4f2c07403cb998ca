//! Tuning: the fastest variant of each class of calls, measured on the user's adapter.

use super::{Lab, Row, Variants, Work, stats};
use crate::{error::Result, kernel::Tuning};
use std::{collections::BTreeMap, sync::Arc};

/// Candidates of a class: the rules' choice, then the table's order.
const CANDIDATES: usize = 8;
/// A winner is remembered if it is faster than the rules' choice by more than this, and by more than the noise.
const WORTH: f64 = 1.03;
/// What the warm-up shows slower than the fastest by this factor is not measured.
const HOPELESS: f64 = 2.0;

/// One representative of each class of calls: that with the most work in the model.
pub fn classes(works: Vec<Work>) -> Vec<Work> {
    let weight = |w: &Work| w.count * w.call.inputs.iter().map(|x| x.shape.iter().product::<usize>()).sum::<usize>();
    let mut classes: BTreeMap<(String, String), Work> = BTreeMap::new();
    for work in works {
        let key = (work.call.kernel.clone(), work.call.class());
        if classes.get(&key).is_none_or(|known| weight(known) < weight(&work)) {
            classes.insert(key, work);
        }
    }
    classes.into_values().collect()
}

impl Lab {
    /// Whether there is anything to choose for a call: more than one variant of the adapter's class.
    ///
    /// # Errors
    /// As [`Lab::rows`].
    pub fn has_choice(&self, work: &Work) -> Result<bool> {
        Ok(self.candidates(work, &Variants::Class)?.len() > 1)
    }

    /// Measures the candidates of a call: `Some(variant)` if one beats the rules' choice.
    ///
    /// # Errors
    /// As [`Lab::rows`].
    pub async fn tune(&mut self, work: &Work) -> Result<(Option<String>, Vec<Row>)> {
        let candidates = self.candidates(work, &Variants::Class)?;
        let (rows, _) = self.measure(work, &candidates[..candidates.len().min(CANDIDATES)], HOPELESS).await?;
        let best = rows.iter().min_by(|a, b| a.median.total_cmp(&b.median));
        let base = rows.iter().find(|r| r.default);
        let winner = best
            .zip(base)
            .filter(|(best, base)| best.speedup > WORTH && base.median - best.median > 2.0 * (base.mad + best.mad));
        Ok((winner.map(|(best, _)| best.variant.clone()), rows))
    }
}

/// Winners as [`Tuning`], of `(kernel, class, variant)`.
pub fn tuning(winners: impl IntoIterator<Item = (String, String, String)>) -> Tuning {
    let mut kernels: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (kernel, class, variant) in winners {
        kernels.entry(kernel).or_default().insert(class, variant);
    }
    Tuning(Arc::new(kernels))
}

/// How far the rules' choice is from the best variant, for each call: 1.0 is the best.
pub fn regrets(rows: &[Row]) -> Vec<f64> {
    let defaults = rows.iter().filter(|r| r.default);
    defaults
        .map(|d| {
            let same = rows.iter().filter(|r| r.work.call == d.work.call);
            stats::quantile(&same.map(|r| d.median / r.median).collect::<Vec<_>>(), 1.0)
        })
        .collect()
}
