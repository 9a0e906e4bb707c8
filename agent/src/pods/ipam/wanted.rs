//! Addresses that somebody asks for by name, or out of ranges, instead of leaving the choice to us.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{Exhausted, Ipam, Lease, NodeNetwork, distance, gateway, offset, pod_range};

/// Addresses from the first to the last, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// The first.
    pub first: IpAddr,
    /// The last; it belongs to the range.
    pub last: IpAddr,
}

/// What an ADD wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wanted {
    /// These very addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// One address out of each set of ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Vec<AddressRange>>,
    /// The IPAM plugin that has given the addresses: then there are no others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipam: Option<String>,
}

/// Why there are no such addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No address is left.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// No address is left in the ranges asked for.
    #[error(
        "no address is free in {ranges}, as far as it is in {node}'s podCIDRs {cidrs}: ask for other ranges"
    )]
    RangesFull {
        /// The ranges.
        ranges: String,
        /// The node.
        node: String,
        /// Its pod CIDRs.
        cidrs: String,
    },
    /// The address belongs to another pod.
    #[error("address {0} is in use by another pod: ask for another one, or delete that pod")]
    Taken(IpAddr),
    /// No packets would find their way to the address.
    #[error(
        "address {address} is no pod address of {node}: take one of its podCIDRs {cidrs}, without the first ones"
    )]
    Foreign {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
        /// Its pod CIDRs.
        cidrs: String,
    },
    /// An IPAM plugin that gives none.
    #[error("IPAM plugin {0} gave no address: look at its settings under ipam")]
    None(String),
}

impl Ipam {
    /// Takes what is wanted, and one address of each family that is not mentioned; all or none.
    pub fn reserve_wanted(&mut self, node: &NodeNetwork, wanted: &Wanted) -> Result<Vec<Lease>, Refused> {
        let mut leases = Vec::new();
        let result = self.take_wanted(node, wanted, &mut leases);
        if result.is_err() {
            leases.iter().for_each(|lease: &Lease| self.release(lease.address));
        }
        result.map(|()| leases)
    }

    fn take_wanted(
        &mut self,
        node: &NodeNetwork,
        wanted: &Wanted,
        leases: &mut Vec<Lease>,
    ) -> Result<(), Refused> {
        let cidrs = || node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        for &address in &wanted.addresses {
            let foreign = || Refused::Foreign { address, node: node.name.clone(), cidrs: cidrs() };
            let cidr =
                node.pod_cidrs.iter().find(|cidr| is_pod_address(cidr, address)).ok_or_else(foreign)?;
            if !self.claim(address) {
                return Err(Refused::Taken(address));
            }
            leases.push(Lease { address, gateway: gateway(cidr) });
        }
        if let Some(plugin) = &wanted.ipam {
            return if leases.is_empty() { Err(Refused::None(plugin.clone())) } else { Ok(()) };
        }
        let has = |leases: &[Lease], v4: bool| leases.iter().any(|lease| lease.address.is_ipv4() == v4);
        for set in &wanted.ranges {
            if set.first().is_none_or(|range| has(leases, range.first.is_ipv4())) {
                continue;
            }
            let full = || {
                let ranges: Vec<_> =
                    set.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
                Refused::RangesFull { ranges: ranges.join(", "), node: node.name.clone(), cidrs: cidrs() }
            };
            let pairs = set.iter().flat_map(|range| node.pod_cidrs.iter().map(move |cidr| (range, cidr)));
            let lease = pairs.into_iter().find_map(|(range, cidr)| self.next_in(cidr, range));
            leases.push(lease.ok_or_else(full)?);
        }
        let rest = NodeNetwork {
            pod_cidrs: node.pod_cidrs.iter().copied().filter(|cidr| !has(leases, cidr.is_ipv4())).collect(),
            ..node.clone()
        };
        leases.extend(self.reserve(&rest)?);
        Ok(())
    }

    /// The next free address of a pod CIDR that is in the range too.
    fn next_in(&mut self, cidr: &IpNetwork, range: &AddressRange) -> Option<Lease> {
        if range.first.is_ipv4() != cidr.is_ipv4() || range.last.is_ipv4() != cidr.is_ipv4() {
            return None;
        }
        let (first, last) = pod_range(cidr)?;
        let (low, high) = (offset(cidr, first).max(range.first), offset(cidr, last).min(range.last));
        if low > high {
            return None;
        }
        let (low, high) = (distance(cidr, low), distance(cidr, high));
        let given = self.last.get(cidr).copied().unwrap_or(0).clamp(low - 1, high);
        let found = self.free_in(cidr, given + 1, high).or_else(|| self.free_in(cidr, low, given));
        let found = found.or_else(|| self.freed_in(cidr, low, high))?;
        let address = offset(cidr, found);
        self.take(address);
        self.last.insert(*cidr, found);
        Some(Lease { address, gateway: gateway(cidr) })
    }
}

