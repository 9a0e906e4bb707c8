//! What is to be installed for the peers: routes for the programs and for the kernel, neighbours, rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use super::{
    path::{self, Path},
    peers::{Peer, PeerPaths, PeerState},
};
use crate::{
    cluster::Node,
    datapath::{PeerNextHop, PeerRoute},
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
}

/// What a plan is made for: this node, and its overlay device where there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    pub(super) node: &'a Node,
    pub(super) overlay: Option<&'a Link>,
    pub(super) vni: u32,
}

impl Plan {
    /// Plans one peer's routes.
    pub(super) fn add(&mut self, here: Here<'_>, found: &PeerPaths<'_>) {
        let node = found.node;
        let mut peer = Peer {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            state: PeerState::Direct,
            next_hops: Vec::new(),
            uplink: None,
        };
        let mut tunnelled = Vec::new();
        for (cidr, path) in &found.paths {
            let (hop, state) = match path {
                Ok(Path::Direct(hop)) => (hop, PeerState::Direct),
                Ok(Path::Routed(hop)) => (hop, PeerState::Routed),
                Ok(Path::Tunnel(hop)) => (hop, PeerState::Tunnel),
                Err(problem) => {
                    peer.state = PeerState::Unreachable;
                    self.problem(problem);
                    continue;
                }
            };
            peer.state = peer.state.max(state);
            peer.uplink = Some(hop.uplink.name.clone());
            if !peer.next_hops.contains(&hop.address) {
                peer.next_hops.push(hop.address);
            }
            if state != PeerState::Tunnel {
                let uplink = &hop.uplink;
                let next_hop = PeerNextHop::Direct(hop.address);
                self.fast.insert(*cidr, PeerRoute { ifindex: uplink.index, mtu: uplink.mtu, next_hop });
                self.slow.push(Route::via(*cidr, hop.address, uplink.index));
            } else if let (Some(overlay), Some(mac)) = (here.overlay, path::mac(&node.addresses)) {
                let next_hop = PeerNextHop::Tunnel { node: hop.address, mac };
                self.fast.insert(*cidr, PeerRoute { ifindex: overlay.index, mtu: overlay.mtu, next_hop });
                self.tunnel(here, overlay, *cidr, hop.address, mac);
                tunnelled.push((cidr.is_ipv4(), hop.address, overlay, mac));
            } else {
                // Why there is no device has been told.
                peer.state = PeerState::Unreachable;
            }
        }
        for (v4, outer, overlay, mac) in tunnelled {
            self.own_addresses(here, node, v4, outer, overlay, mac);
        }
        self.peers.push(peer);
    }

    /// The kernel's route through the overlay. This node's own packets take the gateway's address as their source, so
    /// that the answers come back through the overlay as well.
    fn tunnel(&mut self, here: Here<'_>, overlay: &Link, to: IpNetwork, outer: IpAddr, mac: [u8; 6]) {
        let cidrs = &here.node.pod_cidrs;
        let own = cidrs.iter().find(|own| own.is_ipv4() == to.is_ipv4());
        // IPv6 next hops are link-local; IPv4 ones are as well where the outer packet is IPv6.
        let next_hop = if to.is_ipv4() && outer.is_ipv4() { outer } else { path::link_local(mac).into() };
        self.neighbours.insert(next_hop, mac);
        self.slow.push(Route {
            on_link: true,
            source: own.map(gateway),
            encap: Some(Encap { remote: outer, vni: here.vni }),
            ..Route::via(to, next_hop, overlay.index)
        });
    }

    /// Packets from pods to the peer's own addresses go through the overlay too: the network between the nodes knows
    /// no pod addresses, and may drop what comes from them.
    fn own_addresses(
        &mut self,
        here: Here<'_>,
        node: &Node,
        v4: bool,
        outer: IpAddr,
        overlay: &Link,
        mac: [u8; 6],
    ) {
        let sources: Vec<Rule> = here
            .node
            .pod_cidrs
            .iter()
            .filter(|cidr| cidr.is_ipv4() == v4)
            .map(|cidr| Rule { from: *cidr })
            .collect();
        for address in node.addresses.iter().filter(|address| address.is_ipv4() == v4) {
            if !sources.is_empty() {
                self.tunnel(here, overlay, IpNetwork::from(*address), outer, mac);
                if let Some(route) = self.slow.last_mut() {
                    route.table = PEER_TABLE;
                }
                self.rules.extend(sources.iter().copied());
            }
        }
    }

    fn problem(&mut self, problem: &str) {
        // Both families often have the same one.
        if !self.problems.iter().any(|told| told == problem) {
            self.problems.push(problem.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str) -> Node {
        Node {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        }
    }

    fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link {
            index,
            name: name.into(),
            mac: None,
            mtu,
            up: true,
            loopback: false,
            kind: None,
            alias: None,
            vxlan: None,
            peer: None,
        }
    }

    #[test]
    fn a_tunnelled_peer_gets_routes_of_both_kinds_and_one_neighbour_a_family() {
        let net = |text: &str| -> IpNetwork { text.parse().unwrap() };
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let mut own = node("node1", "192.168.1.11");
        own.pod_cidrs.push(net("fd00:244:1::/64"));
        let mut peer = node("node2", "192.168.2.12");
        peer.pod_cidrs = vec![net("10.244.2.0/24"), net("fd00:244:2::/64")];
        let hop = path::Hop { address: ip("192.168.2.12"), uplink: link(2, "uplink", 1500) };
        let paths = peer.pod_cidrs.iter().map(|cidr| (*cidr, Ok(Path::Tunnel(hop.clone())))).collect();
        let overlay = link(3, "podlane.vxlan", 1450);
        let mut plan = Plan::default();
        plan.add(Here { node: &own, overlay: Some(&overlay), vni: 7 }, &PeerPaths { node: &peer, paths });

        let mac = [0x02, 0x50, 192, 168, 2, 12];
        let next_hop = PeerNextHop::Tunnel { node: ip("192.168.2.12"), mac };
        let fast = PeerRoute { ifindex: 3, mtu: 1450, next_hop };
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
        assert!(plan.slow.iter().all(|route| route.encap == Some(Encap { remote: hop.address, vni: 7 })));
        assert_eq!(plan.rules, BTreeSet::from([Rule { from: net("10.244.1.0/24") }]));
        assert_eq!((plan.peers[0].state, plan.problems.len()), (PeerState::Tunnel, 0));
    }

    #[test]
    fn without_the_overlay_device_a_tunnelled_peer_is_unreachable() {
        let (own, peer) = (node("node1", "192.168.1.11"), node("node2", "192.168.2.12"));
        let hop = path::Hop { address: peer.addresses[0], uplink: link(2, "uplink", 1500) };
        let paths = vec![(peer.pod_cidrs[0], Ok(Path::Tunnel(hop)))];
        let mut plan = Plan::default();
        plan.add(Here { node: &own, overlay: None, vni: 1 }, &PeerPaths { node: &peer, paths });
        assert_eq!((plan.peers[0].state, plan.slow.len(), plan.fast.len()), (PeerState::Unreachable, 0, 0));
    }
}
