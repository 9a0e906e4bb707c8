//! The other nodes, and how packets reach them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::{
    cluster::Node,
    datapath::PeerRoute,
    netlink::{Link, Netlink, Route},
};

/// How a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// On the same segment: by the fast path.
    Direct,
    /// Not reached; a problem says why.
    Unreachable,
}

/// A peer in `podlane status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The node's name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNetwork>,
    /// How it is reached.
    pub state: PeerState,
    /// Next hops, one a family.
    pub next_hops: Vec<IpAddr>,
    /// The device they are on.
    pub uplink: Option<String>,
}

/// What is to be installed for the peers.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) peers: Vec<Peer>,
    /// For the programs.
    pub(super) fast: BTreeMap<IpNetwork, PeerRoute>,
    /// For the kernel.
    pub(super) slow: Vec<Route>,
    pub(super) problems: Vec<String>,
}

impl Plan {
    /// Resolves one peer's next hops by the kernel's own routes, and plans its routes.
    pub(super) async fn add(&mut self, node: &Node, netlink: &Netlink, uplinks: &[Link]) {
        let mut peer = Peer {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            state: PeerState::Direct,
            next_hops: Vec::new(),
            uplink: None,
        };
        for cidr in &node.pod_cidrs {
            match next_hop(node, *cidr, netlink, uplinks).await {
                Ok((address, uplink)) => {
                    let route = PeerRoute { ifindex: uplink.index, mtu: uplink.mtu, next_hop: address };
                    self.fast.insert(*cidr, route);
                    self.slow.push(Route::via(*cidr, address, uplink.index));
                    if !peer.next_hops.contains(&address) {
                        peer.next_hops.push(address);
                    }
                    peer.uplink = Some(uplink.name.clone());
                }
                Err(problem) => {
                    peer.state = PeerState::Unreachable;
                    self.problems.push(problem);
                }
            }
        }
        self.peers.push(peer);
    }
}

/// The next hop for a peer's pod CIDR: the peer's own address of that family, on an uplink's segment.
async fn next_hop<'a>(
    node: &Node,
    cidr: IpNetwork,
    netlink: &Netlink,
    uplinks: &'a [Link],
) -> Result<(IpAddr, &'a Link), String> {
    let name = &node.name;
    let Some(address) = node.addresses.iter().find(|address| address.is_ipv4() == cidr.is_ipv4()) else {
        return Err(format!("node {name} has no address of the family of its pod CIDR {cidr}: list one"));
    };
    let resolved = netlink
        .resolve(*address)
        .await
        .map_err(|error| format!("no route to node {name} at {address}: {error:#}"))?;
    if let Some(gateway) = resolved.gateway {
        return Err(format!(
            "node {name} at {address} is behind the router {gateway}: only nodes on one segment are supported so far"
        ));
    }
    match uplinks.iter().find(|uplink| uplink.index == resolved.ifindex) {
        Some(uplink) if uplink.up => Ok((*address, uplink)),
        Some(uplink) => Err(format!("node {name} at {address} is behind {}, which is down", uplink.name)),
        None => Err(format!(
            "node {name} at {address} is reached by the device with index {}, which is not an uplink: add it to uplinks",
            resolved.ifindex
        )),
    }
}
