//! What is to be reached, and what is.

use podlane_tests::bench::Row;
use serde::{Deserialize, Serialize};

use super::report::find;
use super::rows::{self, Topology};

/// One target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) name: String,
    /// `≤` or `≥` and a number.
    pub(super) target: String,
    /// What was reached; none where nothing could be measured.
    pub(super) value: Option<f64>,
    pub(super) met: bool,
    /// What programs that only redirect reach in Podlane's place, where that is Podlane at tc without overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) floor: Option<f64>,
}

impl Target {
    /// The value, to show.
    pub(super) fn reached(&self) -> String {
        self.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"))
    }

    /// Whether it is met, to show.
    pub(super) const fn mark(&self) -> &'static str {
        if self.met { "✔" } else { "✘" }
    }

    /// The floor's value, to show.
    pub(super) fn floor(&self) -> String {
        self.floor.map(|value| format!("{value:.2}")).unwrap_or_default()
    }
}

type Who = rows::Who<'static>;

const WIRE: Who = ("wire", false);
const BRIDGE: Who = ("bridge", false);
const FLOOR: Who = ("tc-floor", false);
const PODLANE: Who = ("podlane", false);
/// On nodes with a typical node's rules, both sides have them.
const PODLANE_RULES: Who = ("podlane", true);
const HOST_GW_RULES: Who = ("host-gw", true);
const VXLAN: Who = ("vxlan", false);
const VXLAN_RULES: Who = ("vxlan", true);
const PODLANE_VXLAN: Who = ("podlane-vxlan", false);
const PODLANE_VXLAN_RULES: Who = ("podlane-vxlan", true);
const PODLANE_XDP_RULES: Who = ("podlane-xdp", true);
const KERNEL: [Who; 4] = [("classic", false), BRIDGE, ("ptp", false), ("host-gw", false)];
/// What is the same on one node: between nodes they differ.
const POOLS: [&[Who]; 4] = [
    &[PODLANE, PODLANE_VXLAN, ("podlane-xdp-generic", false), ("podlane-xdp", false)],
    &[PODLANE_RULES, PODLANE_VXLAN_RULES, ("podlane-xdp-generic", true), PODLANE_XDP_RULES],
    &[BRIDGE, ("classic", false)],
    &[HOST_GW_RULES, ("ptp", true), VXLAN_RULES],
];
const SAME: &str = Topology::SameNode.name();
const ACROSS: &str = Topology::AcrossNodes.name();

/// What targets compare contenders by.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    RoundTrips,
    /// Small UDP packets a second.
    Packets,
    /// Frames forwarded a second.
    Forwarding,
    Transfers,
}

/// Whether targets are about this contender; what they are shown beside is meant as well.
pub(super) fn are_about(by: By, topology: Topology, who: rows::Who<'_>) -> bool {
    let named: &[Who] = match (by, topology) {
        (By::RoundTrips, Topology::SameNode) => &[FLOOR, WIRE],
        (By::RoundTrips, Topology::AcrossNodes) => {
            &[FLOOR, WIRE, PODLANE, PODLANE_RULES, HOST_GW_RULES, PODLANE_VXLAN_RULES, VXLAN_RULES]
        }
        (By::Packets | By::Forwarding, Topology::SameNode) => &[],
        (By::Packets, Topology::AcrossNodes) => &[FLOOR, PODLANE_RULES, HOST_GW_RULES],
        (By::Forwarding, Topology::AcrossNodes) => &[FLOOR, PODLANE_RULES, PODLANE_XDP_RULES, HOST_GW_RULES],
        (By::Transfers, Topology::SameNode) => &[FLOOR, WIRE, PODLANE],
        (By::Transfers, Topology::AcrossNodes) => &[FLOOR, WIRE, PODLANE, PODLANE_VXLAN, VXLAN],
    };
    let others: &[&[Who]] = match (by, topology) {
        (By::RoundTrips, Topology::SameNode) => &POOLS,
        (By::Transfers, _) => &[&KERNEL],
        _ => &[],
    };
    named.contains(&who) || others.iter().any(|others| others.contains(&who))
}

