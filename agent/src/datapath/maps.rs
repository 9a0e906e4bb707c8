//! The maps, typed by family and written by difference.

mod change;
mod damage;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, xdp::DevMapHash},
};
use dataplane_common::{
    Address, Counter, FlowEntry, FlowGate, FlowKey, Hook, Ip4, Ip6, NextHopKind, NodeEntry, PREFIX_LENGTHS,
    PodEntry, RouteEntry, RouteKey, Settings, UPLINK_MACS, Verdict, counter_index,
};
use ipnetwork::IpNetwork;

use super::tunnels::{Tunnels, Underlay, bytes};
use crate::pods::PodEndpoint;

pub(super) use damage::Written;

/// The maps that are pinned, under these names.
pub(super) const NAMES: [&str; 13] = [
    "pods4",
    "pods6",
    "routes4",
    "routes6",
    "nodes4",
    "nodes6",
    "stack_flows4",
    "stack_flows6",
    "flow_gate",
    "tunnels",
    "wire_ports",
    "settings",
    "counters",
];

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

/// This node's own addresses: where overlay frames to it end, and what frames XDP takes for its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
    /// MAC addresses of the uplinks; XDP runs at the first [`UPLINK_MACS`] of them.
    pub uplink_macs: Vec<[u8; 6]>,
}

/// The maps of a loaded object.
pub(super) struct Maps {
    v4: FamilyMaps<Ip4>,
    v6: FamilyMaps<Ip6>,
    tunnels: Tunnels,
    wire_ports: DevMapHash<MapData>,
    flow_gate: Array<MapData, FlowGate>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counter>,
}

