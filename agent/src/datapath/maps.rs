//! The maps, typed by family and written by difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray},
};
use dataplane_common::{
    Address, Counter, Hook, Ip4, Ip6, NextHopKind, PREFIX_LENGTHS, PodEntry, RouteEntry, RouteKey, Settings,
    Verdict, counter_index,
};
use ipnetwork::IpNetwork;

use crate::pods::PodEndpoint;

/// The maps that are pinned, under these names.
pub(super) const NAMES: [&str; 6] = ["pods4", "pods6", "routes4", "routes6", "settings", "counters"];

/// How packets reach a peer node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRoute {
    /// Index of the uplink.
    pub ifindex: u32,
    /// The largest IP packet that may leave this way, in bytes.
    pub mtu: u32,
    /// Address of the next hop, of the pod CIDR's family.
    pub next_hop: IpAddr,
}

/// The maps of a loaded object.
pub(super) struct Maps {
    v4: FamilyMaps<Ip4>,
    v6: FamilyMaps<Ip6>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counter>,
}

struct FamilyMaps<A>
where
    A: aya::Pod,
    RouteKey<A>: aya::Pod,
    RouteEntry<A>: aya::Pod,
{
    pods: HashMap<MapData, A, PodEntry>,
    routes: HashMap<MapData, RouteKey<A>, RouteEntry<A>>,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            v4: FamilyMaps { pods: take(ebpf, "pods4")?, routes: take(ebpf, "routes4")? },
            v6: FamilyMaps { pods: take(ebpf, "pods6")?, routes: take(ebpf, "routes6")? },
            settings: take(ebpf, "settings")?,
            counters: take(ebpf, "counters")?,
        })
    }

    /// Adds a local pod's address or changes its entry, in one step.
    ///
    /// # Errors
    /// Where the kernel refuses: a full map is named with its way out.
    pub(super) fn set_pod(&mut self, address: IpAddr, pod: PodEndpoint) -> anyhow::Result<()> {
        let entry = PodEntry { ifindex: pod.ifindex, mac: pod.mac, host_mac: pod.host_mac };
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

    /// Makes the route maps hold exactly these routes. Returns what could not be installed, in words.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub(super) fn set_routes(
        &mut self,
        routes: &BTreeMap<IpNetwork, PeerRoute>,
    ) -> anyhow::Result<Vec<String>> {
        let mut wanted4 = Vec::new();
        let mut wanted6 = Vec::new();
        for (cidr, route) in routes {
            let prefix_len = u32::from(cidr.prefix());
            match (cidr.network(), route.next_hop) {
                (IpAddr::V4(prefix), IpAddr::V4(next_hop)) => {
                    wanted4.push((
                        RouteKey::new(Ip4::from(prefix), prefix_len),
                        entry(*route, Ip4::from(next_hop)),
                    ));
                }
                (IpAddr::V6(prefix), IpAddr::V6(next_hop)) => {
                    wanted6.push((
                        RouteKey::new(Ip6::from(prefix), prefix_len),
                        entry(*route, Ip6::from(next_hop)),
                    ));
                }
                // The kernel's route serves it.
                _ => {}
            }
        }
        let (lens4, mut problems) = prefix_lengths(wanted4.iter().map(|(key, _)| key.prefix_len));
        let (lens6, problems6) = prefix_lengths(wanted6.iter().map(|(key, _)| key.prefix_len));
        problems.extend(problems6);
        self.v4.set_routes(&wanted4).context("writing routes4")?;
        self.v6.set_routes(&wanted6).context("writing routes6")?;
        let settings = Settings { prefix_lens4: lens4, prefix_lens6: lens6 };
        if self.settings.get(&0, 0).context("reading settings")? != settings {
            self.settings.set(0, settings, 0).context("writing settings")?;
        }
        Ok(problems)
    }

    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn counters(&self) -> anyhow::Result<Vec<(Hook, Verdict, Counter)>> {
        let mut sums = Vec::new();
        for hook in Hook::ALL {
            for verdict in Verdict::all() {
                let values =
                    self.counters.get(&counter_index(*hook, verdict), 0).context("reading counters")?;
                let sum = values.iter().fold(Counter::default(), |sum, value| Counter {
                    packets: sum.packets + value.packets,
                    bytes: sum.bytes + value.bytes,
                });
                sums.push((*hook, verdict, sum));
            }
        }
        Ok(sums)
    }
}

impl<A> FamilyMaps<A>
where
    A: Address + std::hash::Hash + aya::Pod,
    RouteKey<A>: aya::Pod,
    RouteEntry<A>: aya::Pod,
{
    fn set_routes(&mut self, wanted: &[(RouteKey<A>, RouteEntry<A>)]) -> anyhow::Result<()> {
        let mut present: std::collections::HashMap<RouteKey<A>, RouteEntry<A>> =
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

fn entry<A>(route: PeerRoute, next_hop: A) -> RouteEntry<A> {
    RouteEntry { kind: NextHopKind::Direct as u32, ifindex: route.ifindex, mtu: route.mtu, next_hop }
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