/// All targets that these rows can answer for; with `network`, those between pods as well.
pub(super) fn all(rows: &[Row], network: bool) -> Vec<Target> {
    let mut targets = Vec::new();
    if network {
        targets = Figures { rows, of_floor: false }.targets();
        let floor = Figures { rows, of_floor: true }.targets();
        for (target, floor) in targets.iter_mut().zip(floor) {
            target.floor = floor.value;
        }
    }
    targets.extend(programs(rows));
    targets
}

struct Figures<'a> {
    rows: &'a [Row],
    /// Whether the floor stands in Podlane's place, where it can.
    of_floor: bool,
}

impl Figures<'_> {
    fn targets(&self) -> Vec<Target> {
        let tcp = self.round_trips("TCP", "tcp-rtt-relative");
        let udp = self.round_trips("UDP", "udp-rtt-relative");
        tcp.into_iter().chain(udp).chain(self.rates()).collect()
    }

    fn get(&self, topology: &str, who: Who, metric: &str) -> Option<f64> {
        find(self.rows, topology, who, false, metric)
    }

    /// Who is measured: `own`, or what stands in its place.
    fn measured(&self, own: Who) -> Option<Who> {
        match (self.of_floor, own) {
            (false, own) => Some(own),
            (true, PODLANE | PODLANE_RULES) => Some(FLOOR),
            (true, _) => None,
        }
    }

    fn ratio(&self, topology: &str, own: Who, other: Who, metric: &str) -> Option<f64> {
        Some(self.get(topology, self.measured(own)?, metric)? / self.get(topology, other, metric)?)
    }

    /// What is added to the wire, as a part of it: the mean of those that are the same on one node, as each is a lab of its
    /// own, and two of one kind differ.
    fn overhead(&self, who: Who, metric: &str) -> Option<f64> {
        let alone = [who];
        let pool = POOLS.into_iter().find(|pool| pool.contains(&who)).unwrap_or(&alone);
        let values: Vec<f64> = pool.iter().filter_map(|who| self.get(SAME, *who, metric)).collect();
        let count = u32::try_from(values.len()).ok().filter(|count| *count > 0)?;
        Some(values.iter().sum::<f64>() / f64::from(count) - 1.0)
    }

    fn overhead_ratio(&self, own: Who, other: Who, metric: &str) -> Option<f64> {
        Some(self.overhead(self.measured(own)?, metric)? / self.overhead(other, metric)?)
    }

    fn round_trips(&self, protocol: &str, metric: &str) -> [Target; 5] {
        [
            at_most(
                format!("same node, {protocol} round trip: overhead over the wire ÷ the bridge's"),
                0.20,
                self.overhead_ratio(PODLANE, BRIDGE, metric),
            ),
            at_most(
                format!(
                    "same node, {protocol} round trip: overhead over the wire ÷ routed veths', netfilter on both"
                ),
                0.18,
                self.overhead_ratio(PODLANE_RULES, HOST_GW_RULES, metric),
            ),
            at_most(
                format!("across nodes, {protocol} round trip: pods ÷ hosts on the same wire"),
                1.10,
                self.ratio(ACROSS, PODLANE, WIRE, metric),
            ),
            at_most(
                format!("across nodes, {protocol} round trip: ÷ host-gw, netfilter on both"),
                0.75,
                self.ratio(ACROSS, PODLANE_RULES, HOST_GW_RULES, metric),
            ),
            at_most(
                format!("across nodes, {protocol} round trip: VXLAN ÷ kernel VXLAN, netfilter on both"),
                0.65,
                self.ratio(ACROSS, PODLANE_VXLAN_RULES, VXLAN_RULES, metric),
            ),
        ]
    }

    fn rates(&self) -> Vec<Target> {
        let mut targets = vec![
            at_least(
                "across nodes, UDP packets of 64 bytes a second on one CPU: ÷ host-gw, netfilter on both".to_owned(),
                1.25,
                self.ratio(ACROSS, PODLANE_RULES, HOST_GW_RULES, "udp-64-relative"),
            ),
            at_least(
                "forwarding alone, frames from the wire to a pod a second: tc ÷ host-gw, netfilter on both".to_owned(),
                1.5,
                self.ratio(ACROSS, PODLANE_RULES, HOST_GW_RULES, "forwarding-relative"),
            ),
            at_least(
                "forwarding alone, frames from the wire to a pod a second: XDP native ÷ host-gw, netfilter on both"
                    .to_owned(),
                3.0,
                self.ratio(ACROSS, PODLANE_XDP_RULES, HOST_GW_RULES, "forwarding-relative"),
            ),
        ];
        for (streams, metric) in [("one stream", "tcp-1-relative"), ("8 streams", "tcp-8-relative")] {
            for (topology, words) in [(SAME, "same node"), (ACROSS, "across nodes")] {
                let best =
                    KERNEL.iter().filter_map(|who| self.get(topology, *who, metric)).max_by(f64::total_cmp);
                let own = self.measured(PODLANE).and_then(|own| self.get(topology, own, metric));
                targets.push(at_least(
                    format!("{words}, TCP transfer, {streams}: ÷ the best kernel contender"),
                    1.0,
                    own.zip(best).map(|(own, best)| own / best),
                ));
            }
            targets.push(at_least(
                format!("across nodes by VXLAN, TCP transfer, {streams}: ÷ kernel VXLAN"),
                1.0,
                self.ratio(ACROSS, PODLANE_VXLAN, VXLAN, metric),
            ));
        }
        targets
    }
}

