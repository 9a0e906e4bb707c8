//! What tables show of the contenders: the wire's own figures, and what the others have beside it, which says the same at any
//! speed of the machine.

use super::report::Report;

/// A column of a table.
pub(super) struct Column {
    pub(super) heading: &'static str,
    /// Whom the others are measured beside.
    beside: &'static str,
    /// What is shown of that one, and in what unit.
    own: &'static str,
    unit: Unit,
    /// What is shown of the others.
    relative: &'static str,
}

enum Unit {
    Microseconds,
    PerSecond,
    GigabitsPerSecond,
}

pub(super) const TCP: Column = Column {
    heading: "TCP round trip",
    beside: "wire",
    own: "tcp-rtt-p50",
    unit: Unit::Microseconds,
    relative: "tcp-rtt-relative",
};
pub(super) const UDP: Column =
    Column { heading: "UDP round trip", own: "udp-rtt-p50", relative: "udp-rtt-relative", ..TCP };
pub(super) const PACKETS: Column = Column {
    heading: "UDP 64 B packets",
    own: "udp-64-pps",
    unit: Unit::PerSecond,
    relative: "udp-64-relative",
    ..TCP
};
/// All of them.
pub(super) const ALL: [Column; 7] = [
    TCP,
    UDP,
    PACKETS,
    Column {
        heading: "forwarded frames",
        beside: "tc-floor",
        own: "forwarding-pps",
        relative: "forwarding-relative",
        ..PACKETS
    },
    Column {
        heading: "TCP connections",
        own: "tcp-connections",
        relative: "tcp-connections-relative",
        ..PACKETS
    },
    Column {
        heading: "TCP transfer",
        own: "tcp-1-throughput",
        unit: Unit::GigabitsPerSecond,
        relative: "tcp-1-relative",
        ..PACKETS
    },
    Column {
        heading: "8 TCP transfers",
        own: "tcp-8-throughput",
        unit: Unit::GigabitsPerSecond,
        relative: "tcp-8-relative",
        ..PACKETS
    },
];

impl Column {
    /// The contender's figure by IPv4, if it was measured.
    pub(super) fn figure(&self, report: &Report, topology: &str, who: (&str, bool)) -> Option<String> {
        let value = |metric| report.network(topology, who, false, metric);
        if who != (self.beside, false) {
            return value(self.relative).map(|ratio| format!("{ratio:.2}"));
        }
        let own = value(self.own)?;
        Some(match self.unit {
            Unit::Microseconds => format!("{own:.1} µs"),
            Unit::PerSecond => format!("{:.1} k/s", own / 1e3),
            Unit::GigabitsPerSecond => format!("{own:.1} Gbit/s"),
        })
    }
}

#[cfg(test)]
mod tests {
    use podlane_tests::bench::Row;

    use super::*;

    #[test]
    fn the_one_beside_shows_its_own_figure_and_others_their_part_of_it() {
        let row = |contender: &str, metric: &str, median| Row {
            topology: Some("same-node".to_owned()),
            contender: Some(contender.to_owned()),
            netfilter: Some(false),
            family: "ipv4".to_owned(),
            metric: metric.to_owned(),
            median,
            ..Row::default()
        };
        let rows = vec![
            row("wire", "tcp-rtt-p50", 17.52),
            row("wire", "tcp-rtt-relative", 0.999),
            row("podlane", "tcp-rtt-p50", 23.9),
            row("podlane", "tcp-rtt-relative", 1.036),
            row("wire", "udp-64-pps", 250_049.0),
        ];
        let [machine, kernel, date, commit, command] = [const { String::new() }; 5];
        let (contenders, programs, targets) = Default::default();
        let report = Report { machine, kernel, date, commit, command, contenders, programs, rows, targets };
        let shown = |column: &Column, who| column.figure(&report, "same-node", (who, false));
        assert_eq!(shown(&TCP, "wire").as_deref(), Some("17.5 µs"));
        assert_eq!(shown(&TCP, "podlane").as_deref(), Some("1.04"));
        assert_eq!(shown(&PACKETS, "wire").as_deref(), Some("250.0 k/s"));
        assert_eq!(shown(&PACKETS, "podlane"), None);
    }
}
