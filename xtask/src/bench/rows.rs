//! From samples to the rows of `bench.json`.

use std::collections::BTreeMap;

use podlane_tests::bench::{Paced, Row, most_slowness, undisturbed};

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

/// All rows: of the samples when the machine ran at its best, by what the wire beside all contenders had; of all samples
/// where its speed makes no difference.
pub(super) fn all(contenders: &[Who<'_>], samples: &BTreeMap<Key, Vec<Paced>>) -> Vec<Row> {
    let mut slowness: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for ((_, topology, ipv6, metric), samples) in samples {
        let all = slowness.entry((topology, ipv6, metric)).or_default();
        all.extend(samples.iter().map(|sample| sample.slowness));
    }
    let most: BTreeMap<_, f64> = slowness.into_iter().map(|(key, all)| (key, most_slowness(all))).collect();
    let rows = samples.iter().map(|(key, samples)| {
        let (_, topology, ipv6, metric) = key;
        let most = if is_same_at_any_speed(*topology, metric) {
            f64::INFINITY
        } else {
            most.get(&(topology, ipv6, metric)).copied().unwrap_or_default()
        };
        undisturbed(samples, most).row(row(contenders, key))
    });
    rows.collect()
}

/// Whether the machine's speed makes no difference to what is compared by this metric: what one transfer has of another's
/// speed; and on one node overheads, all of which are larger on a slower machine, by as much.
fn is_same_at_any_speed(topology: Topology, metric: &str) -> bool {
    match metric {
        "tcp-rtt-relative" | "udp-rtt-relative" => topology == Topology::SameNode,
        "tcp-1-relative" | "tcp-8-relative" => true,
        _ => metric.contains("-beside-"),
    }
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
        unit: metric
            .split_once("-beside-")
            .map_or_else(|| unit(metric).to_owned(), |(_, other)| format!("of {other}'s")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_contenders_samples_tell_how_fast_the_machine_can_be() {
        let of = |contender| (contender, Topology::SameNode, false, "tcp-rtt-p50".to_owned());
        let paced = |samples: &[(f64, f64)]| -> Vec<Paced> {
            samples.iter().map(|(value, slowness)| Paced { value: *value, slowness: *slowness }).collect()
        };
        let samples = BTreeMap::from([
            (of(0), paced(&[(4.0, 4.0), (4.2, 4.1), (4.1, 4.2)])),
            (of(1), paced(&[(9.0, 6.0), (6.0, 4.0)])),
        ]);
        let rows = all(&[("wire", false), ("bridge", true)], &samples);
        let (wire, bridge) = (&rows[0], &rows[1]);
        assert_eq!((wire.median, wire.n, wire.unit.as_str()), (4.1, 3, "µs"));
        assert_eq!((bridge.median, bridge.n), (6.0, 1));
        assert_eq!((bridge.contender.as_deref(), bridge.netfilter), (Some("bridge"), Some(true)));
    }

    #[test]
    fn what_does_not_depend_on_the_machines_speed_counts_at_any() {
        let paced = [1.0, 4.0, 9.0].map(|slowness| Paced { value: slowness, slowness });
        let counted = |topology, metric: &str| {
            let samples = [((0, topology, false, metric.to_owned()), paced.to_vec())];
            all(&[("wire", false)], &samples.into())[0].n
        };
        let (same, across) = (Topology::SameNode, Topology::AcrossNodes);
        assert_eq!((counted(same, "tcp-1-relative"), counted(across, "tcp-8-beside-vxlan")), (3, 3));
        assert_eq!((counted(same, "udp-rtt-relative"), counted(across, "udp-rtt-relative")), (3, 2));
        assert_eq!((counted(same, "tcp-1-throughput"), counted(same, "udp-64-relative")), (2, 2));
    }

    #[test]
    fn a_rivals_name_is_in_the_unit() {
        let samples = [((0, Topology::SameNode, false, "tcp-1-beside-host-gw".to_owned()), Vec::new())];
        assert_eq!(all(&[("podlane", false)], &samples.into())[0].unit, "of host-gw's");
    }
}
