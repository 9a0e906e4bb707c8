//! What is to be installed for the peers: routes for the programs and for the kernel, neighbours, rules.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;

use super::{
    mtu,
    path::{self, Path},
    peers::{Peer, PeerPaths, PeerState},
};
use crate::{
    cluster::Node,
    datapath::{PeerNextHop, PeerRoute, Underlay},
    netlink::{Encap, Link, PEER_TABLE, Route, Rule},
    pods::gateway,
};

/// What is to be installed for the peers.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) peers: Vec<Peer>,
    /// For the programs.
    pub(super) fast: BTreeMap<IpNetwork, PeerRoute>,
    /// For the kernel.
    pub(super) slow: Vec<Route>,
    /// The kernel's next hops on the overlay device.
    pub(super) neighbours: BTreeMap<IpAddr, [u8; 6]>,
    /// Which packets ask Podlane's own routing table first.
    pub(super) rules: BTreeSet<Rule>,
    pub(super) problems: Vec<String>,
    /// Both families often have the same one.
    told: HashSet<String>,
}

/// What a plan is made for: this node, and its overlay device where there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    pub(super) node: &'a Node,
    pub(super) overlay: Option<&'a Link>,
    pub(super) vni: u32,
    /// Whether the programs put the overlay's headers around packets themselves.
    pub(super) wraps: bool,
    /// What routers have told the programs: the largest inner packets that get to these peers.
    pub(super) path_mtus: &'a BTreeMap<IpAddr, u32>,
}

/// A tunnel to plan routes for.
#[derive(Clone, Copy)]
struct Through<'a> {
    overlay: &'a Link,
    /// The peer's end.
    outer: IpAddr,
    mac: [u8; 6],
    /// The largest inner packet.
    mtu: u32,
}

impl Plan {
    /// Plans one peer's routes.
    pub(super) fn add(&mut self, here: Here<'_>, found: &PeerPaths<'_>) {
        let node = found.node;
        let mut peer = Peer::new(Arc::clone(node));
        let mut tunnelled = Vec::new();
        for (cidr, path) in &found.paths {
            let (address, uplink, state) = match path {
                Ok(Path::Direct(hop)) => (hop.address, &hop.uplink, PeerState::Direct),
                Ok(Path::Routed(hop)) => (hop.address, &hop.uplink, PeerState::Routed),
                Ok(Path::Tunnel(tunnel)) => (tunnel.address, &tunnel.uplink, PeerState::Tunnel),
                Err(problem) => {
                    peer.state = PeerState::Unreachable;
                    self.problem(problem);
                    continue;
                }
            };
            peer.state = peer.state.max(state);
            peer.add_next_hop(address, uplink);
            let Ok(Path::Tunnel(tunnel)) = path else {
                let next_hop = PeerNextHop::Direct(address);
                self.fast.insert(*cidr, PeerRoute { ifindex: uplink.index, mtu: uplink.mtu, next_hop });
                self.slow.push(Route::via(*cidr, address, uplink.index));
                continue;
            };
            if let (Some(overlay), Some(mac)) = (here.overlay, path::mac(&node.addresses)) {
                let mtu = mtu::tunnel(overlay.mtu, tunnel, here.path_mtus.get(&address).copied());
                let next_hop = PeerNextHop::Tunnel { node: address, mac, underlay: underlay(here, tunnel) };
                self.fast.insert(*cidr, PeerRoute { ifindex: overlay.index, mtu, next_hop });
                let through = Through { overlay, outer: address, mac, mtu };
                self.tunnel(here, *cidr, through);
                tunnelled.push((cidr.is_ipv4(), through));
            } else {
                // Why there is no device has been told.
                peer.state = PeerState::Unreachable;
            }
        }
        for (v4, through) in tunnelled {
            self.own_addresses(here, node, v4, through);
        }
        self.peers.push(peer);
    }

    /// The kernel's route through the overlay. This node's own packets take the gateway's address as their source, so
    /// that the answers come back through the overlay as well.
    fn tunnel(&mut self, here: Here<'_>, to: IpNetwork, through: Through<'_>) {
        let Through { overlay, outer, mac, mtu } = through;
        let cidrs = &here.node.pod_cidrs;
        let own = cidrs.iter().find(|own| own.is_ipv4() == to.is_ipv4());
        // IPv6 next hops are link-local; IPv4 ones are as well where the outer packet is IPv6.
        let next_hop = if to.is_ipv4() && outer.is_ipv4() { outer } else { path::link_local(mac).into() };
        self.neighbours.insert(next_hop, mac);
        self.slow.push(Route {
            on_link: true,
            source: own.map(gateway),
            encap: Some(Encap { remote: outer, vni: here.vni }),
            mtu: mtu::slow_route(overlay.mtu, mtu, to.is_ipv6()),
            ..Route::via(to, next_hop, overlay.index)
        });
    }

