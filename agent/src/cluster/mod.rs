//! Where the nodes of the cluster come from. A source yields full states; a source that is down or wrong never
//! removes anything: what it last said stays in force.

mod file;
mod setting;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use anyhow::{bail, ensure};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use tokio::sync::mpsc;

pub use file::FileSource;
pub use setting::{SourceSetting, start};

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

/// A full and consistent list of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    nodes: BTreeMap<String, Node>,
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The nodes are these now.
    Cluster(Cluster),
    /// The source cannot be read or contradicts itself; what it said before stays in force.
    Problem(String),
}

/// A cluster source: runs until the receiver is gone.
pub trait ClusterSource: Send + 'static {
    /// Sends the first state or problem at once, and then each change.
    fn run(self, updates: mpsc::Sender<Update>) -> impl Future<Output = ()> + Send;
}

impl Cluster {
    /// Checks a list of nodes.
    ///
    /// # Errors
    /// Names the nodes and values that contradict each other: duplicate names or addresses, overlapping pod CIDRs, a
    /// node without an address or a pod CIDR, a CIDR that is not a network address or holds no pods.
    pub fn new(list: Vec<Node>) -> anyhow::Result<Self> {
        let mut nodes = BTreeMap::new();
        let mut owners: HashMap<IpAddr, String> = HashMap::new();
        for node in list {
            let name = node.name.clone();
            ensure!(!name.is_empty(), "a node without a name: give each node its name");
            ensure!(!node.addresses.is_empty(), "node {name} has no addresses: list at least one");
            ensure!(
                !node.pod_cidrs.is_empty(),
                "node {name} has no podCIDRs: list at least one, such as 10.244.1.0/24"
            );
            for address in &node.addresses {
                if let Some(other) = owners.insert(*address, name.clone()) {
                    bail!("address {address} belongs to both {other} and {name}: each address is one node's");
                }
            }
            for cidr in &node.pod_cidrs {
                check_cidr(&name, *cidr)?;
            }
            if nodes.insert(name.clone(), node).is_some() {
                bail!("node {name} is listed twice: names are unique");
            }
        }
        let cluster = Self { nodes };
        cluster.check_overlaps()?;
        Ok(cluster)
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Every node but this one.
    pub fn peers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> + 'a {
        self.nodes.values().filter(move |node| node.name != name)
    }

    /// The nodes' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Sorted by first address, overlapping networks are neighbours: no need to compare all with all.
    fn check_overlaps(&self) -> anyhow::Result<()> {
        let mut cidrs: Vec<(IpNetwork, &str)> = self
            .nodes
            .values()
            .flat_map(|node| node.pod_cidrs.iter().map(|cidr| (*cidr, node.name.as_str())))
            .collect();
        cidrs.sort_by_key(|(cidr, _)| (cidr.network(), cidr.prefix()));
        for pair in cidrs.windows(2) {
            if let [(first, owner), (second, other)] = pair
                && first.contains(second.network())
            {
                bail!(
                    "pod CIDR {second} of {other} overlaps {first} of {owner}: give each node its own range"
                );
            }
        }
        for node in self.nodes.values() {
            for address in &node.addresses {
                let behind = cidrs.partition_point(|(cidr, _)| cidr.network() <= *address);
                if let Some((cidr, owner)) = behind.checked_sub(1).and_then(|index| cidrs.get(index))
                    && cidr.contains(*address)
                {
                    bail!(
                        "address {address} of {} lies in pod CIDR {cidr} of {owner}: nodes' and pods' addresses are apart",
                        node.name
                    );
                }
            }
        }
        Ok(())
    }
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

    fn node(name: &str, address: &str, cidr: &str) -> Node {
        Node {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: vec![cidr.parse().unwrap()],
        }
    }

    fn error(nodes: Vec<Node>) -> String {
        Cluster::new(nodes).unwrap_err().to_string()
    }

    #[test]
    fn a_cluster_of_two_families_is_accepted() {
        let mut first = node("node1", "192.168.1.11", "10.244.1.0/24");
        first.addresses.push("fd00:1::11".parse().unwrap());
        first.pod_cidrs.push("fd00:244:1::/64".parse().unwrap());
        let cluster = Cluster::new(vec![first, node("node2", "192.168.1.12", "10.244.2.0/24")]).unwrap();
        assert_eq!(cluster.peers("node1").map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["node2"]);
    }

    #[test]
    fn contradictions_are_refused_with_the_names_and_values() {
        let good = || node("node1", "192.168.1.11", "10.244.1.0/24");
        for (other, expected) in [
            (node("node2", "192.168.1.12", "10.244.1.0/24"), "overlaps 10.244.1.0/24 of node1"),
            (
                node("node2", "192.168.1.12", "10.244.0.0/16"),
                "10.244.1.0/24 of node1 overlaps 10.244.0.0/16 of node2",
            ),
            (node("node2", "192.168.1.12", "10.244.1.128/25"), "10.244.1.128/25 of node2 overlaps"),
            (node("node2", "192.168.1.11", "10.244.2.0/24"), "192.168.1.11 belongs to both node1 and node2"),
            (node("node1", "192.168.1.12", "10.244.2.0/24"), "node node1 is listed twice"),
            (node("node2", "192.168.1.12", "10.244.2.1/24"), "has host bits set: write 10.244.2.0/24"),
            (node("node2", "192.168.1.12", "10.244.2.0/31"), "cannot hold pods"),
            (
                node("node2", "10.244.1.7", "10.244.2.0/24"),
                "10.244.1.7 of node2 lies in pod CIDR 10.244.1.0/24 of node1",
            ),
        ] {
            let error = error(vec![good(), other]);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_node_without_a_pod_cidr_or_an_address_is_refused() {
        let mut lacking = node("node2", "192.168.1.12", "10.244.2.0/24");
        lacking.pod_cidrs.clear();
        assert!(error(vec![lacking.clone()]).contains("node node2 has no podCIDRs"));
        lacking.addresses.clear();
        assert!(error(vec![lacking]).contains("node node2 has no addresses"));
    }
}
