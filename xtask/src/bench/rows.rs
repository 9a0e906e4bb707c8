//! From samples to the rows of `bench.json`.

use std::collections::BTreeMap;

use podlane_tests::bench::{Row, Samples};

/// A contender, and whether its nodes have netfilter rules.
pub(super) type Who<'a> = (&'a str, bool);

/// Which figure a sample belongs to: contender (0 is the wire), topology, IPv6 or IPv4, metric.
pub(super) type Key = (usize, Topology, bool, &'static str);

/// Where two pods are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topology {
    SameNode,
    AcrossNodes,
}

impl Topology {
    pub(super) const ALL: [Self; 2] = [Self::SameNode, Self::AcrossNodes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::AcrossNodes => "across-nodes",
        }
    }
}

/// All rows: of what was measured, and of what comes of several contenders' samples of the same round, which all had
/// whatever else was going on.
pub(super) fn all(contenders: &[Who<'_>], samples: &BTreeMap<Key, Samples>) -> Vec<Row> {
    let overheads: BTreeMap<Key, Samples> = overheads(samples).into_iter().collect();
    let measured = samples.iter().chain(&overheads);
    let relative = measured.clone().filter_map(|(key, own)| relative(*key, own, samples));
    let measured = measured.map(|(key, own)| (*key, own.clone()));
    measured.chain(relative).map(|(key, samples)| samples.row(row(contenders, key))).collect()
}

/// What a contender adds to the wire.
fn overheads(samples: &BTreeMap<Key, Samples>) -> Vec<(Key, Samples)> {
    let mut overheads = Vec::new();
    for ((contender, topology, ipv6, metric), own) in samples.iter().filter(|(key, _)| key.0 != 0) {
        let Some(wire) = samples.get(&(0, *topology, *ipv6, metric)) else { continue };
        let (metric, over): (_, fn(f64, f64) -> f64) = match *metric {
            "udp-64-pps" => ("udp-64-overhead", |own, wire| 1e9 / own - 1e9 / wire),
            "tcp-rtt-p50" => ("tcp-rtt-overhead", |own, wire| own - wire),
            "udp-rtt-p50" => ("udp-rtt-overhead", |own, wire| own - wire),
            _ => continue,
        };
        let over = own.0.iter().zip(&wire.0).map(|(own, wire)| over(*own, *wire)).collect();
        overheads.push(((*contender, *topology, *ipv6, metric), Samples(over)));
    }
    overheads
}

/// What is told as parts of something in the same round, and what that is: the median of all contenders'.
const RELATIVE: [(&str, &str, &str); 8] = [
    ("tcp-rtt-p50", "tcp-rtt-relative", "tcp-rtt-p50"),
    ("udp-rtt-p50", "udp-rtt-relative", "udp-rtt-p50"),
    ("tcp-rtt-overhead", "tcp-rtt-overhead-relative", "tcp-rtt-p50"),
    ("udp-rtt-overhead", "udp-rtt-overhead-relative", "udp-rtt-p50"),
    ("udp-64-pps", "udp-64-relative", "udp-64-pps"),
    ("forwarding-pps", "forwarding-relative", "forwarding-pps"),
    ("tcp-1-throughput", "tcp-1-relative", "tcp-1-throughput"),
    ("tcp-8-throughput", "tcp-8-relative", "tcp-8-throughput"),
];

/// A contender's samples as such parts. The targets compare these: the machine's speed may change from round to round, by
/// half as much again.
fn relative(key: Key, own: &Samples, samples: &BTreeMap<Key, Samples>) -> Option<(Key, Samples)> {
    let (contender, topology, ipv6, metric) = key;
    let (_, name, of) = RELATIVE.into_iter().find(|(from, ..)| *from == metric)?;
    let all: Vec<&Samples> = samples
        .iter()
        .filter(|(key, _)| (key.1, key.2, key.3) == (topology, ipv6, of))
        .map(|(_, samples)| samples)
        .collect();
    let of_round = |(round, own): (usize, &f64)| {
        own / Samples(all.iter().filter_map(|samples| samples.0.get(round)).copied().collect()).median()
    };
    let parts = own.0.iter().enumerate().map(of_round).collect();
    Some(((contender, topology, ipv6, name), Samples(parts)))
}

fn row(contenders: &[Who<'_>], (contender, topology, ipv6, metric): Key) -> Row {
    let (name, netfilter) = contenders[contender];
    Row {
        bench: "network".to_owned(),
        topology: Some(topology.name().to_owned()),
        contender: Some(name.to_owned()),
        netfilter: Some(netfilter),
        family: if ipv6 { "ipv6" } else { "ipv4" }.to_owned(),
        metric: metric.to_owned(),
        unit: unit(metric).to_owned(),
        ..Row::default()
    }
}

fn unit(metric: &str) -> &'static str {
    match metric {
        "tcp-connections" => "connections/s",
        "udp-64-pps" | "udp-1400-pps" | "forwarding-pps" | "forwarding-floor-pps" => "packets/s",
        "udp-64-overhead" => "ns/packet",
        "tcp-1-throughput" | "tcp-8-throughput" => "Gbit/s",
        _ if metric.ends_with("-relative") => "of the round's median",
        "tcp-1-cpu" | "tcp-8-cpu" | "tcp-1-softirq" | "tcp-8-softirq" => "s/GB",
        _ => "µs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENDERS: [Who<'_>; 3] = [("wire", false), ("bridge", false), ("podlane", true)];

    fn rows(metric: &'static str, samples: [&[f64]; 3]) -> Vec<Row> {
        let keys = (0..).map(|contender| (contender, Topology::SameNode, false, metric));
        all(&CONTENDERS, &keys.zip(samples.map(|samples| Samples(samples.to_vec()))).collect())
    }

    fn median(rows: &[Row], who: Who<'_>, metric: &str) -> Option<f64> {
        super::super::report::find(rows, "same-node", who, false, metric)
    }

    #[test]
    fn an_overhead_is_the_median_of_the_differences_in_each_round() {
        // The second round is slower for all.
        let rows = rows("tcp-rtt-p50", [&[4.0, 8.0, 4.0], &[6.0, 11.0, 7.0], &[5.0, 9.0, 4.0]]);
        assert_eq!(median(&rows, ("bridge", false), "tcp-rtt-p50"), Some(7.0));
        assert_eq!(median(&rows, ("bridge", false), "tcp-rtt-overhead"), Some(3.0));
        assert_eq!(median(&rows, ("podlane", true), "tcp-rtt-overhead"), Some(1.0));
        assert_eq!(median(&rows, ("wire", false), "tcp-rtt-overhead"), None);
    }

    #[test]
    fn relative_overheads_keep_their_ratio_when_the_machine_slows_down() {
        // Twice as slow in the second round.
        let rows = rows("udp-rtt-p50", [&[4.0, 8.0], &[6.0, 12.0], &[5.0, 10.0]]);
        let of = |who| median(&rows, who, "udp-rtt-overhead-relative");
        assert_eq!((of(("bridge", false)), of(("podlane", true))), (Some(0.4), Some(0.2)));
        assert_eq!(median(&rows, ("wire", false), "udp-rtt-relative"), Some(0.8));
    }

    #[test]
    fn transfers_are_compared_with_those_of_the_same_round() {
        // Half as fast in the second round, all of them.
        let rows = rows("tcp-1-throughput", [&[20.0, 10.0], &[10.0, 5.0], &[15.0, 7.5]]);
        assert_eq!(median(&rows, ("podlane", true), "tcp-1-relative"), Some(1.0));
        assert_eq!(median(&rows, ("bridge", false), "tcp-1-relative"), Some(10.0 / 15.0));
        let of_podlane =
            rows.iter().find(|row| row.metric == "tcp-1-relative" && row.netfilter == Some(true));
        assert_eq!(of_podlane.map(|row| (row.min, row.max)), Some((1.0, 1.0)));
    }
}
