//! What the node's side writes: peers, routes to them, this node's addresses; and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_common::{Hook, PassReason, Verdict};
use ipnetwork::IpNetwork;

use super::{Datapath, OwnAddresses, PeerRoute, State, now};

impl Datapath {
    /// Makes the node maps hold exactly these peer nodes: only they may send through the overlay.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn set_nodes(&self, nodes: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.state().maps.set_nodes(nodes)
    }

    /// Tells the programs this node's own addresses.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub fn set_own_addresses(&self, own: &OwnAddresses) -> anyhow::Result<()> {
        self.state().changing_settings(|maps| maps.set_own_addresses(own))
    }

    /// Makes the route maps hold exactly these routes, by difference. Returns what could not be installed, in words.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn set_routes(&self, routes: &BTreeMap<IpNetwork, PeerRoute>) -> anyhow::Result<Vec<String>> {
        let now = now()?;
        let state = &mut *self.state();
        let problems = state.changing_settings(|maps| maps.set_routes(routes, now))?;
        if state.settings.is_none() {
            state.settings = Some(state.maps.settings()?);
        }
        Ok(problems)
    }

    /// What of routes, nodes, settings and slots is not in the maps as it was last written: a sentence each. The slots are
    /// mended here, the others by writing them again.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn damage(&self) -> anyhow::Result<Vec<String>> {
        let State { maps, settings, .. } = &mut *self.state();
        let mut damage = maps.damage(settings.as_ref())?;
        damage.extend(maps.mend_slots()?);
        if !damage.is_empty() {
            *settings = None;
        }
        Ok(damage)
    }

    /// The largest inner packets that routers have let through to peers in the last ten minutes, for the peers that
    /// they have complained of.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn path_mtus(&self) -> anyhow::Result<BTreeMap<IpAddr, u32>> {
        self.state().maps.path_mtus(now()?)
    }

    /// How often routers have said that the overlay's packets are too big.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn path_mtu_errors(&self) -> anyhow::Result<u64> {
        let verdict = Verdict::Pass(PassReason::PathMtu);
        Ok(self.state().maps.counter(Hook::FromWire, verdict)?.packets)
    }
}