fn is_pod_address(cidr: &IpNetwork, address: IpAddr) -> bool {
    cidr.contains(address)
        && pod_range(cidr).is_some_and(|(first, last)| (first..=last).contains(&distance(cidr, address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeNetwork {
        let pod_cidrs = ["10.244.1.0/24", "fd00:244:1::/64"].map(|cidr| cidr.parse().unwrap()).to_vec();
        NodeNetwork { name: "node1".to_owned(), pod_cidrs, mtu: 1500 }
    }

    fn wanted(addresses: &[&str]) -> Wanted {
        Wanted { addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(), ..Wanted::default() }
    }

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap() }
    }

    fn text(leases: &[Lease]) -> String {
        leases.iter().map(|lease| lease.address.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_asked_for_is_given_and_the_other_family_comes_along() {
        let mut ipam = Ipam::default();
        let leases = ipam.reserve_wanted(&node(), &wanted(&["10.244.1.77"])).unwrap();
        assert_eq!(text(&leases), "10.244.1.77 fd00:244:1::2");
        assert_eq!(leases[0].gateway.to_string(), "10.244.1.1");
        let leases = ipam.reserve_wanted(&node(), &wanted(&["fd00:244:1::9", "10.244.1.9"])).unwrap();
        assert_eq!(text(&leases), "fd00:244:1::9 10.244.1.9");
    }

    #[test]
    fn what_cannot_be_given_is_refused_whole() {
        let mut ipam = Ipam::default();
        ipam.claim("10.244.1.77".parse().unwrap());
        for (addresses, why) in [
            (vec!["10.244.1.5", "10.244.1.77"], "10.244.1.77 is in use"),
            (vec!["10.244.1.5", "10.244.1.5"], "10.244.1.5 is in use"),
            (
                vec!["10.244.1.5", "10.244.2.5"],
                "10.244.2.5 is no pod address of node1: take one of its podCIDRs 10.244.1.0/24",
            ),
            (vec!["10.244.1.1"], "10.244.1.1 is no pod address"),
            (vec!["10.244.1.0"], "no pod address"),
            (vec!["10.244.1.255"], "no pod address"),
        ] {
            let error = ipam.reserve_wanted(&node(), &wanted(&addresses)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(ipam.used.len(), 1, "nothing leaked");
    }

    #[test]
    fn an_ipam_plugin_decides_alone() {
        let mut ipam = Ipam::default();
        let plugin = Some("host-local".to_owned());
        let given = Wanted { ipam: plugin.clone(), ..wanted(&["10.244.1.77"]) };
        assert_eq!(text(&ipam.reserve_wanted(&node(), &given).unwrap()), "10.244.1.77");
        let nothing = Wanted { ipam: plugin, ..Wanted::default() };
        assert!(ipam.reserve_wanted(&node(), &nothing).unwrap_err().to_string().contains("host-local"));
    }

    #[test]
    fn ranges_are_walked_through_and_can_be_full() {
        let mut ipam = Ipam::default();
        let sets = vec![vec![range("10.244.0.0", "10.244.0.255"), range("10.244.1.0", "10.244.1.3")]];
        let wanted = Wanted { ranges: sets, ..Wanted::default() };
        for (v4, v6) in [(2, 2), (3, 3)] {
            let leases = ipam.reserve_wanted(&node(), &wanted).unwrap();
            assert_eq!(text(&leases), format!("10.244.1.{v4} fd00:244:1::{v6}"));
        }
        let error = ipam.reserve_wanted(&node(), &wanted).unwrap_err().to_string();
        assert!(error.contains("10.244.1.0-10.244.1.3"), "{error}");
        // The one just freed is found again, behind the end.
        ipam.release("10.244.1.2".parse().unwrap());
        assert!(text(&ipam.reserve_wanted(&node(), &wanted).unwrap()).starts_with("10.244.1.2 "));
        let upside_down =
            Wanted { ranges: vec![vec![range("10.244.1.9", "10.244.1.5")]], ..Wanted::default() };
        assert!(ipam.reserve_wanted(&node(), &upside_down).is_err());
    }
}
