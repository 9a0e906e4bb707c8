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
const HOST_GW: Who = ("host-gw", false);
/// What carries packets the same way, under several names: with netfilter's rules where they never meet them, and set up by
/// other means.
const SAME_WAY: [&[Who]; 5] = [
    &[PODLANE, PODLANE_RULES],
    &[PODLANE_VXLAN, PODLANE_VXLAN_RULES],
    &[BRIDGE, ("classic", false)],
    &[HOST_GW, ("ptp", false)],
    &[HOST_GW_RULES, ("ptp", true)],
];
/// What carries small packets the same way on one node: what differs is between nodes.
const SAME_WAY_ON_ONE_NODE: [&[Who]; 3] = [
    &[
        PODLANE,
        PODLANE_RULES,
        PODLANE_VXLAN,
        PODLANE_VXLAN_RULES,
        ("podlane-xdp-generic", false),
        ("podlane-xdp-generic", true),
        ("podlane-xdp", false),
        PODLANE_XDP_RULES,
    ],
    &[BRIDGE, ("classic", false)],
    &[HOST_GW_RULES, ("ptp", true), VXLAN_RULES],
];
const SAME: &str = Topology::SameNode.name();
const ACROSS: &str = Topology::AcrossNodes.name();

/// What targets compare contenders by, beside the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    RoundTrips,
    /// Small UDP packets a second.
    Packets,
    /// Frames forwarded a second.
    Forwarding,
}

/// Whether targets are about this contender; what they are shown beside is meant as well.
pub(super) fn are_about(by: By, topology: Topology, who: rows::Who<'_>) -> bool {
    let (same_way, named): (&[&[Who]], &[Who]) = match (by, topology) {
        (By::RoundTrips, Topology::SameNode) => {
            (&SAME_WAY_ON_ONE_NODE, &[FLOOR, PODLANE, BRIDGE, HOST_GW_RULES])
        }
        (By::RoundTrips, Topology::AcrossNodes) => {
            (&SAME_WAY, &[FLOOR, WIRE, PODLANE, HOST_GW_RULES, PODLANE_VXLAN, VXLAN_RULES])
        }
        (By::Packets | By::Forwarding, Topology::SameNode) => return false,
        (By::Packets, Topology::AcrossNodes) => (&SAME_WAY, &[FLOOR, PODLANE, HOST_GW_RULES]),
        // Samples take a second each, and differ by little.
        (By::Forwarding, Topology::AcrossNodes) => {
            (&[], &[FLOOR, PODLANE_RULES, PODLANE_XDP_RULES, HOST_GW_RULES])
        }
    };
    named.contains(&who) || same_way.iter().any(|pool| pool.contains(&who) && named.contains(&pool[0]))
}

/// Whose transfers targets compare with whose, in turns with each other.
pub(super) const fn rivals(topology: Topology) -> &'static [(Who, Who)] {
    match topology {
        Topology::SameNode => &[(PODLANE, BRIDGE), (PODLANE, HOST_GW), (FLOOR, BRIDGE), (FLOOR, HOST_GW)],
        Topology::AcrossNodes => &[
            (PODLANE, BRIDGE),
            (PODLANE, HOST_GW),
            (FLOOR, BRIDGE),
            (FLOOR, HOST_GW),
            (PODLANE_VXLAN, VXLAN),
        ],
    }
}

/// All that carry packets as this one does, between nodes as well; itself among them.
pub(super) fn same(who: Who) -> Vec<Who> {
    pool(&SAME_WAY, who)
}

