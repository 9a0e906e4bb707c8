//! The kernel's own counters of a namespace.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::lab::{Namespace, Node};

/// How many packets the kernel's IP layer forwarded in `namespace`: IPv4 (`Ip: ForwDatagrams`) and IPv6.
pub fn forwarded(namespace: &Namespace) -> anyhow::Result<u64> {
    // `/proc/net` follows the process's first thread, not the one that entered the namespace.
    let (v4, v6) = namespace.run(|| {
        let read = |file| fs_err::read_to_string(format!("/proc/thread-self/net/{file}"));
        // Kernels without IPv6 have no snmp6.
        (read("snmp"), read("snmp6").unwrap_or_default())
    })?;
    let v4 = snmp(&v4?).get("Ip:ForwDatagrams").copied();
    let v4 = v4.with_context(|| format!("no Ip: ForwDatagrams in /proc/net/snmp of {}", namespace.name()))?;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")?.trim().parse::<u64>().ok());
    Ok(v4 + v6.unwrap_or(0))
}

/// [`forwarded`] on every node.
pub fn forwarded_by(nodes: &[Node]) -> anyhow::Result<Vec<u64>> {
    nodes.iter().map(|node| forwarded(node.namespace())).collect()
}

/// Pairs of lines, names and values: `Ip: Forwarding DefaultTTL …` and `Ip: 1 64 …`.
fn snmp(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<_> = text.lines().collect();
    let mut counters = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let [names, values] = pair else { continue };
        let section = names.split_whitespace().next().unwrap_or_default();
        let both = names.split_whitespace().zip(values.split_whitespace()).skip(1);
        // Some counters are signed; none that anybody asks for here.
        counters
            .extend(both.filter_map(|(name, value)| Some((format!("{section}{name}"), value.parse().ok()?))));
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::snmp;

    #[test]
    fn counters_have_the_value_below_their_name() {
        let text = "Ip: Forwarding DefaultTTL ForwDatagrams\nIp: 1 64 7\nTcp: MaxConn InSegs\nTcp: -1 9\n";
        let counters = snmp(text);
        assert_eq!(counters["Ip:ForwDatagrams"], 7);
        assert_eq!(counters["Tcp:InSegs"], 9);
        assert_eq!(counters.get("Tcp:MaxConn"), None);
    }
}
