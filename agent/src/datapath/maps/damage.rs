//! What of the node's own map entries is no longer as the agent wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context as _;
use dataplane_common::{Address, FlowKey, Ip4, Ip6, RouteEntry, RouteKey, Settings};
use ipnetwork::IpNetwork;

use super::{FamilyMaps, Maps, PeerRoute, entry};

/// What was last written.
#[derive(Debug, Default)]
pub(in super::super) struct Written {
    pub(in super::super) routes: Option<BTreeMap<IpNetwork, PeerRoute>>,
    pub(in super::super) nodes: Option<BTreeSet<IpAddr>>,
    pub(in super::super) settings: Option<Settings>,
}

impl Maps {
    /// One sentence for each thing.
    pub(in super::super) fn damage(&self, written: &Written) -> anyhow::Result<Vec<String>> {
        let mut damage = Vec::new();
        if let Some(routes) = &written.routes {
            let tunnels = self.numbers()?;
            let (mut wanted4, mut wanted6) = (BTreeMap::new(), BTreeMap::new());
            for (cidr, route) in routes {
                let len = u32::from(cidr.prefix());
                match cidr.network() {
                    IpAddr::V4(prefix) => {
                        wanted4
                            .insert(*cidr, (RouteKey::new(Ip4::from(prefix), len), entry(route, &tunnels)));
                    }
                    IpAddr::V6(prefix) => {
                        wanted6
                            .insert(*cidr, (RouteKey::new(Ip6::from(prefix), len), entry(route, &tunnels)));
                    }
                }
            }
            self.v4.route_damage(&wanted4, &mut damage).context("reading routes4")?;
            self.v6.route_damage(&wanted6, &mut damage).context("reading routes6")?;
        }
        if let Some(nodes) = &written.nodes {
            for node in nodes {
                let there = match node {
                    IpAddr::V4(address) => self.v4.nodes.get(&Ip4::from(*address), 0).is_ok(),
                    IpAddr::V6(address) => self.v6.nodes.get(&Ip6::from(*address), 0).is_ok(),
                };
                if !there {
                    damage.push(format!("the entry for {node} in the node map was removed"));
                }
            }
        }
        if let Some(settings) = written.settings
            && self.settings.get(&0, 0).context("reading settings")? != settings
        {
            damage.push("the map settings was changed".to_owned());
        }
        Ok(damage)
    }

    /// What the programs are told now.
    pub(in super::super) fn settings(&self) -> anyhow::Result<Settings> {
        self.settings.get(&0, 0).context("reading settings")
    }
}

impl<A> FamilyMaps<A>
where
    A: Address + Ord + std::hash::Hash + aya::Pod,
    RouteKey<A>: aya::Pod,
    FlowKey<A>: aya::Pod,
{
    fn route_damage(
        &self,
        wanted: &BTreeMap<IpNetwork, (RouteKey<A>, RouteEntry)>,
        damage: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let present: std::collections::HashMap<RouteKey<A>, RouteEntry> =
            self.routes.iter().collect::<Result<_, _>>()?;
        for (cidr, (key, entry)) in wanted {
            match present.get(key) {
                None => damage.push(format!("the entry for {cidr} in the route map was removed")),
                Some(now) if now != entry => {
                    damage.push(format!("the entry for {cidr} in the route map was changed"));
                }
                Some(_) => {}
            }
        }
        if present.len() > wanted.len() {
            damage.push("the route map has entries that this agent has not made".to_owned());
        }
        Ok(())
    }
}