fn pool(same_way: &[&[Who]], who: Who) -> Vec<Who> {
    same_way.iter().find(|pool| pool.contains(&who)).map_or_else(|| vec![who], |pool| pool.to_vec())
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

    /// The mean of those that are the same, as each is a lab of its own, and two of one kind differ.
    fn mean(&self, same_way: &[&[Who]], topology: &str, who: Who, metric: &str) -> Option<f64> {
        let pool = pool(same_way, who);
        let values: Vec<f64> = pool.into_iter().filter_map(|who| self.get(topology, who, metric)).collect();
        let count = u32::try_from(values.len()).ok().filter(|count| *count > 0)?;
        Some(values.iter().sum::<f64>() / f64::from(count))
    }

    /// Across nodes.
    fn ratio(&self, own: Who, other: Who, metric: &str) -> Option<f64> {
        let own = self.mean(&SAME_WAY, ACROSS, self.measured(own)?, metric)?;
        Some(own / self.mean(&SAME_WAY, ACROSS, other, metric)?)
    }

    /// On one node, of what is added to the wire.
    fn overhead_ratio(&self, own: Who, other: Who, metric: &str) -> Option<f64> {
        let overhead = |who| Some(self.mean(&SAME_WAY_ON_ONE_NODE, SAME, who, metric)? - 1.0);
        Some(overhead(self.measured(own)?)? / overhead(other)?)
    }

    /// What a transfer has of the speed of the best of its rivals.
    fn of_the_best(&self, topology: Topology, own: Who, streams: u32) -> Option<f64> {
        let rivals = rivals(topology).iter().filter(|(who, _)| *who == own);
        let measured = self.measured(own)?;
        let ratio = |(_, (rival, _)): &(Who, Who)| {
            let metric = format!("tcp-{streams}-beside-{rival}");
            self.mean(&SAME_WAY, topology.name(), measured, &metric)
        };
        rivals.map(ratio).collect::<Option<Vec<f64>>>()?.into_iter().min_by(f64::total_cmp)
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
                self.ratio(PODLANE, WIRE, metric),
            ),
            at_most(
                format!("across nodes, {protocol} round trip: ÷ host-gw, netfilter on both"),
                0.75,
                self.ratio(PODLANE_RULES, HOST_GW_RULES, metric),
            ),
            at_most(
                format!("across nodes, {protocol} round trip: VXLAN ÷ kernel VXLAN, netfilter on both"),
                0.65,
                self.ratio(PODLANE_VXLAN_RULES, VXLAN_RULES, metric),
            ),
        ]
    }

    fn rates(&self) -> Vec<Target> {
        let mut targets = vec![
            at_least(
                "across nodes, UDP packets of 64 bytes a second on one CPU: ÷ host-gw, netfilter on both".to_owned(),
                1.25,
                self.ratio(PODLANE_RULES, HOST_GW_RULES, "udp-64-relative"),
            ),
            at_least(
                "forwarding alone, frames from the wire to a pod a second: tc ÷ host-gw, netfilter on both".to_owned(),
                1.5,
                self.ratio(PODLANE_RULES, HOST_GW_RULES, "forwarding-relative"),
            ),
            at_least(
                "forwarding alone, frames from the wire to a pod a second: XDP native ÷ host-gw, netfilter on both"
                    .to_owned(),
                3.0,
                self.ratio(PODLANE_XDP_RULES, HOST_GW_RULES, "forwarding-relative"),
            ),
        ];
        let transfers = [
            (Topology::SameNode, PODLANE, "same node", "the best kernel contender"),
            (Topology::AcrossNodes, PODLANE, "across nodes", "the best kernel contender"),
            (Topology::AcrossNodes, PODLANE_VXLAN, "across nodes by VXLAN", "kernel VXLAN"),
        ];
        for (streams, words) in [(1, "one stream"), (8, "8 streams")] {
            targets.extend(transfers.map(|(topology, own, way, rivals)| {
                let name = format!("{way}, TCP transfer, {words}: ÷ {rivals}");
                at_least(name, 1.0, self.of_the_best(topology, own, streams))
            }));
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
    fn what_carries_packets_the_same_way_counts_as_one() {
        let rules = |row: Row| Row { netfilter: Some(true), ..row };
        let rows = [
            row("bridge", SAME, "tcp-rtt-relative", 2.5),
            row("classic", SAME, "tcp-rtt-relative", 1.5),
            row("podlane", SAME, "tcp-rtt-relative", 1.125),
            rules(row("podlane-xdp", SAME, "tcp-rtt-relative", 1.375)),
            // Between nodes it does not.
            row("podlane", ACROSS, "tcp-rtt-relative", 1.25),
            rules(row("podlane", ACROSS, "tcp-rtt-relative", 1.75)),
            rules(row("podlane-xdp", ACROSS, "tcp-rtt-relative", 9.0)),
            row("wire", ACROSS, "tcp-rtt-relative", 1.0),
        ];
        let targets = all(&rows, true);
        assert_eq!((targets[0].value, targets[2].value), (Some(0.25), Some(1.5)));
    }

    #[test]
    fn the_floor_stands_where_podlane_does() {
        let rows = [
            row("bridge", SAME, "tcp-rtt-relative", 1.5),
            row("tc-floor", SAME, "tcp-rtt-relative", 1.125),
            row("podlane-vxlan", ACROSS, "tcp-1-beside-vxlan", 1.0),
        ];
        let targets = all(&rows, true);
        assert_eq!((targets[0].value, targets[0].floor), (None, Some(0.25)));
        let overlay = targets.iter().find(|target| target.name.contains("by VXLAN, TCP transfer")).unwrap();
        assert_eq!((overlay.value, overlay.floor), (Some(1.0), None));
    }

    #[test]
    fn transfers_are_compared_with_the_best_of_all_rivals() {
        let mut rows = vec![row("podlane", SAME, "tcp-8-beside-bridge", 1.5)];
        let value = |rows: &[Row]| {
            let name = "same node, TCP transfer, 8 streams: ÷ the best kernel contender";
            all(rows, true).into_iter().find(|target| target.name == name).unwrap().value
        };
        assert_eq!(value(&rows), None, "another may be better than the bridge");
        rows.push(row("podlane", SAME, "tcp-8-beside-host-gw", 1.25));
        assert_eq!(value(&rows), Some(1.25));
    }

    #[test]
    fn those_that_targets_are_about_are_all_that_targets_need() {
        let metrics = [
            (By::RoundTrips, &["tcp-rtt-relative", "udp-rtt-relative"][..]),
            (By::Packets, &["udp-64-relative"]),
            (By::Forwarding, &["forwarding-relative"]),
        ];
        let mut rows = Vec::new();
        for topology in Topology::ALL {
            for (by, metrics) in metrics {
                let all = Kind::ALL.into_iter().flat_map(|kind| [(kind.name(), false), (kind.name(), true)]);
                for (name, netfilter) in all.filter(|who| are_about(by, topology, *who)) {
                    rows.extend(metrics.iter().map(|metric| Row {
                        netfilter: Some(netfilter),
                        ..row(name, topology.name(), metric, 1.0)
                    }));
                }
            }
            for ((own, _), (rival, _)) in rivals(topology) {
                for streams in [1, 8] {
                    rows.push(row(own, topology.name(), &format!("tcp-{streams}-beside-{rival}"), 1.0));
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
