//! Figures as `bench.json` has them.

use serde::{Deserialize, Serialize};

/// One figure: what was measured, and the median and spread of its samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Row {
    /// `network`, `programs` or `cni`.
    pub bench: String,
    /// `same-node` or `across-nodes`; for `network` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<String>,
    /// What connects the pods; none for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contender: Option<String>,
    /// Whether the nodes have a typical node's netfilter rules; for `network` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netfilter: Option<bool>,
    /// The program's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// What becomes of the program's packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Different flows that its packets belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Local pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
    /// Peer nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// What was measured.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// The median sample.
    pub median: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample.
    pub max: f64,
    /// How many samples there are.
    pub n: usize,
}

/// Samples of one figure, in the order they were taken.
#[derive(Debug, Clone, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// Writes median, spread and number into a row.
    #[must_use]
    pub fn row(&self, row: Row) -> Row {
        let sorted = self.sorted();
        Row {
            median: middle(&sorted),
            min: sorted.first().copied().unwrap_or_default(),
            max: sorted.last().copied().unwrap_or_default(),
            n: sorted.len(),
            ..row
        }
    }

    /// The median.
    #[must_use]
    pub fn median(&self) -> f64 {
        middle(&self.sorted())
    }

    /// The sample that a part of all, from 0 to 1, is not larger than (the nearest rank); 0 where there is none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let sorted = self.sorted();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among samples that fit into memory"
        )]
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The middle of a sorted list, or the mean of its two middles; 0 where it is empty.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match (sorted.get(half), half.checked_sub(1).and_then(|below| sorted.get(below))) {
        (Some(upper), Some(lower)) if sorted.len().is_multiple_of(2) => f64::midpoint(*lower, *upper),
        (Some(only), _) => *only,
        (None, _) => 0.0,
    }
}

/// What the bench of the programs prints.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Programs {
    /// The programs as the kernel has them.
    pub sizes: Vec<ProgramSize>,
    /// Their figures.
    pub rows: Vec<Row>,
}

/// A loaded program's size.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramSize {
    /// Its name.
    pub program: String,
    /// Instructions after the verifier is done with it.
    pub instructions: u32,
    /// Instructions that the verifier walked through.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::{Row, Samples};

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(Samples::default().median(), 0.0);
    }

    #[test]
    fn quantiles_are_samples() {
        let samples = Samples((1..=110).rev().map(f64::from).collect());
        assert_eq!([0.5, 0.99, 1.0].map(|part| samples.quantile(part)), [55.0, 109.0, 110.0]);
        assert_eq!(Samples(vec![7.0]).quantile(0.99), 7.0);
        assert_eq!(Samples::default().quantile(0.5), 0.0);
    }

    #[test]
    fn rows_leave_out_what_does_not_apply() {
        let row = Samples(vec![1.0, 5.0]).row(Row { contender: Some("wire".to_owned()), ..Row::default() });
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(json["contender"], "wire");
        assert_eq!((json["min"].as_f64(), json["max"].as_f64()), (Some(1.0), Some(5.0)));
        assert!(json.get("program").is_none());
    }
}
