//! What of routes and nodes the agent has written into its maps. It is the only one who writes them, so a change needs
//! no look into the maps; whether somebody else has changed them is looked at now and then.

use std::{collections::HashMap as StdHashMap, fmt::Display, hash::Hash, net::IpAddr};

use anyhow::Context as _;
use aya::maps::{HashMap, MapData, MapError};
use dataplane_common::{NodeEntry, RouteEntry, RouteKey};

/// One family's routes and nodes; `None` while they have to be read first.
pub(super) struct Written<A> {
    routes: Option<StdHashMap<RouteKey<A>, RouteEntry>>,
    nodes: Option<StdHashMap<A, NodeEntry>>,
}

impl<A> Default for Written<A> {
    fn default() -> Self {
        Self { routes: None, nodes: None }
    }
}

impl<A> Written<A>
where
    A: Copy + Eq + Hash + aya::Pod,
    RouteKey<A>: aya::Pod + Eq + Hash,
{
    /// The routes, to be kept as the map is.
    pub(super) fn routes(
        &mut self,
        map: &HashMap<MapData, RouteKey<A>, RouteEntry>,
    ) -> anyhow::Result<&mut StdHashMap<RouteKey<A>, RouteEntry>> {
        known(&mut self.routes, map).context("reading the routes")
    }

    /// The nodes, to be kept as the map is.
    pub(super) fn nodes(
        &mut self,
        map: &HashMap<MapData, A, NodeEntry>,
    ) -> anyhow::Result<&mut StdHashMap<A, NodeEntry>> {
        known(&mut self.nodes, map).context("reading the nodes")
    }

    /// Compares with the maps: a sentence for each difference. What differs has to be read anew.
    pub(super) fn damage(
        &mut self,
        routes: &HashMap<MapData, RouteKey<A>, RouteEntry>,
        nodes: &HashMap<MapData, A, NodeEntry>,
    ) -> anyhow::Result<Vec<String>>
    where
        A: Into<IpAddr>,
    {
        let cidr = |key: &RouteKey<A>| format!("{}/{}", key.prefix.into(), key.prefix_len);
        let mut damage = compare("route", &mut self.routes, routes, cidr).context("reading the routes")?;
        let address = |node: &A| -> IpAddr { (*node).into() };
        damage.extend(compare("node", &mut self.nodes, nodes, address).context("reading the nodes")?);
        Ok(damage)
    }
}

fn known<'a, K: aya::Pod + Eq + Hash, V: aya::Pod>(
    written: &'a mut Option<StdHashMap<K, V>>,
    map: &HashMap<MapData, K, V>,
) -> Result<&'a mut StdHashMap<K, V>, MapError> {
    let read = match written.take() {
        Some(read) => read,
        None => map.iter().collect::<Result<_, _>>()?,
    };
    Ok(written.insert(read))
}

fn compare<K: aya::Pod + Eq + Hash, V: aya::Pod + PartialEq, N: Display>(
    what: &str,
    written: &mut Option<StdHashMap<K, V>>,
    map: &HashMap<MapData, K, V>,
    name: impl Fn(&K) -> N,
) -> Result<Vec<String>, MapError> {
    let mut damage = Vec::new();
    // Read by the next who writes, unless it turns out to be as it should be.
    let Some(before) = written.take() else { return Ok(damage) };
    let mut found = 0;
    for item in map.iter() {
        let (key, now) = item?;
        match before.get(&key) {
            None => damage.push(format!("an entry for {} was added to the {what} map", name(&key))),
            Some(value) => {
                found += 1;
                if *value != now {
                    damage.push(format!("the entry for {} in the {what} map was changed", name(&key)));
                }
            }
        }
    }
    if found != before.len() {
        for key in before.keys() {
            match map.get(key, 0) {
                Ok(_) => {}
                Err(MapError::KeyNotFound) => {
                    damage.push(format!("the entry for {} in the {what} map was removed", name(key)));
                }
                Err(error) => return Err(error),
            }
        }
    }
    if damage.is_empty() {
        *written = Some(before);
    }
    Ok(damage)
}
