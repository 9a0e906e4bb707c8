//! What of the node's own map entries is no longer as the agent wrote it.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;

use anyhow::Context as _;
use dataplane_common::{Ip4, Ip6, NodeEntry, RouteEntry, RouteKey, Settings};

use super::Maps;

/// What the maps held when they had been written.
#[derive(Debug)]
pub(in super::super) struct Snapshot {
    routes4: HashMap<RouteKey<Ip4>, RouteEntry>,
    routes6: HashMap<RouteKey<Ip6>, RouteEntry>,
    nodes4: HashMap<Ip4, NodeEntry>,
    nodes6: HashMap<Ip6, NodeEntry>,
    pub(in super::super) settings: Settings,
}

impl Maps {
    /// Remembers what the maps hold.
    pub(in super::super) fn snapshot(&self) -> anyhow::Result<Snapshot> {
        Ok(Snapshot {
            routes4: self.v4.routes_now()?,
            routes6: self.v6.routes_now()?,
            nodes4: self.v4.nodes_now()?,
            nodes6: self.v6.nodes_now()?,
            settings: self.settings()?,
        })
    }

    /// One sentence for each difference.
    pub(in super::super) fn damage(&self, before: &Snapshot) -> anyhow::Result<Vec<String>> {
        fn cidr<A: Copy + Into<IpAddr>>(key: &RouteKey<A>) -> String {
            format!("{}/{}", key.prefix.into(), key.prefix_len)
        }
        let mut damage = Vec::new();
        let now = self.snapshot()?;
        compare("route", &before.routes4, &now.routes4, cidr, &mut damage);
        compare("route", &before.routes6, &now.routes6, cidr, &mut damage);
        compare("node", &before.nodes4, &now.nodes4, |node| IpAddr::from(*node), &mut damage);
        compare("node", &before.nodes6, &now.nodes6, |node| IpAddr::from(*node), &mut damage);
        if before.settings != now.settings {
            damage.push("the map settings was changed".to_owned());
        }
        Ok(damage)
    }

    /// Makes the slots agree with the hashes again, where others have changed them: one sentence then.
    pub(in super::super) fn mend_slots(&mut self) -> anyhow::Result<Vec<String>> {
        let changed4 = self.v4.reread_slots().context("reading the IPv4 slots")?;
        let changed6 = self.v6.reread_slots().context("reading the IPv6 slots")?;
        if !changed4 && !changed6 {
            return Ok(Vec::new());
        }
        self.distrust_slots()?;
        self.v4.align_slots().context("aligning the IPv4 slots")?;
        self.v6.align_slots().context("aligning the IPv6 slots")?;
        self.tell()?;
        Ok(vec!["a slot of pods or routes was changed".to_owned()])
    }

    /// What the programs are told now.
    pub(in super::super) fn settings(&self) -> anyhow::Result<Settings> {
        self.settings.get(&0, 0).context("reading settings")
    }
}

fn compare<K: Hash + Eq, V: PartialEq, N: Display>(
    map: &str,
    before: &HashMap<K, V>,
    now: &HashMap<K, V>,
    name: impl Fn(&K) -> N,
    damage: &mut Vec<String>,
) {
    for (key, value) in before {
        match now.get(key) {
            None => damage.push(format!("the entry for {} in the {map} map was removed", name(key))),
            Some(now) if now != value => {
                damage.push(format!("the entry for {} in the {map} map was changed", name(key)));
            }
            Some(_) => {}
        }
    }
    for key in now.keys().filter(|key| !before.contains_key(*key)) {
        damage.push(format!("an entry for {} was added to the {map} map", name(key)));
    }
}