struct FamilyMaps<A>
where
    A: aya::Pod,
    RouteKey<A>: aya::Pod,
    FlowKey<A>: aya::Pod,
{
    pods: HashMap<MapData, A, PodEntry>,
    routes: HashMap<MapData, RouteKey<A>, RouteEntry>,
    nodes: HashMap<MapData, A, NodeEntry>,
    flows: HashMap<MapData, FlowKey<A>, FlowEntry>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            v4: FamilyMaps {
                pods: take(ebpf, "pods4")?,
                routes: take(ebpf, "routes4")?,
                nodes: take(ebpf, "nodes4")?,
                flows: take(ebpf, "stack_flows4")?,
            },
            v6: FamilyMaps {
                pods: take(ebpf, "pods6")?,
                routes: take(ebpf, "routes6")?,
                nodes: take(ebpf, "nodes6")?,
                flows: take(ebpf, "stack_flows6")?,
            },
            tunnels: Tunnels::new(take(ebpf, "tunnels")?),
            wire_ports: take(ebpf, "wire_ports")?,
            flow_gate: take(ebpf, "flow_gate")?,
            settings: take(ebpf, "settings")?,
            counters: take(ebpf, "counters")?,
        })
    }

    /// Adds a local pod's address or changes its entry, in one step.
    ///
    /// # Errors
    /// Where the kernel refuses: a full map is named with its way out.
    pub(super) fn set_pod(&mut self, address: IpAddr, pod: PodEndpoint) -> anyhow::Result<()> {
        let entry = PodEntry::new(pod.ifindex, pod.mac, pod.host_mac);
        match address {
            IpAddr::V4(address) => self.v4.pods.insert(Ip4::from(address), entry, 0),
            IpAddr::V6(address) => self.v6.pods.insert(Ip6::from(address), entry, 0),
        }
        .map_err(|error| full(error, "maxPods"))
        .with_context(|| format!("adding the pod {address} to its map"))
    }

    /// Removes a local pod's address; not an error where it is not there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn remove_pod(&mut self, address: IpAddr) -> anyhow::Result<()> {
        absent_is_fine(match address {
            IpAddr::V4(address) => self.v4.pods.remove(&Ip4::from(address)),
            IpAddr::V6(address) => self.v6.pods.remove(&Ip6::from(address)),
        })
        .with_context(|| format!("removing the pod {address} from its map"))
    }

    /// The local pods.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub(super) fn pods(&self) -> anyhow::Result<BTreeMap<IpAddr, PodEndpoint>> {
        let mut pods = BTreeMap::new();
        for item in self.v4.pods.iter() {
            let (address, entry) = item.context("reading pods4")?;
            pods.insert(address.into(), endpoint(entry));
        }
        for item in self.v6.pods.iter() {
            let (address, entry) = item.context("reading pods6")?;
            pods.insert(address.into(), endpoint(entry));
        }
        Ok(pods)
    }

    /// Makes the route maps hold exactly these routes, and the map of tunnels what they need of it. Returns what could
    /// not be installed, in words.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub(super) fn set_routes(
        &mut self,
        routes: &BTreeMap<IpNetwork, PeerRoute>,
        now: Duration,
    ) -> anyhow::Result<Vec<String>> {
        let before = self.numbers()?;
        let mut taken: BTreeSet<u32> = before.values().copied().collect();
        taken.extend(self.v4.tunnels_in_use()?);
        taken.extend(self.v6.tunnels_in_use()?);
        let wanted = routes.values().filter_map(underlay).collect();
        let numbers = self.tunnels.write(&wanted, &before, &taken, now)?;
        self.number_nodes(&before, &numbers)?;
        let entry = |route: &PeerRoute| entry(route, &numbers);
        let mut wanted4 = Vec::new();
        let mut wanted6 = Vec::new();
        for (cidr, route) in routes {
            let prefix_len = u32::from(cidr.prefix());
            match cidr.network() {
                IpAddr::V4(prefix) => {
                    wanted4.push((RouteKey::new(Ip4::from(prefix), prefix_len), entry(route)));
                }
                IpAddr::V6(prefix) => {
                    wanted6.push((RouteKey::new(Ip6::from(prefix), prefix_len), entry(route)));
                }
            }
        }
        let (lens4, mut problems) = prefix_lengths(wanted4.iter().map(|(key, _)| key.prefix_len));
        let (lens6, problems6) = prefix_lengths(wanted6.iter().map(|(key, _)| key.prefix_len));
        problems.extend(problems6);
        self.v4.set_routes(&wanted4).context("writing routes4")?;
        self.v6.set_routes(&wanted6).context("writing routes6")?;
        self.change_settings(|now| Settings { prefix_lens4: lens4, prefix_lens6: lens6, ..now })?;
        for number in taken.iter().filter(|taken| !numbers.values().any(|number| number == *taken)) {
            self.tunnels.clear(*number)?;
        }
        Ok(problems)
    }

    /// The peers that have a tunnel, and its place in the map of tunnels.
    fn numbers(&self) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
        let mut numbers = self.v4.numbers().context("reading nodes4")?;
        numbers.extend(self.v6.numbers().context("reading nodes6")?);
        Ok(numbers)
    }

    fn number_nodes(
        &mut self,
        before: &BTreeMap<IpAddr, u32>,
        after: &BTreeMap<IpAddr, u32>,
    ) -> anyhow::Result<()> {
        let gone = before.keys().filter(|peer| !after.contains_key(*peer)).map(|peer| (peer, 0));
        let changed = after.iter().filter(|(peer, number)| before.get(*peer) != Some(*number));
        for (peer, tunnel) in gone.chain(changed.map(|(peer, number)| (peer, *number))) {
            let entry = NodeEntry { tunnel };
            match peer {
                IpAddr::V4(address) => self.v4.nodes.insert(Ip4::from(*address), entry, 0),
                IpAddr::V6(address) => self.v6.nodes.insert(Ip6::from(*address), entry, 0),
            }
            .with_context(|| format!("noting the tunnel to {peer}"))?;
        }
        Ok(())
    }

    /// The largest packets that routers have let through to the peers lately, of those that they have complained of.
    pub(super) fn path_mtus(&self, now: Duration) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
        let mut mtus = BTreeMap::new();
        for (peer, number) in self.numbers()? {
            if let Some(mtu) = self.tunnels.path_mtu(number, now)? {
                mtus.insert(peer, mtu);
            }
        }
        Ok(mtus)
    }

    /// Makes the node maps hold exactly these peer nodes.
    pub(super) fn set_nodes(&mut self, nodes: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let mut wanted4 = BTreeSet::new();
        let mut wanted6 = BTreeSet::new();
        for node in nodes {
            match node {
                IpAddr::V4(address) => drop(wanted4.insert(Ip4::from(*address))),
                IpAddr::V6(address) => drop(wanted6.insert(Ip6::from(*address))),
            }
        }
        self.v4.set_nodes(wanted4).context("writing nodes4")?;
        self.v6.set_nodes(wanted6).context("writing nodes6")
    }

    /// Tells the programs where overlay frames to this node end.
    pub(super) fn set_own_addresses(&mut self, own: &OwnAddresses) -> anyhow::Result<()> {
        let node4 = Ip4::from(own.v4.unwrap_or(Ipv4Addr::UNSPECIFIED));
        let node6 = Ip6::from(own.v6.unwrap_or(Ipv6Addr::UNSPECIFIED));
        let mut uplink_macs = [[0; 6]; UPLINK_MACS];
        for (slot, mac) in uplink_macs.iter_mut().zip(&own.uplink_macs) {
            *slot = *mac;
        }
        self.change_settings(|now| Settings { node4, node6, uplink_macs, ..now })
    }

    fn change_settings(&mut self, change: impl FnOnce(Settings) -> Settings) -> anyhow::Result<()> {
        let now = self.settings.get(&0, 0).context("reading settings")?;
        let wanted = change(now);
        if wanted != now {
            self.settings.set(0, wanted, 0).context("writing settings")?;
        }
        Ok(())
    }

    /// Lets XDP send to an interface.
    pub(super) fn add_port(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.wire_ports
            .insert(ifindex, ifindex, None, 0)
            .with_context(|| format!("adding the device with index {ifindex} to wire_ports"))
    }

    /// Removes an interface from those that XDP may send to. The kernel does it by itself when the device goes.
    pub(super) fn remove_port(&mut self, ifindex: u32) -> anyhow::Result<()> {
        absent_is_fine(self.wire_ports.remove(ifindex))
            .with_context(|| format!("removing the device with index {ifindex} from wire_ports"))
    }

    /// Forgets the flows that the stack has not touched for so long that the kernel has forgotten them too, and
    /// shuts the gate when none is left. `now` is `CLOCK_MONOTONIC`; returns how many flows remain.
    pub(super) fn sweep_flows(&mut self, now: Duration, ages: FlowAges) -> anyhow::Result<usize> {
        if self.flow_gate.get(&0, 0).context("reading flow_gate")?.open == 0 {
            return Ok(0);
        }
        let remaining = self.v4.sweep_flows(now, ages)? + self.v6.sweep_flows(now, ages)?;
        if remaining == 0 {
            self.flow_gate.set(0, FlowGate { open: 0 }, 0).context("writing flow_gate")?;
            // A flow noted meanwhile has found the gate open and left it so: look again now that it is shut.
            if !self.v4.has_no_flows()? || !self.v6.has_no_flows()? {
                self.flow_gate.set(0, FlowGate { open: 1 }, 0).context("writing flow_gate")?;
            }
        }
        Ok(remaining)
    }

    /// Opens or shuts the gate of the flows through the stack.
    pub(super) fn set_flow_gate(&mut self, open: u32) -> anyhow::Result<()> {
        self.flow_gate.set(0, FlowGate { open }, 0).context("writing flow_gate")
    }

    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn counters(&self) -> anyhow::Result<Vec<(Hook, Verdict, Counter)>> {
        let mut sums = Vec::new();
        for hook in Hook::ALL {
            for verdict in Verdict::all() {
                sums.push((*hook, verdict, self.counter(*hook, verdict)?));
            }
        }
        Ok(sums)
    }

    /// One of the counters.
    pub(super) fn counter(&self, hook: Hook, verdict: Verdict) -> anyhow::Result<Counter> {
        let values = self.counters.get(&counter_index(hook, verdict), 0).context("reading counters")?;
        Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
            packets: sum.packets + value.packets,
            bytes: sum.bytes + value.bytes,
        }))
    }
}

