//! Changes of what is known to be in the maps, without reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context as _;
use dataplane_common::{Ip4, Ip6, NodeEntry, RouteKey, Settings};
use ipnetwork::IpNetwork;

use super::{Maps, PeerRoute, absent_is_fine, entry, full, prefix_lengths, underlay};

impl Maps {
    /// As [`Maps::set_routes`], where `before` is in the maps. `None`, and nothing done, where tunnels are concerned:
    /// their numbers are in the maps only.
    pub(in super::super) fn change_routes(
        &mut self,
        before: &BTreeMap<IpNetwork, PeerRoute>,
        after: &BTreeMap<IpNetwork, PeerRoute>,
    ) -> anyhow::Result<Option<Vec<String>>> {
        let changed = || after.iter().filter(|(cidr, route)| before.get(*cidr) != Some(*route));
        let gone = || before.iter().filter(|(cidr, _)| !after.contains_key(*cidr));
        let former = changed().filter_map(|(cidr, _)| before.get(cidr));
        let mut concerned = changed().chain(gone()).map(|(_, route)| route).chain(former);
        if concerned.any(|route| underlay(route).is_some()) {
            return Ok(None);
        }
        let tunnels = BTreeMap::new();
        // New ones first: a route that only moves to another next hop never leaves a gap.
        for (cidr, route) in changed() {
            let entry = entry(route, &tunnels);
            match cidr.network() {
                IpAddr::V4(prefix) => self.v4.routes.insert(key4(prefix.into(), cidr), entry, 0),
                IpAddr::V6(prefix) => self.v6.routes.insert(key6(prefix.into(), cidr), entry, 0),
            }
            .map_err(|error| full(error, "maxRoutes"))
            .with_context(|| format!("writing the route to {cidr}"))?;
        }
        for (cidr, _) in gone() {
            absent_is_fine(match cidr.network() {
                IpAddr::V4(prefix) => self.v4.routes.remove(&key4(prefix.into(), cidr)),
                IpAddr::V6(prefix) => self.v6.routes.remove(&key6(prefix.into(), cidr)),
            })
            .with_context(|| format!("removing the route to {cidr}"))?;
        }
        let lengths = |v4: bool| {
            let of_family = after.keys().filter(move |cidr| cidr.is_ipv4() == v4);
            prefix_lengths(of_family.map(|cidr| u32::from(cidr.prefix())))
        };
        let (prefix_lens4, mut problems) = lengths(true);
        let (prefix_lens6, problems6) = lengths(false);
        problems.extend(problems6);
        self.change_settings(|now| Settings { prefix_lens4, prefix_lens6, ..now })?;
        Ok(Some(problems))
    }

    /// As [`Maps::set_nodes`], where `before` is in the maps.
    pub(in super::super) fn change_nodes(
        &mut self,
        before: &BTreeSet<IpAddr>,
        after: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<()> {
        for node in before.difference(after) {
            absent_is_fine(match node {
                IpAddr::V4(address) => self.v4.nodes.remove(&Ip4::from(*address)),
                IpAddr::V6(address) => self.v6.nodes.remove(&Ip6::from(*address)),
            })
            .with_context(|| format!("removing the node {node}"))?;
        }
        for node in after.difference(before) {
            let entry = NodeEntry { tunnel: 0 };
            match node {
                IpAddr::V4(address) => self.v4.nodes.insert(Ip4::from(*address), entry, 0),
                IpAddr::V6(address) => self.v6.nodes.insert(Ip6::from(*address), entry, 0),
            }
            .map_err(|error| full(error, "maxRoutes"))
            .with_context(|| format!("adding the node {node}"))?;
        }
        Ok(())
    }
}

fn key4(prefix: Ip4, cidr: &IpNetwork) -> RouteKey<Ip4> {
    RouteKey::new(prefix, u32::from(cidr.prefix()))
}

fn key6(prefix: Ip6, cidr: &IpNetwork) -> RouteKey<Ip6> {
    RouteKey::new(prefix, u32::from(cidr.prefix()))
}