/// Program, path, most nanoseconds over an empty program.
const LIMITS: [(&str, &str, f64); 3] =
    [("from_pod", "to-local-pod", 35.0), ("from_pod", "to-peer", 60.0), ("from_wire", "to-local-pod", 30.0)];
/// Flows, local pods and peer nodes of the smallest load, and of those that one thing grows in.
const SMALLEST: (u32, u32, u32) = (1, 10, 10);
const GROWN: [(&str, (u32, u32, u32)); 3] = [
    ("from 1 to 32,768 flows", (32_768, 10, 10)),
    ("from 10 to 1,000 local pods", (32_768, 1000, 10)),
    ("from 10 to 5,000 nodes", (32_768, 10, 5000)),
];

fn programs(rows: &[Row]) -> Vec<Target> {
    let find = |metric: &str, program: &str, path: &str, (flows, pods, nodes): (u32, u32, u32)| {
        let row = rows.iter().find(|row| {
            row.metric == metric
                && row.family == "ipv4"
                && row.program.as_deref() == Some(program)
                && row.path.as_deref() == Some(path)
                && (row.flows, row.pods, row.nodes) == (Some(flows), Some(pods), Some(nodes))
        });
        row.map(|row| row.median)
    };
    let mut targets = Vec::new();
    for (program, path, limit) in LIMITS {
        let smallest = find("over-empty-program", program, path, SMALLEST);
        targets.push(at_most(format!("{program} {path}: ns over an empty program"), limit, smallest));
        for (growth, load) in GROWN {
            let value = find("growth", program, path, load);
            targets.push(at_most(format!("{program} {path}: growth {growth}"), 1.2, value));
        }
    }
    targets
}

pub(super) fn at_most(name: String, limit: f64, value: Option<f64>) -> Target {
    Target {
        name,
        target: format!("≤ {limit:.2}"),
        met: value.is_some_and(|value| value <= limit),
        value,
        floor: None,
    }
}

fn at_least(name: String, limit: f64, value: Option<f64>) -> Target {
    Target {
        name,
        target: format!("≥ {limit:.2}"),
        met: value.is_some_and(|value| value >= limit),
        value,
        floor: None,
    }
}

#[cfg(test)]
mod tests {
    use podlane_tests::contender::Kind;

    use super::*;

