//! What the maps hold: so many local pods, and routes to so many nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use bytemuck::Zeroable as _;
use dataplane_common::{
    ALL_PODS, ALL_ROUTES, Ip4, Ip6, NextHopKind, NodeEntry, PodEntry, PodSlot, RouteEntry, RouteKey,
    RouteSlot, Settings, TunnelEntry, overlay_mac, pod_slot, route_slot,
};

use crate::packet::{NODE, PEER, TUNNELLED, local_pod, remote_pod};

/// Where in the map `tunnels` the peer's stands.
const TUNNEL: u16 = 1;

/// The local pods, in our maps and the floor's.
pub struct Pods {
    hash4: HashMap<MapData, Ip4, PodEntry>,
    hash6: HashMap<MapData, Ip6, PodEntry>,
    slots4: Array<MapData, PodSlot<Ip4>>,
    slots6: Array<MapData, PodSlot<Ip6>>,
    floor: HashMap<MapData, Ip4, PodEntry>,
    entry: PodEntry,
    count: u32,
}

impl Pods {
    /// None yet.
    pub fn new(ours: &mut Ebpf, floors: &mut Ebpf, entry: PodEntry) -> Result<Self> {
        Ok(Self {
            hash4: take(ours, "pods4")?,
            hash6: take(ours, "pods6")?,
            slots4: take(ours, "pod_slots4")?,
            slots6: take(ours, "pod_slots6")?,
            floor: take(floors, "floor_pods")?,
            entry,
            count: 0,
        })
    }

    /// Makes them so many.
    pub fn resize(&mut self, count: u32) -> Result<()> {
        for index in self.count..count {
            self.enter(index)?;
        }
        for index in count..self.count {
            self.remove(index)?;
        }
        self.count = count;
        Ok(())
    }

    fn enter(&mut self, index: u32) -> Result<()> {
        let (v4, v6) = addresses(local_pod, index)?;
        self.hash4.insert(v4, self.entry, 0)?;
        self.hash6.insert(v6, self.entry, 0)?;
        self.floor.insert(v4, self.entry, 0)?;
        self.slots4.set(pod_slot(v4), PodSlot { address: v4, pod: self.entry }, 0)?;
        self.slots6.set(pod_slot(v6), PodSlot { address: v6, pod: self.entry }, 0)?;
        Ok(())
    }

    fn remove(&mut self, index: u32) -> Result<()> {
        let (v4, v6) = addresses(local_pod, index)?;
        self.hash4.remove(&v4)?;
        self.hash6.remove(&v6)?;
        self.floor.remove(&v4)?;
        self.slots4.set(pod_slot(v4), PodSlot::zeroed(), 0)?;
        self.slots6.set(pod_slot(v6), PodSlot::zeroed(), 0)?;
        Ok(())
    }
}

/// The routes to peer nodes' pod CIDRs.
pub struct Routes {
    hash4: HashMap<MapData, RouteKey<Ip4>, RouteEntry>,
    hash6: HashMap<MapData, RouteKey<Ip6>, RouteEntry>,
    slots4: Array<MapData, RouteSlot<Ip4>>,
    slots6: Array<MapData, RouteSlot<Ip6>>,
    entry4: RouteEntry,
    entry6: RouteEntry,
    count: u32,
}

impl Routes {
    /// None yet but the one behind the overlay; all by these next hops on one uplink.
    pub fn new(
        ours: &mut Ebpf,
        (uplink, uplink_mac): (u32, [u8; 6]),
        next_hops: (Ipv4Addr, Ipv6Addr),
    ) -> Result<Self> {
        let entry = |kind: NextHopKind, next_hop| RouteEntry {
            kind: kind as u16,
            ifindex: uplink,
            mtu: 1500,
            next_hop,
            mac: [0; 6],
            tunnel: 0,
        };
        let mut next_hop4 = [0; 16];
        next_hop4[..4].copy_from_slice(&next_hops.0.octets());
        let mut settings: Array<MapData, Settings> = take(ours, "settings")?;
        let node4 = Ip4::from(NODE);
        settings.set(0, Settings { node4, uplink_macs: [uplink_mac, [0; 6]], ..one_after_the_other() }, 0)?;
        let mut nodes: HashMap<MapData, Ip4, NodeEntry> = take(ours, "nodes4")?;
        nodes.insert(Ip4::from(PEER), NodeEntry { tunnel: TUNNEL.into() }, 0)?;
        let mut source = [0; 16];
        source[..4].copy_from_slice(&NODE.octets());
        let kind = NextHopKind::Direct4 as u16;
        let tunnel =
            TunnelEntry { ifindex: uplink, kind, source, next_hop: next_hop4, ..TunnelEntry::default() };
        let mut tunnels: Array<MapData, TunnelEntry> = take(ours, "tunnels")?;
        tunnels.set(TUNNEL.into(), tunnel, 0)?;
        let mut routes = Self {
            hash4: take(ours, "routes4")?,
            hash6: take(ours, "routes6")?,
            slots4: take(ours, "route_slots4")?,
            slots6: take(ours, "route_slots6")?,
            entry4: entry(NextHopKind::Direct4, next_hop4),
            entry6: entry(NextHopKind::Direct6, next_hops.1.octets()),
            count: 0,
        };
        let key = RouteKey::new(Ip4::from(TUNNELLED), 24);
        let mac = overlay_mac(PEER.into());
        routes.enter4(key, RouteEntry { mac, tunnel: TUNNEL, ..entry(NextHopKind::Tunnel4, next_hop4) })?;
        Ok(routes)
    }

    fn enter4(&mut self, key: RouteKey<Ip4>, route: RouteEntry) -> Result<()> {
        self.hash4.insert(key, route, 0)?;
        self.slots4.set(route_slot(key.prefix, 24), RouteSlot { key, route }, 0)?;
        Ok(())
    }

    /// Adds what is missing to so many; which nodes these are.
    pub fn grow(&mut self, count: u32) -> Result<std::ops::Range<u32>> {
        let new = self.count..count;
        for node in new.clone() {
            let (v4, v6) = addresses(remote_pod, node)?;
            let (key4, key6) = (RouteKey::new(v4, 24), RouteKey::new(v6, 64));
            self.enter4(key4, self.entry4)?;
            self.hash6.insert(key6, self.entry6, 0)?;
            self.slots6.set(route_slot(key6.prefix, 48), RouteSlot { key: key6, route: self.entry6 }, 0)?;
        }
        self.count = count;
        Ok(new)
    }
}

/// As the agent does where addresses and pod CIDRs are given out one after the other: [`local_pod`], [`remote_pod`].
fn one_after_the_other() -> Settings {
    let all = ALL_PODS | ALL_ROUTES;
    Settings {
        prefix_lens4: [24, 0, 0, 0],
        prefix_lens6: [64, 0, 0, 0],
        slot_prefix_len4: 24,
        slot_bits4: 24,
        slot_prefix_len6: 64,
        slot_bits6: 48,
        all_slots4: all,
        all_slots6: all,
        ..Settings::zeroed()
    }
}

/// A pod's addresses, of both families.
fn addresses(pod: fn(u32, bool) -> IpAddr, index: u32) -> Result<(Ip4, Ip6)> {
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (pod(index, false), pod(index, true)) else {
        anyhow::bail!("pod {index} has addresses of the wrong families");
    };
    Ok((Ip4::from(v4), Ip6::from(v6)))
}

/// A map, out of what was loaded.
pub fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf.take_map(name).with_context(|| format!("there is no map {name}"))?;
    M::try_from(map).with_context(|| format!("the map {name} is of another type"))
}
