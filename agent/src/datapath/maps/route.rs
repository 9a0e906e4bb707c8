//! Routes to the peers, and as the maps have them.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane_common::{NextHopKind, RouteEntry};

use super::super::tunnels::{Underlay, bytes};

/// How packets reach a peer node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRoute {
    /// Index of the uplink, or of the overlay device.
    pub ifindex: u32,
    /// The largest IP packet that may leave this way, in bytes; at most 65535.
    pub mtu: u32,
    /// Where to.
    pub next_hop: PeerNextHop,
}

/// The next hop of a [`PeerRoute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerNextHop {
    /// A neighbour on the uplink.
    Direct(IpAddr),
    /// The peer node at the other end of the overlay.
    Tunnel {
        /// Its address: the outer packets' destination.
        node: IpAddr,
        /// The MAC address of its overlay device.
        mac: [u8; 6],
        /// How the programs reach it by themselves; through the overlay device where they cannot.
        underlay: Option<Underlay>,
    },
}

/// A tunnel's far end, and the way to it where the programs know one.
pub(super) const fn underlay(route: &PeerRoute) -> Option<(IpAddr, Underlay)> {
    match route.next_hop {
        PeerNextHop::Tunnel { node, underlay: Some(underlay), .. } => Some((node, underlay)),
        _ => None,
    }
}

/// The route as the map has it; `tunnels` are the tunnels' numbers.
pub(super) fn entry(route: &PeerRoute, tunnels: &BTreeMap<IpAddr, u32>) -> RouteEntry {
    let (kind, address, mac) = match route.next_hop {
        PeerNextHop::Direct(address @ IpAddr::V4(_)) => (NextHopKind::Direct4, address, [0; 6]),
        PeerNextHop::Direct(address @ IpAddr::V6(_)) => (NextHopKind::Direct6, address, [0; 6]),
        PeerNextHop::Tunnel { node: node @ IpAddr::V4(_), mac, .. } => (NextHopKind::Tunnel4, node, mac),
        PeerNextHop::Tunnel { node: node @ IpAddr::V6(_), mac, .. } => (NextHopKind::Tunnel6, node, mac),
    };
    let tunnel = underlay(route).and_then(|(peer, _)| tunnels.get(&peer));
    let tunnel = tunnel.and_then(|number| u16::try_from(*number).ok()).unwrap_or(0);
    // The loopback device's MTU of 65536 is the only one that does not fit.
    let mtu = u16::try_from(route.mtu).unwrap_or(u16::MAX);
    RouteEntry { ifindex: route.ifindex, mtu, kind: kind as u16, next_hop: bytes(address), mac, tunnel }
}