    fn row(contender: &str, topology: &str, metric: &str, median: f64) -> Row {
        Row {
            contender: Some(contender.to_owned()),
            netfilter: Some(false),
            topology: Some(topology.to_owned()),
            family: "ipv4".to_owned(),
            metric: metric.to_owned(),
            median,
            ..Row::default()
        }
    }

    #[test]
    fn overheads_are_compared_above_the_wire() {
        let rows =
            [row("bridge", SAME, "tcp-rtt-relative", 1.5), row("podlane", SAME, "tcp-rtt-relative", 1.125)];
        let first = &all(&rows, true)[0];
        assert_eq!((first.value, first.met), (Some(0.25), false));
    }

    #[test]
    fn on_one_node_what_is_the_same_is_pooled() {
        let rows = [
            row("bridge", SAME, "tcp-rtt-relative", 2.5),
            row("classic", SAME, "tcp-rtt-relative", 1.5),
            row("podlane", SAME, "tcp-rtt-relative", 1.125),
            row("podlane-xdp", SAME, "tcp-rtt-relative", 1.375),
        ];
        assert_eq!(all(&rows, true)[0].value, Some(0.25));
    }

    #[test]
    fn the_floor_stands_where_podlane_does() {
        let rows = [
            row("bridge", SAME, "tcp-rtt-relative", 1.5),
            row("tc-floor", SAME, "tcp-rtt-relative", 1.125),
            row("vxlan", ACROSS, "tcp-1-relative", 2.0),
            row("podlane-vxlan", ACROSS, "tcp-1-relative", 2.0),
        ];
        let targets = all(&rows, true);
        assert_eq!((targets[0].value, targets[0].floor), (None, Some(0.25)));
        let overlay = targets.iter().find(|target| target.name.contains("by VXLAN, TCP transfer")).unwrap();
        assert_eq!((overlay.value, overlay.floor), (Some(1.0), None));
    }

    #[test]
    fn those_that_targets_are_about_are_all_that_targets_need() {
        let metrics = [
            (By::RoundTrips, &["tcp-rtt-relative", "udp-rtt-relative"][..]),
            (By::Packets, &["udp-64-relative"]),
            (By::Forwarding, &["forwarding-relative"]),
            (By::Transfers, &["tcp-1-relative", "tcp-8-relative"]),
        ];
        let mut rows = Vec::new();
        for (by, metrics) in metrics {
            for kind in Kind::ALL {
                for (topology, netfilter) in Topology::ALL.into_iter().flat_map(|t| [(t, false), (t, true)]) {
                    if are_about(by, topology, (kind.name(), netfilter)) {
                        rows.extend(metrics.iter().map(|metric| Row {
                            netfilter: Some(netfilter),
                            ..row(kind.name(), topology.name(), metric, 1.0)
                        }));
                    }
                }
            }
        }
        let targets = all(&rows, true);
        let missing: Vec<_> =
            targets.iter().filter(|target| target.value.is_none()).map(|target| &target.name).collect();
        assert_eq!(
            missing.len(),
            LIMITS.len() * (1 + GROWN.len()),
            "but for the programs' own: {missing:#?}"
        );
        assert_eq!(targets.iter().filter(|target| target.floor.is_some()).count(), 14);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(all(&[], true).iter().all(|target| target.value.is_none() && !target.met));
    }

    #[test]
    fn growth_is_that_of_the_load() {
        let (flows, pods, nodes) = GROWN[1].1;
        let grown = Row {
            program: Some("from_wire".to_owned()),
            path: Some("to-local-pod".to_owned()),
            flows: Some(flows),
            pods: Some(pods),
            nodes: Some(nodes),
            ..row("", "", "growth", 1.1)
        };
        let met: Vec<_> = all(&[grown], false).into_iter().filter(|target| target.met).collect();
        assert_eq!(met.len(), 1);
        assert_eq!(met[0].name, "from_wire to-local-pod: growth from 10 to 1,000 local pods");
    }

    #[test]
    fn without_the_network_only_the_programs_have_targets() {
        assert_eq!(all(&[], false).len(), LIMITS.len() * (1 + GROWN.len()));
    }
}
