//! A node as a source describes it, and what is wrong with it by itself.

use std::net::IpAddr;

use anyhow::{bail, ensure};
use ipnetwork::IpNetwork;
use serde::Deserialize;

/// A node as the source describes it. Field names are Kubernetes'.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The addresses by which the other nodes reach it, of either family.
    pub addresses: Vec<IpAddr>,
    /// Its pods' addresses come from these, of either family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
}

impl Node {
    /// Of this name, these addresses and pod CIDRs, unchecked.
    #[cfg(test)]
    pub(crate) fn of(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Self {
        Self {
            name: name.into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        }
    }

    /// Checks what can be checked without the other nodes.
    ///
    /// # Errors
    /// Names the value and the way out: no name, address or pod CIDR, one that is listed twice or holds no pods.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let name = &self.name;
        ensure!(!name.is_empty(), "a node without a name: give each node its name");
        ensure!(!self.addresses.is_empty(), "node {name} has no addresses: list at least one");
        ensure!(
            !self.pod_cidrs.is_empty(),
            "node {name} has no podCIDRs: list at least one, such as 10.244.1.0/24"
        );
        for (index, address) in self.addresses.iter().enumerate() {
            ensure!(
                !self.addresses.iter().take(index).any(|other| other == address),
                "address {address} of {name} is listed twice: list it once"
            );
        }
        for (index, cidr) in self.pod_cidrs.iter().enumerate() {
            check_cidr(name, *cidr)?;
            if let Some(other) = self.pod_cidrs.iter().take(index).find(|other| overlap(**other, *cidr)) {
                bail!(
                    "pod CIDR {cidr} of {name} overlaps {other} of the same node: list ranges that are apart"
                );
            }
            if let Some(address) = self.addresses.iter().find(|address| cidr.contains(**address)) {
                bail!(
                    "address {address} of {name} lies in its own pod CIDR {cidr}: nodes' and pods' addresses are apart"
                );
            }
        }
        Ok(())
    }
}

pub(super) fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

fn check_cidr(node: &str, cidr: IpNetwork) -> anyhow::Result<()> {
    ensure!(
        cidr.ip() == cidr.network(),
        "pod CIDR {cidr} of {node} has host bits set: write {}/{}",
        cidr.network(),
        cidr.prefix()
    );
    // A gateway and one pod, beside network and broadcast address.
    let longest = if cidr.is_ipv4() { 30 } else { 126 };
    ensure!(
        (1..=longest).contains(&cidr.prefix()),
        "pod CIDR {cidr} of {node} cannot hold pods: its prefix length must be 1 to {longest}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(addresses: &[&str], pod_cidrs: &[&str]) -> String {
        Node::of("node2", addresses, pod_cidrs).check().unwrap_err().to_string()
    }

    #[test]
    fn a_node_that_contradicts_itself_is_told_with_the_value() {
        for (addresses, pod_cidrs, expected) in [
            (&["192.168.1.12"][..], &["10.244.2.1/24"][..], "has host bits set: write 10.244.2.0/24"),
            (&["192.168.1.12"], &["10.244.2.0/31"], "cannot hold pods"),
            (&["192.168.1.12"], &[], "node node2 has no podCIDRs"),
            (&[], &["10.244.2.0/24"], "node node2 has no addresses"),
            (&["192.168.1.12", "192.168.1.12"], &["10.244.2.0/24"], "192.168.1.12 of node2 is listed twice"),
            (
                &["192.168.1.12"],
                &["10.244.2.0/24", "10.244.0.0/16"],
                "10.244.0.0/16 of node2 overlaps 10.244.2.0/24",
            ),
            (&["10.244.2.7"], &["10.244.2.0/24"], "10.244.2.7 of node2 lies in its own pod CIDR"),
        ] {
            let error = error(addresses, pod_cidrs);
            assert!(error.contains(expected), "{error}");
        }
    }
}
