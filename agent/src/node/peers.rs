//! The other nodes, and how packets reach them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    path::{self, Path, Policy, Way},
    ways::Ways,
};
use crate::{cluster::Node, netlink::Link};

/// How a peer is reached. Where its pod CIDRs are reached in different ways, the last of these that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// On the same segment: by the fast path.
    Direct,
    /// Through the router, which routes pod CIDRs: by the fast path.
    Routed,
    /// Through the overlay: by the fast path.
    Tunnel,
    /// Not reached; a problem says why.
    Unreachable,
}

/// A peer in `podlane status`. Small, as there are thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, addresses and pod CIDRs.
    pub node: Arc<Node>,
    /// How it is reached.
    pub state: PeerState,
    /// Next hops, one a family: the peer, the router, or the peer's end of the overlay.
    next_hops: [Option<IpAddr>; 2],
    /// The device they are on.
    uplink: Option<Arc<Link>>,
}

impl Peer {
    /// One without next hops.
    pub(super) const fn new(node: Arc<Node>) -> Self {
        Self { node, state: PeerState::Direct, next_hops: [None; 2], uplink: None }
    }

    pub(super) fn add_next_hop(&mut self, address: IpAddr, uplink: &Arc<Link>) {
        self.uplink = Some(Arc::clone(uplink));
        if !self.next_hops.contains(&Some(address))
            && let Some(free) = self.next_hops.iter_mut().find(|hop| hop.is_none())
        {
            *free = Some(address);
        }
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Node { name, addresses, pod_cidrs } = self.node.as_ref();
        let mut peer = serializer.serialize_struct("Peer", 6)?;
        peer.serialize_field("name", name)?;
        peer.serialize_field("addresses", addresses)?;
        peer.serialize_field("podCIDRs", pod_cidrs)?;
        peer.serialize_field("state", &self.state)?;
        peer.serialize_field("nextHops", &self.next_hops.iter().flatten().collect::<Vec<_>>())?;
        peer.serialize_field("uplink", &self.uplink.as_ref().map(|uplink| &uplink.name))?;
        peer.end()
    }
}

/// The paths to one peer's pod CIDRs.
#[derive(Debug)]
pub(super) struct PeerPaths<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) paths: Vec<(IpNetwork, Result<Path, String>)>,
}

impl<'a> PeerPaths<'a> {
    /// Chooses among the kernel's ways to the peer's addresses.
    pub(super) fn find(
        own: &Node,
        node: &'a Arc<Node>,
        policy: Policy,
        ways: &Ways,
        uplinks: &[Arc<Link>],
    ) -> Self {
        let way = |address: &IpAddr| Way::new(&node.name, *address, ways.to(*address), uplinks);
        let ways: Vec<Way> = node.addresses.iter().map(way).collect();
        let outer = path::outer(&own.addresses, &node.addresses);
        let choose = |cidr: &IpNetwork| path::choose(&node.name, cidr.is_ipv4(), &ways, outer, policy);
        let paths = node.pod_cidrs.iter().map(|cidr| (*cidr, choose(cidr))).collect();
        Self { node, paths }
    }

    /// The paths that there are.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().filter_map(|(_, path)| path.as_ref().ok())
    }

    /// Whether a pod CIDR has none.
    pub(super) fn incomplete(&self) -> bool {
        self.paths.iter().any(|(_, path)| path.is_err())
    }
}

/// Nodes whose overlay devices would have the same MAC address: they drop each other's frames as their own.
pub(super) fn mac_collisions<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Vec<String> {
    let mut owners: BTreeMap<[u8; 6], &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for node in nodes {
        if let Some(mac) = path::mac(&node.addresses)
            && let Some(other) = owners.insert(mac, &node.name)
        {
            problems.push(format!(
                "nodes {other} and {} would have the same MAC address in the overlay, as it is worked out from their addresses: change an address of one of them",
                node.name
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_overlay_macs_are_told_with_both_names() {
        // Found by trying: their hashes are equal.
        let nodes = [("node1", "fd00:1::710:eaf8"), ("node2", "fd00:1::3bc1:fac1"), ("node3", "192.168.1.3")]
            .map(|(name, address)| Node::of(name, &[address], &["10.244.1.0/24"]));
        let problems = mac_collisions(&nodes);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("nodes node1 and node2"), "{problems:?}");
        assert_eq!(mac_collisions([&nodes[0], &nodes[2]]), Vec::<String>::new());
    }
}
