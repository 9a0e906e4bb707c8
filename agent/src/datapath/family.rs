//! One IP family's maps: hashes, and the slots that repeat them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use bytemuck::Zeroable;
use dataplane_common::{
    ALL_PODS, ALL_ROUTES, Address, FlowEntry, FlowKey, NodeEntry, PREFIX_LENGTHS, PodEntry, PodSlot,
    RouteEntry, RouteKey, RouteSlot, filter_place, pod_slot, route_slot,
};

use super::{
    maps::FlowAges,
    slots::{Slot, Slots, slot_bits},
    written::Written,
};

/// The maps of one family.
pub(super) struct FamilyMaps<A>
where
    A: aya::Pod,
    RouteKey<A>: aya::Pod,
    FlowKey<A>: aya::Pod,
    PodSlot<A>: aya::Pod,
    RouteSlot<A>: aya::Pod,
{
    pub(super) pods: HashMap<MapData, A, PodEntry>,
    routes: HashMap<MapData, RouteKey<A>, RouteEntry>,
    pod_slots: Slots<MapData, PodSlot<A>>,
    route_slots: Slots<MapData, RouteSlot<A>>,
    nodes: HashMap<MapData, A, NodeEntry>,
    flows: HashMap<MapData, FlowKey<A>, FlowEntry>,
    lengths: Lengths,
    written: Written<A>,
}

/// The prefix lengths in a family's part of the settings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Lengths {
    /// The distinct ones, longest first.
    pub(super) prefixes: [u8; PREFIX_LENGTHS],
    /// That of the routes in slots.
    pub(super) slot_prefix: u8,
    /// How many bits say the slot.
    pub(super) slot_bits: u8,
}

/// Routes with the slots they are to have.
pub(super) struct RoutePlan<A> {
    routes: Vec<(RouteKey<A>, RouteEntry)>,
    slots: Vec<(u32, RouteSlot<A>)>,
    lengths: Lengths,
    /// Whether slots in use change.
    pub(super) moves: bool,
    /// What cannot be installed, in words.
    pub(super) problems: Vec<String>,
}

