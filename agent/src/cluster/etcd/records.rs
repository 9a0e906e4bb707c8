//! What is in etcd: keys and JSON, version 1. `docs/etcd.md` documents them.

use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::cluster::Node;

/// The version that this agent writes, and the only one it reads.
const VERSION: u32 = 1;

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// A node as it publishes itself, under its lease.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeRecord {
    version: u32,
    name: String,
    addresses: Vec<IpAddr>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNetwork>,
}

/// Whose a pod CIDR is, without a lease.
#[derive(Debug, Serialize, Deserialize)]
struct AllocationRecord {
    version: u32,
    node: String,
}

/// Newer versions say so, and may look different otherwise.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Keys {
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// What the nodes' keys begin with.
    pub(super) fn nodes(&self) -> String {
        format!("{}/nodes/", self.prefix)
    }

    pub(super) fn node(&self, name: &str) -> String {
        format!("{}{name}", self.nodes())
    }

    /// What the allocations' keys begin with.
    pub(super) fn allocations(&self) -> String {
        format!("{}/pod-cidrs/", self.prefix)
    }

    /// A slash would look like a folder in etcd's tools.
    pub(super) fn allocation(&self, cidr: IpNetwork) -> String {
        format!("{}{}-{}", self.allocations(), cidr.network(), cidr.prefix())
    }

    /// The pod CIDR that an allocation's key stands for.
    pub(super) fn cidr(&self, key: &[u8]) -> Option<IpNetwork> {
        let text = std::str::from_utf8(key).ok()?.strip_prefix(&self.allocations())?;
        text.replacen('-', "/", 1).parse().ok()
    }

    /// The name that a node's key stands for.
    pub(super) fn name(&self, key: &[u8]) -> Option<String> {
        std::str::from_utf8(key).ok()?.strip_prefix(&self.nodes()).map(str::to_owned)
    }
}

pub(super) fn node_to_json(node: &Node) -> anyhow::Result<String> {
    let record = NodeRecord {
        version: VERSION,
        name: node.name.clone(),
        addresses: node.addresses.clone(),
        pod_cidrs: node.pod_cidrs.clone(),
    };
    serde_json::to_string(&record).context("describing this node")
}

/// Reads what a node has published under its name.
pub(super) fn node_from_json(name: &str, json: &[u8]) -> anyhow::Result<Node> {
    check_version(json)?;
    let record: NodeRecord = serde_json::from_slice(json)?;
    ensure!(record.name == name, "it says that its name is {}", record.name);
    Ok(Node { name: record.name, addresses: record.addresses, pod_cidrs: record.pod_cidrs })
}

pub(super) fn allocation_to_json(node: &str) -> anyhow::Result<String> {
    serde_json::to_string(&AllocationRecord { version: VERSION, node: node.to_owned() })
        .context("describing an allocation")
}

/// The name of the node that a pod CIDR is allocated to.
pub(super) fn allocation_from_json(json: &[u8]) -> anyhow::Result<String> {
    check_version(json)?;
    Ok(serde_json::from_slice::<AllocationRecord>(json)?.node)
}

fn check_version(json: &[u8]) -> anyhow::Result<()> {
    let Versioned { version } = serde_json::from_slice(json)?;
    ensure!(
        version == VERSION,
        "it is of version {version}, this agent reads version {VERSION}: upgrade the agent"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_for_cidrs_and_names() {
        let keys = Keys::new("/podlane".into());
        for (cidr, key) in [
            ("10.244.1.0/24", "/podlane/pod-cidrs/10.244.1.0-24"),
            ("fd00:244:1::/64", "/podlane/pod-cidrs/fd00:244:1::-64"),
        ] {
            let cidr: IpNetwork = cidr.parse().unwrap();
            assert_eq!(keys.allocation(cidr), key);
            assert_eq!(keys.cidr(key.as_bytes()), Some(cidr));
        }
        assert_eq!(keys.cidr(b"/podlane/pod-cidrs/nonsense"), None);
        assert_eq!(keys.name(b"/podlane/nodes/node1").as_deref(), Some("node1"));
    }

    #[test]
    fn the_format_stays_as_documented() {
        let json =
            r#"{"version":1,"name":"node1","addresses":["192.168.1.11"],"podCIDRs":["10.244.1.0/24"]}"#;
        let node = node_from_json("node1", json.as_bytes()).unwrap();
        assert_eq!(node_to_json(&node).unwrap(), json);
        // A later agent of the same version may add fields.
        node_from_json("node1", json.replace("\"name\"", "\"zone\":\"a\",\"name\"").as_bytes()).unwrap();
        for (json, name, expected) in [
            (json.to_owned(), "node2", "its name is node1"),
            (
                json.replace("\"version\":1", "\"version\":2"),
                "node1",
                "of version 2, this agent reads version 1",
            ),
            ("{}".to_owned(), "node1", "missing field `version`"),
        ] {
            let error = node_from_json(name, json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(allocation_to_json("node1").unwrap(), r#"{"version":1,"node":"node1"}"#);
    }
}