    /// Packets from pods to the peer's own addresses go through the overlay too: the network between the nodes knows
    /// no pod addresses, and may drop what comes from them.
    fn own_addresses(&mut self, here: Here<'_>, node: &Node, v4: bool, through: Through<'_>) {
        let sources: Vec<Rule> = here
            .node
            .pod_cidrs
            .iter()
            .filter(|cidr| cidr.is_ipv4() == v4)
            .map(|cidr| Rule { from: *cidr })
            .collect();
        for address in node.addresses.iter().filter(|address| address.is_ipv4() == v4) {
            if !sources.is_empty() {
                self.tunnel(here, IpNetwork::from(*address), through);
                if let Some(route) = self.slow.last_mut() {
                    route.table = PEER_TABLE;
                }
                self.rules.extend(sources.iter().copied());
            }
        }
    }

    fn problem(&mut self, problem: &str) {
        if self.told.insert(problem.to_owned()) {
            self.problems.push(problem.to_owned());
        }
    }
}

/// How the programs reach a peer's end of the overlay by themselves. Peers take the packets by their source, which is
/// this node's first address of the family: the one that they send to.
fn underlay(here: Here<'_>, tunnel: &path::Tunnel) -> Option<Underlay> {
    let own = here.node.addresses.iter().find(|own| own.is_ipv4() == tunnel.address.is_ipv4());
    let source = *own.filter(|_| here.wraps)?;
    let next_hop = tunnel.gateway.unwrap_or(tunnel.address);
    Some(Underlay { ifindex: tunnel.uplink.index, source, next_hop })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::link;

    #[test]
    fn a_tunnelled_peer_gets_routes_of_both_kinds_and_one_neighbour_a_family() {
        let net = |text: &str| -> IpNetwork { text.parse().unwrap() };
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let own = Node::of("node1", &["192.168.1.11"], &["10.244.1.0/24", "fd00:244:1::/64"]);
        let peer = Node::of("node2", &["192.168.2.12"], &["10.244.2.0/24", "fd00:244:2::/64"]);
        let hop = path::Tunnel {
            address: ip("192.168.2.12"),
            gateway: Some(ip("192.168.1.1")),
            uplink: Arc::new(link(2, "uplink", 1500)),
            path_mtu: Some(1400),
        };
        let paths = peer.pod_cidrs.iter().map(|cidr| (*cidr, Ok(Path::Tunnel(hop.clone())))).collect();
        let overlay = link(3, "podlane.vxlan", 1450);
        let mut plan = Plan::default();
        let here = Here {
            node: &own,
            overlay: Some(&overlay),
            vni: 7,
            wraps: true,
            path_mtus: &BTreeMap::from([(ip("192.168.2.12"), 1340)]),
        };
        plan.add(here, &PeerPaths { node: &Arc::new(peer), paths });

        let mac = [0x02, 0x50, 192, 168, 2, 12];
        let underlay = Underlay { ifindex: 2, source: ip("192.168.1.11"), next_hop: ip("192.168.1.1") };
        let next_hop = PeerNextHop::Tunnel { node: ip("192.168.2.12"), mac, underlay: Some(underlay) };
        let fast = PeerRoute { ifindex: 3, mtu: 1340, next_hop };
        assert_eq!(plan.fast.into_values().collect::<Vec<_>>(), [fast, fast]);
        let neighbours = [(ip("192.168.2.12"), mac), (ip("fe80::50:c0ff:fea8:20c"), mac)];
        assert_eq!(plan.neighbours, BTreeMap::from(neighbours));
        let slow: Vec<_> =
            plan.slow.iter().map(|r| (r.destination, r.gateway.unwrap(), r.source, r.table)).collect();
        let main = Route::to_device(net("10.244.2.0/24"), 3).table;
        assert_eq!(
            slow,
            [
                (net("10.244.2.0/24"), neighbours[0].0, Some(ip("10.244.1.1")), main),
                (net("fd00:244:2::/64"), neighbours[1].0, Some(ip("fd00:244:1::1")), main),
                (net("192.168.2.12/32"), neighbours[0].0, Some(ip("10.244.1.1")), PEER_TABLE),
            ]
        );
        assert!(plan.slow.iter().all(|route| route.mtu == Some(1340)));
        assert!(plan.slow.iter().all(|route| route.encap == Some(Encap { remote: hop.address, vni: 7 })));
        assert_eq!(plan.rules, BTreeSet::from([Rule { from: net("10.244.1.0/24") }]));
        assert_eq!((plan.peers[0].state, plan.problems.len()), (PeerState::Tunnel, 0));
    }

    #[test]
    fn without_the_overlay_device_a_tunnelled_peer_is_unreachable() {
        let own = Node::of("node1", &["192.168.1.11"], &["10.244.1.0/24"]);
        let peer = Node::of("node2", &["192.168.2.12"], &["10.244.2.0/24"]);
        let hop = path::Tunnel {
            address: peer.addresses[0],
            gateway: None,
            uplink: Arc::new(link(2, "uplink", 1500)),
            path_mtu: None,
        };
        let paths = vec![(peer.pod_cidrs[0], Ok(Path::Tunnel(hop)))];
        let mut plan = Plan::default();
        let here = Here { node: &own, overlay: None, vni: 1, wraps: true, path_mtus: &BTreeMap::new() };
        plan.add(here, &PeerPaths { node: &Arc::new(peer), paths });
        assert_eq!((plan.peers[0].state, plan.slow.len(), plan.fast.len()), (PeerState::Unreachable, 0, 0));
    }
}
