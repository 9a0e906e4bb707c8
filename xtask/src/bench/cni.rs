//! How fast pods are attached and detached, beside the plugins of containernetworking.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use podlane_tests::Binaries;
use podlane_tests::bench::attach::{Attacher, Network, Operation};
use podlane_tests::bench::{Row, Samples};

use super::plan::Plan;
use super::targets::{Target, at_most};
use crate::progress::seconds;

/// As many pods as kubelet allows on a node.
const PODS: usize = 110;
/// What is measured: the operation, whether all at once, the quantile, and what it is called.
const METRICS: [(Operation, bool, f64, &str); 8] = [
    (Operation::Add, false, 0.5, "add-one-p50"),
    (Operation::Add, false, 0.99, "add-one-p99"),
    (Operation::Del, false, 0.5, "del-one-p50"),
    (Operation::Del, false, 0.99, "del-one-p99"),
    (Operation::Add, true, 0.5, "add-110-p50"),
    (Operation::Add, true, 0.99, "add-110-p99"),
    (Operation::Del, true, 0.5, "del-110-p50"),
    (Operation::Del, true, 0.99, "del-110-p99"),
];

/// The metrics, each with a heading for tables.
pub(super) const COLUMNS: [(&str, &str); 8] = [
    ("add-one-p50", "ADD p50"),
    ("add-one-p99", "p99"),
    ("del-one-p50", "DEL p50"),
    ("del-one-p99", "p99"),
    ("add-110-p50", "110 ADDs p50"),
    ("add-110-p99", "p99"),
    ("del-110-p50", "110 DELs p50"),
    ("del-110-p99", "p99"),
];

/// Samples by contender, operation, and whether all at once: those of a round for each round.
type Taken = BTreeMap<(Network, Operation, bool), Vec<Samples>>;

pub(super) fn measure(binaries: &Binaries, plan: &Plan) -> Result<Vec<Row>> {
    let begun = Instant::now();
    let attachers = Network::ALL
        .into_iter()
        .map(|network| Attacher::build(network, binaries, PODS))
        .collect::<Result<Vec<_>>>()?;
    let mut taken = Taken::new();
    for round in 1..=plan.attach_rounds {
        // Every round begins with another one.
        let order: Vec<_> = attachers.iter().cycle().skip(round).take(attachers.len()).collect();
        for operation in [Operation::Add, Operation::Del] {
            let mut samples: BTreeMap<Network, Samples> = BTreeMap::new();
            for pod in 0..PODS {
                for attacher in &order {
                    samples.entry(attacher.network).or_default().0.push(attacher.one(operation, pod)?);
                }
            }
            for (network, samples) in samples {
                taken.entry((network, operation, false)).or_default().push(samples);
            }
        }
        for operation in [Operation::Add, Operation::Del] {
            for attacher in &order {
                let samples = attacher.all(operation)?;
                taken.entry((attacher.network, operation, true)).or_default().push(samples);
            }
        }
        eprintln!("   attaching: round {round} of {} ({})", plan.attach_rounds, seconds(begun.elapsed()));
    }
    Ok(rows(&taken))
}

/// Of each round its quantile; of these the median.
fn rows(taken: &Taken) -> Vec<Row> {
    let mut rows = Vec::new();
    for network in Network::ALL {
        for (operation, at_once, part, metric) in METRICS {
            let rounds = taken.get(&(network, operation, at_once)).into_iter().flatten();
            let quantiles = Samples(rounds.map(|samples| samples.quantile(part)).collect());
            rows.push(quantiles.row(Row {
                bench: "cni".to_owned(),
                contender: Some(network.name().to_owned()),
                family: "ipv4".to_owned(),
                metric: metric.to_owned(),
                unit: "ms".to_owned(),
                ..Row::default()
            }));
        }
    }
    rows
}

/// The median of a contender's metric.
pub(super) fn find(rows: &[Row], contender: &str, metric: &str) -> Option<f64> {
    let is = |row: &&Row| {
        row.bench == "cni" && row.metric == metric && row.contender.as_deref() == Some(contender)
    };
    rows.iter().find(is).map(|row| row.median)
}

/// What is to be reached: a quarter of the bridge plugin's median, half of its 99th percentile.
pub(super) fn targets(rows: &[Row]) -> Vec<Target> {
    let target = |(operation, at_once, part, metric): (Operation, bool, f64, &str)| {
        let what = format!(
            "{}, {}, {}: ÷ the bridge plugin's",
            if operation == Operation::Add { "ADD" } else { "DEL" },
            if at_once { "110 at once" } else { "one at a time" },
            if part < 0.9 { "median" } else { "99th percentile" },
        );
        let ratio =
            find(rows, "podlane", metric).zip(find(rows, "bridge", metric)).map(|(own, bridge)| own / bridge);
        at_most(what, if part < 0.9 { 0.25 } else { 0.5 }, ratio)
    };
    METRICS.into_iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_of_the_rounds_quantiles() {
        let round = |most: f64| Samples(vec![1.0, 2.0, most]);
        let mut taken = Taken::new();
        taken.insert((Network::Podlane, Operation::Add, false), vec![round(9.0), round(5.0), round(7.0)]);
        taken.insert((Network::Bridge, Operation::Add, false), vec![round(70.0)]);
        let rows = rows(&taken);
        assert_eq!(find(&rows, "podlane", "add-one-p50"), Some(2.0));
        assert_eq!(find(&rows, "podlane", "add-one-p99"), Some(7.0));
        let targets = targets(&rows);
        assert_eq!((targets[0].value, targets[0].met), (Some(1.0), false));
        assert_eq!((targets[1].value, targets[1].met), (Some(0.1), true));
    }
}
