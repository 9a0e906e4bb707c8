//! From samples to the rows of `bench.json`.

use std::collections::BTreeMap;

use podlane_tests::bench::{Row, Samples};

/// A contender, and whether its nodes have netfilter rules.
pub(super) type Who<'a> = (&'a str, bool);

/// Which figure a sample belongs to: contender (0 is the wire), topology, IPv6 or IPv4, metric.
pub(super) type Key = (usize, Topology, bool, String);

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

/// All rows.
pub(super) fn all(contenders: &[Who<'_>], samples: &BTreeMap<Key, Samples>) -> Vec<Row> {
    samples.iter().map(|(key, samples)| samples.row(row(contenders, key))).collect()
}

fn row(contenders: &[Who<'_>], (contender, topology, ipv6, metric): &Key) -> Row {
    let (name, netfilter) = contenders[*contender];
    Row {
        bench: "network".to_owned(),
        topology: Some(topology.name().to_owned()),
        contender: Some(name.to_owned()),
        netfilter: Some(netfilter),
        family: if *ipv6 { "ipv6" } else { "ipv4" }.to_owned(),
        metric: metric.clone(),
        unit: unit(metric).to_owned(),
        ..Row::default()
    }
}

fn unit(metric: &str) -> &'static str {
    match metric {
        "tcp-connections" => "connections/s",
        "udp-64-pps" | "udp-1400-pps" | "forwarding-pps" | "forwarding-floor-pps" => "packets/s",
        "udp-64-overhead" | "udp-1400-overhead" => "ns/packet",
        "tcp-1-throughput" | "tcp-8-throughput" => "Gbit/s",
        "forwarding-relative" => "of tc-floor's",
        _ if metric.ends_with("-relative") => "of the wire's",
        "tcp-1-cpu" | "tcp-8-cpu" | "tcp-1-softirq" | "tcp-8-softirq" => "s/GB",
        _ => "µs",
    }
}
