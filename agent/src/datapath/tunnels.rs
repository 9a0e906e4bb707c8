//! The map `tunnels`: how the programs reach the peers' ends of the overlay by themselves, and what routers on the way
//! have told them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{Array, MapData};
use dataplane_common::{NextHopKind, TunnelEntry};

/// What a router said of its link's MTU is forgotten after so long: the path may have changed (RFC 1191, 6.3; the
/// kernel's `net.ipv4.route.mtu_expires`).
const PATH_MTU_AGE: Duration = Duration::from_secs(600);

/// The way of the overlay's packets to a peer node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Index of the uplink.
    pub ifindex: u32,
    /// This node's address, the packets' source; of the same family as the peer's.
    pub source: IpAddr,
    /// The peer, or the router in front of it.
    pub next_hop: IpAddr,
}

/// The map. Its first element stands for no tunnel.
pub(super) struct Tunnels {
    map: Array<MapData, TunnelEntry>,
    /// What was written for the peers, and where, since everything was last looked at.
    written: HashMap<IpAddr, (u32, Underlay)>,
}

impl Tunnels {
    pub(super) fn new(map: Array<MapData, TunnelEntry>) -> Self {
        Self { map, written: HashMap::new() }
    }

    /// The next writing looks at every element.
    pub(super) fn distrust(&mut self) {
        self.written.clear();
    }

    /// Gives each peer that is wanted an element, the one it has where it has one, and writes it. An element that
    /// anything still refers to (`taken`) goes to nobody else. Peers that there is no room for are left out: their
    /// packets go through the overlay device.
    pub(super) fn write(
        &mut self,
        wanted: &BTreeMap<IpAddr, Underlay>,
        present: &BTreeMap<IpAddr, u32>,
        taken: &BTreeSet<u32>,
        now: Duration,
    ) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
        let mut free = (1..self.map.len()).filter(|number| !taken.contains(number));
        let mut numbers = BTreeMap::new();
        for (peer, underlay) in wanted {
            let Some(number) = present.get(peer).copied().or_else(|| free.next()) else { continue };
            numbers.insert(*peer, number);
            if present.contains_key(peer) && self.written.get(peer) == Some(&(number, *underlay)) {
                continue;
            }
            let before = self.map.get(&number, 0).context("reading tunnels")?;
            let learned = current(&before, now).filter(|_| present.contains_key(peer));
            let after = TunnelEntry {
                path_mtu: learned.unwrap_or(0),
                learned: if learned.is_some() { before.learned } else { 0 },
                ..entry(underlay)
            };
            if after != before {
                self.map.set(number, after, 0).context("writing tunnels")?;
            }
            self.written.insert(*peer, (number, *underlay));
        }
        self.written.retain(|peer, _| wanted.contains_key(peer));
        Ok(numbers)
    }

    /// Empties an element that nothing refers to any more.
    pub(super) fn clear(&mut self, number: u32) -> anyhow::Result<()> {
        self.map.set(number, TunnelEntry::default(), 0).context("emptying an element of tunnels")
    }

    /// The largest inner packet that routers on this way have let through lately, if they have complained.
    pub(super) fn path_mtu(&self, number: u32, now: Duration) -> anyhow::Result<Option<u32>> {
        Ok(current(&self.map.get(&number, 0).context("reading tunnels")?, now))
    }
}

fn current(entry: &TunnelEntry, now: Duration) -> Option<u32> {
    let age = now.saturating_sub(Duration::from_nanos(entry.learned));
    (entry.path_mtu != 0 && age < PATH_MTU_AGE).then_some(entry.path_mtu)
}

fn entry(underlay: &Underlay) -> TunnelEntry {
    let kind = if underlay.next_hop.is_ipv4() { NextHopKind::Direct4 } else { NextHopKind::Direct6 };
    TunnelEntry {
        ifindex: underlay.ifindex,
        kind: kind as u16,
        source: bytes(underlay.source),
        next_hop: bytes(underlay.next_hop),
        ..TunnelEntry::default()
    }
}

/// An address as the map's values have it: an IPv4 address in the first four bytes.
pub(super) fn bytes(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes.copy_from_slice(&address.octets()),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_routers_have_said_is_forgotten_after_ten_minutes() {
        let learned = 1_000_000_000;
        let told = TunnelEntry { path_mtu: 1350, learned, ..TunnelEntry::default() };
        let at = |seconds: u64| current(&told, Duration::from_nanos(learned) + Duration::from_secs(seconds));
        assert_eq!([at(0), at(599), at(600)], [Some(1350), Some(1350), None]);
        assert_eq!(current(&TunnelEntry { path_mtu: 0, ..told }, Duration::ZERO), None);
    }
}