impl<A> FamilyMaps<A>
where
    A: Address + Ord + Hash + aya::Pod,
    RouteKey<A>: aya::Pod,
    FlowKey<A>: aya::Pod,
    PodSlot<A>: Slot,
    RouteSlot<A>: Slot,
{
    /// Takes the maps of this family ("4", "6") out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, family: &str, lengths: Lengths) -> anyhow::Result<Self> {
        Ok(Self {
            pods: take(ebpf, &format!("pods{family}"))?,
            routes: take(ebpf, &format!("routes{family}"))?,
            pod_slots: take_slots(ebpf, &format!("pod_slots{family}"))?,
            route_slots: take_slots(ebpf, &format!("route_slots{family}"))?,
            nodes: take(ebpf, &format!("nodes{family}"))?,
            flows: take(ebpf, &format!("stack_flows{family}"))?,
            lengths,
            written: Written::default(),
        })
    }

    /// The prefix lengths, for the settings.
    pub(super) const fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// What the slots hold all of, for the settings.
    pub(super) const fn all_slots(&self) -> u32 {
        let pods = if self.pod_slots.have_all() { ALL_PODS } else { 0 };
        let [_, second, ..] = self.lengths.prefixes;
        let routes = if self.route_slots.have_all() && second == 0 { ALL_ROUTES } else { 0 };
        pods | routes
    }

    /// Makes the slots agree with the hashes.
    pub(super) fn align_slots(&mut self) -> anyhow::Result<()> {
        self.align_pod_slots()?;
        let routes = self.routes.iter().collect::<Result<_, _>>().context("reading the routes")?;
        let plan = self.plan_routes(routes);
        self.hold_routes(&plan)
    }

    fn align_pod_slots(&mut self) -> anyhow::Result<()> {
        let slot = |(address, pod)| (pod_slot(address), PodSlot { address, pod });
        let pods: Vec<_> = self.pods.iter().map(|item| item.map(slot)).collect::<Result<_, _>>()?;
        Ok(self.pod_slots.hold(&pods)?)
    }

    pub(super) fn set_pod(&mut self, address: A, pod: PodEntry) -> anyhow::Result<()> {
        self.pods.insert(address, pod, 0).map_err(|error| full(error, "maxPods"))?;
        Ok(self.pod_slots.enter(pod_slot(address), PodSlot { address, pod })?)
    }

    pub(super) fn remove_pod(&mut self, address: A) -> anyhow::Result<()> {
        let slot = PodSlot { address, pod: Zeroable::zeroed() };
        let room = self.pod_slots.leave(pod_slot(address), &slot)?;
        absent_is_fine(self.pods.remove(&address))?;
        if room { self.align_pod_slots() } else { Ok(()) }
    }

    /// Finds the slots for these routes.
    pub(super) fn plan_routes(&self, routes: Vec<(RouteKey<A>, RouteEntry)>) -> RoutePlan<A> {
        let mut by_length: StdHashMap<u32, Vec<RouteKey<A>>> = StdHashMap::new();
        for (key, _) in &routes {
            by_length.entry(key.prefix_len).or_default().push(*key);
        }
        let (prefixes, problems) = prefix_lengths(by_length.keys().copied());
        // The slots are for the length that most have; the programs look for the others in the hash.
        let most = by_length.iter().max_by_key(|(length, keys)| (keys.len(), **length));
        let (slot_prefix, slot_bits) = most.map_or((0, 0), |(length, keys)| {
            let now = if u32::from(self.lengths.slot_prefix) == *length { self.lengths.slot_bits } else { 0 };
            (*length, slot_bits(keys, *length, now.into()))
        });
        let slots: Vec<_> = routes
            .iter()
            .filter(|(key, _)| key.prefix_len == slot_prefix)
            .map(|(key, route)| (route_slot(key.prefix, slot_bits), RouteSlot { key: *key, route: *route }))
            .collect();
        let bits = |length| u8::try_from(length).unwrap_or(0);
        let lengths = Lengths { prefixes, slot_prefix: bits(slot_prefix), slot_bits: bits(slot_bits) };
        let moves = lengths != self.lengths
            || slots.iter().any(|(place, slot)| self.route_slots.replaces(*place, slot));
        RoutePlan { routes, slots, lengths, moves, problems }
    }

    /// Enters what is new or has changed. Returns what is no longer wanted, for when the programs have been told.
    pub(super) fn add_routes(&mut self, plan: &RoutePlan<A>) -> anyhow::Result<Vec<RouteKey<A>>> {
        let present = self.written.routes(&self.routes)?;
        for (key, entry) in &plan.routes {
            if present.get(key) != Some(entry) {
                self.routes.insert(key, entry, 0).map_err(|error| full(error, "maxRoutes"))?;
                present.insert(*key, *entry);
            }
        }
        let gone = if present.len() == plan.routes.len() {
            Vec::new()
        } else {
            let wanted: HashSet<&RouteKey<A>> = plan.routes.iter().map(|(key, _)| key).collect();
            present.keys().filter(|key| !wanted.contains(key)).copied().collect()
        };
        self.hold_routes(plan)?;
        Ok(gone)
    }

    pub(super) fn remove_routes(&mut self, keys: &[RouteKey<A>]) -> anyhow::Result<()> {
        let present = self.written.routes(&self.routes)?;
        for key in keys {
            absent_is_fine(self.routes.remove(key))?;
            present.remove(key);
        }
        Ok(())
    }

    fn hold_routes(&mut self, plan: &RoutePlan<A>) -> anyhow::Result<()> {
        self.route_slots.hold(&plan.slots)?;
        self.lengths = plan.lengths;
        Ok(())
    }

    pub(super) fn set_nodes(&mut self, wanted: &HashSet<A>) -> anyhow::Result<()> {
        let present = self.written.nodes(&self.nodes)?;
        let gone: Vec<A> = present.keys().filter(|address| !wanted.contains(address)).copied().collect();
        for address in gone {
            absent_is_fine(self.nodes.remove(&address))?;
            present.remove(&address);
        }
        let new: Vec<A> = wanted.iter().filter(|address| !present.contains_key(address)).copied().collect();
        new.into_iter().try_for_each(|address| self.set_tunnel(address, 0))
    }

    /// How many pods, routes and nodes there are.
    pub(super) fn entries(&self) -> anyhow::Result<[usize; 3]> {
        Ok([
            number(self.pods.keys()).context("reading the pods")?,
            number(self.routes.keys()).context("reading the routes")?,
            number(self.nodes.keys()).context("reading the nodes")?,
        ])
    }

    /// Notes the number of a peer's tunnel.
    pub(super) fn set_tunnel(&mut self, peer: A, tunnel: u32) -> anyhow::Result<()> {
        let entry = NodeEntry { tunnel };
        self.nodes.insert(peer, entry, 0).map_err(|error| full(error, "maxRoutes"))?;
        self.written.nodes(&self.nodes)?.insert(peer, entry);
        Ok(())
    }

    /// Compares routes and nodes with what was written: a sentence for each difference. Where there is one, they are read
    /// again before they are next written.
    pub(super) fn damage(&mut self) -> anyhow::Result<Vec<String>>
    where
        A: Into<IpAddr>,
    {
        self.written.damage(&self.routes, &self.nodes)
    }

    /// Reads the slots again. Returns whether others have changed any.
    pub(super) fn reread_slots(&mut self) -> Result<bool, MapError> {
        Ok(self.pod_slots.reread()? | self.route_slots.reread()?)
    }

    /// The peers that have a tunnel, and its number.
    pub(super) fn numbers(&mut self) -> anyhow::Result<BTreeMap<IpAddr, u32>>
    where
        A: Into<IpAddr>,
    {
        let nodes = self.written.nodes(&self.nodes)?.iter();
        let with_tunnel = nodes.filter(|(_, entry)| entry.tunnel != 0);
        Ok(with_tunnel.map(|(address, entry)| ((*address).into(), entry.tunnel)).collect())
    }

    /// The tunnels that routes refer to.
    pub(super) fn tunnels_in_use(&mut self) -> anyhow::Result<impl Iterator<Item = u32>> {
        let routes = self.written.routes(&self.routes)?.values();
        Ok(routes.map(|route| u32::from(route.tunnel)).filter(|number| *number != 0))
    }

    /// Forgets the flows that are too old, and tells the others' places in the filter; returns how many these are.
    pub(super) fn sweep_flows(
        &mut self,
        now: Duration,
        ages: FlowAges,
        mut remains: impl FnMut(u32),
    ) -> anyhow::Result<usize> {
        let flows: Vec<(FlowKey<A>, FlowEntry)> = self.flows.iter().collect::<Result<_, _>>()?;
        let mut remaining = flows.len();
        for (key, flow) in flows {
            if now.saturating_sub(Duration::from_nanos(flow.last_seen)) > ages.of(key.protocol) {
                absent_is_fine(self.flows.remove(&key))?;
                remaining -= 1;
            } else {
                remains(filter_place(key.source, key.destination));
            }
        }
        Ok(remaining)
    }

    pub(super) fn has_no_flows(&self) -> anyhow::Result<bool> {
        Ok(self.flows.keys().next().transpose()?.is_none())
    }

    /// Enters a flow, as the programs do.
    #[cfg(test)]
    pub(super) fn note(&mut self, key: &FlowKey<A>, entry: FlowEntry) {
        self.flows.insert(key, entry, 0).unwrap();
    }

    /// What the kernel has at the place of this pod.
    #[cfg(test)]
    pub(super) fn slot_of_pod(&self, address: A) -> PodSlot<A> {
        self.pod_slots.in_kernel(pod_slot(address))
    }

    /// What the kernel has at the place of the route to this address.
    #[cfg(test)]
    pub(super) fn slot_of_route(&self, address: A) -> RouteSlot<A> {
        self.route_slots.in_kernel(route_slot(address, self.lengths.slot_bits.into()))
    }
}

/// How many keys there are. A map that changes meanwhile may be counted a little wrong.
fn number<K>(mut keys: impl Iterator<Item = Result<K, MapError>>) -> Result<usize, MapError> {
    keys.try_fold(0, |number, key| key.map(|_| number + 1))
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

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<M>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| anyhow!("the embedded object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("the map {name} is not what this agent expects"))
}

fn take_slots<S: Slot>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Slots<MapData, S>> {
    Slots::read(take(ebpf, name)?).with_context(|| format!("reading {name}"))
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

pub(super) fn absent_is_fine(result: Result<(), MapError>) -> anyhow::Result<()> {
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
