//! The kernel's ways to the peers' addresses, remembered until something about routing changes: asking for thousands of
//! them takes longer than everything else in a pass.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::netlink::{Netlink, NextHop};

/// What the kernel has said.
#[derive(Debug, Default)]
pub(super) struct Ways {
    known: HashMap<IpAddr, Result<NextHop, String>>,
}

impl Ways {
    /// Everything may be different now.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// Asks for the ways to these addresses that are not known, and forgets all others.
    pub(super) async fn learn(&mut self, netlink: &Netlink, wanted: HashSet<IpAddr>) {
        // No way is nothing to rely on: not every reason for it is announced when it goes.
        self.known.retain(|address, way| way.is_ok() && wanted.contains(address));
        let unknown = wanted.into_iter().filter(|address| !self.known.contains_key(address)).collect();
        for (address, answer) in netlink.resolve_all(unknown).await {
            self.known.insert(address, answer.map_err(|error| format!("{error:#}")));
        }
    }

    /// The way to an address that was learnt.
    pub(super) fn to(&self, address: IpAddr) -> Result<NextHop, String> {
        self.known.get(&address).cloned().unwrap_or_else(|| Err("it has not been asked for".to_owned()))
    }
}