impl<A> FamilyMaps<A>
where
    A: Address + Ord + std::hash::Hash + aya::Pod,
    RouteKey<A>: aya::Pod,
    FlowKey<A>: aya::Pod,
{
    fn set_routes(&mut self, wanted: &[(RouteKey<A>, RouteEntry)]) -> anyhow::Result<()> {
        let mut present: std::collections::HashMap<RouteKey<A>, RouteEntry> =
            self.routes.iter().collect::<Result<_, _>>()?;
        // New ones first: a route that only moves to another next hop never leaves a gap.
        for (key, entry) in wanted {
            if present.remove(key) != Some(*entry) {
                self.routes.insert(key, entry, 0).map_err(|error| full(error, "maxRoutes"))?;
            }
        }
        for key in present.keys() {
            absent_is_fine(self.routes.remove(key))?;
        }
        Ok(())
    }

    fn set_nodes(&mut self, mut wanted: BTreeSet<A>) -> anyhow::Result<()> {
        let present: Vec<A> = self.nodes.keys().collect::<Result<_, _>>()?;
        for address in present {
            if !wanted.remove(&address) {
                absent_is_fine(self.nodes.remove(&address))?;
            }
        }
        for address in wanted {
            self.nodes
                .insert(address, NodeEntry { tunnel: 0 }, 0)
                .map_err(|error| full(error, "maxRoutes"))?;
        }
        Ok(())
    }

    fn numbers(&self) -> anyhow::Result<BTreeMap<IpAddr, u32>>
    where
        A: Into<IpAddr>,
    {
        let mut numbers = BTreeMap::new();
        for item in self.nodes.iter() {
            let (address, NodeEntry { tunnel }) = item?;
            if tunnel != 0 {
                numbers.insert(address.into(), tunnel);
            }
        }
        Ok(numbers)
    }

    /// The tunnels that routes refer to.
    fn tunnels_in_use(&self) -> anyhow::Result<BTreeSet<u32>> {
        let mut numbers = BTreeSet::new();
        for item in self.routes.iter() {
            let (_, entry) = item.context("reading the routes")?;
            if entry.tunnel != 0 {
                numbers.insert(u32::from(entry.tunnel));
            }
        }
        Ok(numbers)
    }

    fn sweep_flows(&mut self, now: Duration, ages: FlowAges) -> anyhow::Result<usize> {
        let flows: Vec<(FlowKey<A>, FlowEntry)> = self.flows.iter().collect::<Result<_, _>>()?;
        let mut remaining = flows.len();
        for (key, flow) in flows {
            if now.saturating_sub(Duration::from_nanos(flow.last_seen)) > ages.of(key.protocol) {
                absent_is_fine(self.flows.remove(&key))?;
                remaining -= 1;
            }
        }
        Ok(remaining)
    }

    fn has_no_flows(&self) -> anyhow::Result<bool> {
        Ok(self.flows.keys().next().transpose()?.is_none())
    }
}

