//! Samples that were taken while the machine ran at its best.
//!
//! A virtual machine shares its CPUs with neighbours, and may run half as fast again, or slower, for milliseconds or minutes.
//! Ratios change with that too, by some hundredths: code that fills a CPU's caches suffers more than code that does not.

use super::Samples;

/// How much slower than at its best the machine may have been: more than samples vary by when it is always the same.
const SLOWER: f64 = 1.2;
/// The part of all samples that tells what its best is.
const BEST: f64 = 0.1;

/// A sample, and how slow the machine was meanwhile: the time that something else took, always the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paced {
    /// The sample.
    pub value: f64,
    /// The time.
    pub slowness: f64,
}

/// What the machine's slowness may be, by what it was all the time.
#[must_use]
pub fn most_slowness(all: impl IntoIterator<Item = f64>) -> f64 {
    Samples(all.into_iter().collect()).quantile(BEST) * SLOWER
}

/// The samples when it was not slower than that, but no fewer than the half of them when it was fastest; in their order.
#[must_use]
pub fn undisturbed(samples: &[Paced], most: f64) -> Samples {
    let mut slowness: Vec<f64> = samples.iter().map(|sample| sample.slowness).collect();
    slowness.sort_by(f64::total_cmp);
    let half = slowness.get(samples.len().div_ceil(2).saturating_sub(1)).copied().unwrap_or(most);
    let kept = samples.iter().filter(|sample| sample.slowness <= most.max(half));
    Samples(kept.map(|sample| sample.value).collect())
}

#[cfg(test)]
mod tests {
    use super::{Paced, most_slowness, undisturbed};

    fn paced(samples: &[(f64, f64)]) -> Vec<Paced> {
        samples.iter().map(|(value, slowness)| Paced { value: *value, slowness: *slowness }).collect()
    }

    #[test]
    fn what_was_taken_while_the_machine_was_slow_is_left_out() {
        let samples = paced(&[(1.0, 10.0), (2.0, 15.0), (3.0, 11.9), (4.0, 12.2), (5.0, 10.1)]);
        let most = most_slowness(samples.iter().map(|sample| sample.slowness));
        assert_eq!(most, 12.0);
        assert_eq!(undisturbed(&samples, most).0, [1.0, 3.0, 5.0]);
    }

    #[test]
    fn half_is_kept_at_least() {
        let samples = paced(&[(1.0, 20.0), (2.0, 15.0), (3.0, 16.0)]);
        assert_eq!(undisturbed(&samples, 10.0).0, [2.0, 3.0]);
        assert_eq!(undisturbed(&samples[..1], 10.0).0, [1.0]);
        assert!(undisturbed(&[], 10.0).0.is_empty());
    }
}
