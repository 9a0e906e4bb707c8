//! The maps, typed by family and written by difference.

mod damage;
mod route;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, xdp::DevMapHash},
};
use dataplane_common::{
    Counter, FlowGate, Hook, Ip4, Ip6, PodEntry, RouteKey, Settings, UPLINK_MACS, Verdict, counter_index,
};
use ipnetwork::IpNetwork;

use super::family::{FamilyMaps, Lengths, absent_is_fine, take};
use super::flow_filter::FlowFilter;
use super::tunnels::Tunnels;
use crate::pods::PodEndpoint;

pub use route::{PeerNextHop, PeerRoute};
use route::{entry, underlay};

/// The maps that are pinned, under these names.
pub(super) const NAMES: [&str; 18] = [
    "pods4",
    "pods6",
    "routes4",
    "routes6",
    "pod_slots4",
    "pod_slots6",
    "route_slots4",
    "route_slots6",
    "nodes4",
    "nodes6",
    "stack_flows4",
    "stack_flows6",
    "flow_gate",
    "flow_filter",
    "tunnels",
    "wire_ports",
    "settings",
    "counters",
];

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
    flow_filter: FlowFilter,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counter>,
    /// How many flows the last sweep has left, by family.
    swept: [usize; 2],
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let settings: Array<MapData, Settings> = take(ebpf, "settings")?;
        let now = settings.get(&0, 0).context("reading settings")?;
        let lengths4 = Lengths {
            prefixes: now.prefix_lens4,
            slot_prefix: now.slot_prefix_len4,
            slot_bits: now.slot_bits4,
        };
        let lengths6 = Lengths {
            prefixes: now.prefix_lens6,
            slot_prefix: now.slot_prefix_len6,
            slot_bits: now.slot_bits6,
        };
        let mut maps = Self {
            v4: FamilyMaps::take(ebpf, "4", lengths4)?,
            v6: FamilyMaps::take(ebpf, "6", lengths6)?,
            tunnels: Tunnels::new(take(ebpf, "tunnels")?),
            wire_ports: take(ebpf, "wire_ports")?,
            flow_gate: take(ebpf, "flow_gate")?,
            flow_filter: FlowFilter::map(ebpf)?,
            settings,
            counters: take(ebpf, "counters")?,
            swept: [0; 2],
        };
        // Another agent may have left them apart.
        maps.distrust_slots()?;
        maps.v4.align_slots().context("aligning the IPv4 slots")?;
        maps.v6.align_slots().context("aligning the IPv6 slots")?;
        maps.tell()?;
        Ok(maps)
    }

    /// Tells the programs to look in the hashes for what the slots do not have.
    fn distrust_slots(&mut self) -> anyhow::Result<()> {
        self.change_settings(|now| Settings { all_slots4: 0, all_slots6: 0, ..now })
    }

    /// Tells the programs how to find routes, and which slots hold all there is.
    fn tell(&mut self) -> anyhow::Result<()> {
        let (lengths4, lengths6) = (self.v4.lengths(), self.v6.lengths());
        let (all_slots4, all_slots6) = (self.v4.all_slots(), self.v6.all_slots());
        self.change_settings(|now| Settings {
            prefix_lens4: lengths4.prefixes,
            prefix_lens6: lengths6.prefixes,
            slot_prefix_len4: lengths4.slot_prefix,
            slot_bits4: lengths4.slot_bits,
            slot_prefix_len6: lengths6.slot_prefix,
            slot_bits6: lengths6.slot_bits,
            all_slots4,
            all_slots6,
            ..now
        })
    }

    /// Adds a local pod's address or changes its entry, in one step.
    ///
    /// # Errors
    /// Where the kernel refuses: a full map is named with its way out.
    pub(super) fn set_pod(&mut self, address: IpAddr, pod: PodEndpoint) -> anyhow::Result<()> {
        let entry = PodEntry::new(pod.ifindex, pod.mac, pod.host_mac);
        match address {
            IpAddr::V4(address) => self.v4.set_pod(address.into(), entry),
            IpAddr::V6(address) => self.v6.set_pod(address.into(), entry),
        }
        .with_context(|| format!("adding the pod {address} to its map"))?;
        self.tell()
    }

    /// Removes a local pod's address; not an error where it is not there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn remove_pod(&mut self, address: IpAddr) -> anyhow::Result<()> {
        match address {
            IpAddr::V4(address) => self.v4.remove_pod(address.into()),
            IpAddr::V6(address) => self.v6.remove_pod(address.into()),
        }
        .with_context(|| format!("removing the pod {address} from its map"))?;
        self.tell()
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
        taken.extend(self.v4.tunnels_in_use()?.chain(self.v6.tunnels_in_use()?));
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
        let (plan4, plan6) = (self.v4.plan_routes(wanted4), self.v6.plan_routes(wanted6));
        if plan4.moves || plan6.moves {
            // A slot is empty for a moment when it changes: the hashes have the answer meanwhile.
            self.distrust_slots()?;
        }
        let problems = plan4.problems.iter().chain(&plan6.problems).cloned().collect();
        let gone4 = self.v4.add_routes(&plan4).context("writing routes4")?;
        let gone6 = self.v6.add_routes(&plan6).context("writing routes6")?;
        self.tell()?;
        self.v4.remove_routes(&gone4).context("writing routes4")?;
        self.v6.remove_routes(&gone6).context("writing routes6")?;
        let used: BTreeSet<u32> = numbers.into_values().collect();
        for number in taken.difference(&used) {
            self.tunnels.clear(*number)?;
        }
        Ok(problems)
    }

    /// The peers that have a tunnel, and its place in the map of tunnels.
    fn numbers(&mut self) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
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
            match peer {
                IpAddr::V4(address) => self.v4.set_tunnel((*address).into(), tunnel),
                IpAddr::V6(address) => self.v6.set_tunnel((*address).into(), tunnel),
            }
            .with_context(|| format!("noting the tunnel to {peer}"))?;
        }
        Ok(())
    }

    /// The largest packets that routers have let through to the peers lately, of those that they have complained of.
    pub(super) fn path_mtus(&mut self, now: Duration) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
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
        let mut wanted4 = HashSet::new();
        let mut wanted6 = HashSet::new();
        for node in nodes {
            match node {
                IpAddr::V4(address) => drop(wanted4.insert(Ip4::from(*address))),
                IpAddr::V6(address) => drop(wanted6.insert(Ip6::from(*address))),
            }
        }
        self.v4.set_nodes(&wanted4).context("writing nodes4")?;
        self.v6.set_nodes(&wanted6).context("writing nodes6")
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
        let other = match self.flow_gate.get(&0, 0).context("reading flow_gate")?.state {
            FlowGate::SHUT => {
                self.swept = [0; 2];
                return Ok(0);
            }
            FlowGate::FIRST => FlowGate::SECOND,
            _ => FlowGate::FIRST,
        };
        let remaining = self.filter_flows(other, now, ages)?;
        self.set_flow_gate(if remaining == 0 { FlowGate::SHUT } else { other })?;
        // A flow noted meanwhile has found the gate open and left it so: look again now that it is shut.
        if remaining == 0 && (!self.v4.has_no_flows()? || !self.v6.has_no_flows()?) {
            self.set_flow_gate(other)?;
        }
        Ok(remaining)
    }

    /// Fills the filter of that state of the gate with the flows that are not too old, and forgets the others. It must not
    /// be in use. Flows that are gone leave a filter by its being made anew.
    fn filter_flows(&mut self, state: u32, now: Duration, ages: FlowAges) -> anyhow::Result<usize> {
        let filter = &self.flow_filter;
        filter.clear(state);
        let remains = |place| filter.mark(state, place);
        self.swept = [self.v4.sweep_flows(now, ages, remains)?, self.v6.sweep_flows(now, ages, remains)?];
        Ok(self.swept.iter().sum())
    }

    /// Sends all flows between pods through the stack, see [`FlowGate::ALL`].
    pub(super) fn pass_all_flows(&mut self) -> anyhow::Result<()> {
        self.set_flow_gate(FlowGate::ALL)
    }

    /// Sends only those flows through the stack that are in the maps, however old.
    pub(super) fn pass_known_flows(&mut self) -> anyhow::Result<()> {
        let ages = FlowAges { tcp: Duration::MAX, other: Duration::MAX };
        self.filter_flows(FlowGate::FIRST, Duration::ZERO, ages)?;
        self.set_flow_gate(FlowGate::FIRST)
    }

    fn set_flow_gate(&mut self, state: u32) -> anyhow::Result<()> {
        self.flow_gate.set(0, FlowGate { state }, 0).context("writing flow_gate")
    }

    /// How many entries the hash maps have; those of flows, which can be many, at the last sweep.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub(super) fn entries(&self) -> anyhow::Result<[(&'static str, usize); 8]> {
        let ([pods4, routes4, nodes4], [pods6, routes6, nodes6]) = (self.v4.entries()?, self.v6.entries()?);
        let [flows4, flows6] = self.swept;
        Ok([
            ("pods4", pods4),
            ("pods6", pods6),
            ("routes4", routes4),
            ("routes6", routes6),
            ("nodes4", nodes4),
            ("nodes6", nodes6),
            ("stack_flows4", flows4),
            ("stack_flows6", flows6),
        ])
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

/// How long a flow of each protocol is remembered after the stack's last packet: as long as conntrack does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowAges {
    /// TCP, established.
    pub tcp: Duration,
    /// Everything else.
    pub other: Duration,
}

impl FlowAges {
    pub(super) fn of(&self, protocol: u8) -> Duration {
        if i32::from(protocol) == libc::IPPROTO_TCP { self.tcp } else { self.other }
    }
}

fn endpoint(entry: PodEntry) -> PodEndpoint {
    PodEndpoint { ifindex: entry.ifindex, mac: entry.mac, host_mac: entry.host_mac }
}