/// The distinct lengths, longest first, as the programs try them.
fn prefix_lengths(lengths: impl Iterator<Item = u32>) -> ([u8; PREFIX_LENGTHS], Vec<String>) {
    let distinct: BTreeSet<u8> = lengths.filter_map(|length| u8::try_from(length).ok()).collect();
    let mut list = [0; PREFIX_LENGTHS];
    for (slot, length) in list.iter_mut().zip(distinct.iter().rev()) {
        *slot = *length;
    }
    let left_out: Vec<String> =
        distinct.iter().rev().skip(PREFIX_LENGTHS).map(|length| format!("/{length}")).collect();
    let problems = if left_out.is_empty() {
        Vec::new()
    } else {
        vec![format!(
            "peer pod CIDRs have {} different prefix lengths, the fast path tries {PREFIX_LENGTHS}: those of {} go through the kernel; use fewer lengths",
            distinct.len(),
            left_out.join(", ")
        )]
    };
    (list, problems)
}

/// A tunnel's far end, and the way to it where the programs know one.
const fn underlay(route: &PeerRoute) -> Option<(IpAddr, Underlay)> {
    match route.next_hop {
        PeerNextHop::Tunnel { node, underlay: Some(underlay), .. } => Some((node, underlay)),
        _ => None,
    }
}

fn entry(route: &PeerRoute, tunnels: &BTreeMap<IpAddr, u32>) -> RouteEntry {
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

/// How long a flow of each protocol is remembered after the stack's last packet: as long as conntrack does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowAges {
    /// TCP, established.
    pub tcp: Duration,
    /// Everything else.
    pub other: Duration,
}

impl FlowAges {
    fn of(&self, protocol: u8) -> Duration {
        if i32::from(protocol) == libc::IPPROTO_TCP { self.tcp } else { self.other }
    }
}

fn endpoint(entry: PodEntry) -> PodEndpoint {
    PodEndpoint { ifindex: entry.ifindex, mac: entry.mac, host_mac: entry.host_mac }
}

fn take<M>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<M>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| anyhow!("the embedded object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("the map {name} is not what this agent expects"))
}

/// `E2BIG` from a map means that it is full.
fn full(error: MapError, setting: &str) -> anyhow::Error {
    match &error {
        MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(libc::E2BIG) => {
            anyhow!("the map is full: raise {setting}")
        }
        _ => error.into(),
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> anyhow::Result<()> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_lengths_are_distinct_and_longest_first() {
        assert_eq!(prefix_lengths([24, 26, 24, 16].into_iter()), ([26, 24, 16, 0], vec![]));
    }

    #[test]
    fn more_prefix_lengths_than_the_programs_try_are_named() {
        let (list, problems) = prefix_lengths([16, 20, 22, 24, 26].into_iter());
        assert_eq!(list, [26, 24, 22, 20]);
        assert!(problems[0].contains("those of /16 go through the kernel"), "{problems:?}");
    }
}
