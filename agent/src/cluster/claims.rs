//! Who has which address and which pod CIDR: each belongs to one node.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;

use super::Node;

/// Addresses and pod CIDRs with their owners' names. Those of different owners never overlap.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    addresses: BTreeMap<IpAddr, &'a str>,
    /// By their first address: as they are apart, only neighbours need to be compared.
    cidrs: BTreeMap<IpAddr, (IpNetwork, &'a str)>,
}

impl<'a> Claims<'a> {
    /// What of `node` somebody else has.
    ///
    /// # Errors
    /// Names both nodes and values.
    pub(super) fn check(&self, node: &Node) -> Result<(), String> {
        let name = node.name.as_str();
        for address in &node.addresses {
            if let Some(owner) = self.addresses.get(address).filter(|owner| **owner != name) {
                return Err(format!(
                    "address {address} belongs to both {owner} and {name}: each address is one node's"
                ));
            }
            if let Some((cidr, owner)) = self.around(*address).filter(|(_, owner)| *owner != name) {
                return Err(inside(*address, name, cidr, owner));
            }
        }
        for cidr in &node.pod_cidrs {
            let range = cidr.network()..=cidr.broadcast();
            let within = self.cidrs.range(range.clone()).map(|(_, found)| *found);
            let other = self.around(cidr.network()).into_iter().chain(within);
            if let Some((found, owner)) = other.into_iter().find(|(_, owner)| *owner != name) {
                return Err(format!(
                    "pod CIDR {cidr} of {name} overlaps {found} of {owner}: give each node its own range"
                ));
            }
            if let Some((address, owner)) = self.addresses.range(range).find(|(_, owner)| **owner != name) {
                return Err(inside(*address, owner, *cidr, name));
            }
        }
        Ok(())
    }

    /// Gives a node what it claims; [`Self::check`] it first.
    pub(super) fn give(&mut self, node: &'a Node) {
        node.addresses.iter().for_each(|address| self.give_address(*address, &node.name));
        node.pod_cidrs.iter().for_each(|cidr| self.give_cidr(*cidr, &node.name));
    }

    pub(super) fn give_address(&mut self, address: IpAddr, owner: &'a str) {
        self.addresses.insert(address, owner);
    }

    pub(super) fn give_cidr(&mut self, cidr: IpNetwork, owner: &'a str) {
        self.cidrs.insert(cidr.network(), (cidr, owner));
    }

    /// Takes away whatever a node has of `node`'s description.
    pub(super) fn take(&mut self, node: &Node) {
        for address in &node.addresses {
            if self.addresses.get(address) == Some(&node.name.as_str()) {
                self.addresses.remove(address);
            }
        }
        for cidr in &node.pod_cidrs {
            if self.cidrs.get(&cidr.network()) == Some(&(*cidr, node.name.as_str())) {
                self.cidrs.remove(&cidr.network());
            }
        }
    }

    /// The pod CIDR that an address lies in.
    fn around(&self, address: IpAddr) -> Option<(IpNetwork, &'a str)> {
        let (_, found) = self.cidrs.range(..=address).next_back()?;
        found.0.contains(address).then_some(*found)
    }
}

fn inside(address: IpAddr, node: &str, cidr: IpNetwork, owner: &str) -> String {
    format!(
        "address {address} of {node} lies in pod CIDR {cidr} of {owner}: nodes' and pods' addresses are apart"
    )
}
