//! The cluster file: which nodes there are. Field names as Kubernetes uses them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::Node;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// All nodes, this one among them.
    pub nodes: Vec<ClusterNode>,
}

/// One node's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNode {
    /// The node's name.
    pub name: String,
    /// Its addresses on the wire.
    pub addresses: Vec<IpAddr>,
    /// What its pods' addresses are taken from.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
}

impl Cluster {
    /// The cluster made of `nodes`.
    pub(super) fn of(nodes: &[Node]) -> Self {
        let entry = |node: &Node| ClusterNode {
            name: node.name().to_owned(),
            addresses: node.addresses().collect(),
            pod_cidrs: node.pod_cidrs().to_vec(),
        };
        Self { nodes: nodes.iter().map(entry).collect() }
    }
}
