//! Which pod address is next. Pure bookkeeping: the records on disk are the truth, this is rebuilt from them.

mod given;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::NodeNetwork;

pub use given::{GIVEN_FILE, GivenFile};
pub use wanted::{AddressRange, Refused, Wanted};

/// A pod's address and the gateway that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The pod's.
    pub address: IpAddr,
    /// The node's, of the same pod CIDR.
    pub gateway: IpAddr,
}

/// No address is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pod CIDR {cidrs} is full ({used} of {capacity} addresses in use): widen podCIDRs for {node}")]
pub struct Exhausted {
    cidrs: String,
    used: u128,
    capacity: u128,
    node: String,
}

/// The pod addresses in use, and where to look for the next one.
#[derive(Debug, Default)]
pub struct Ipam {
    used: BTreeSet<IpAddr>,
    /// The address given last, by CIDR: the search goes on behind it, so that an address just freed, to which
    /// others may still be talking, is not given to a stranger at once.
    last: BTreeMap<IpNetwork, u128>,
    /// Freed lately, the latest at the end: given again only when nothing else is left, the oldest first. Where the search
    /// goes on says nothing of these: the next address behind it may have been freed a moment ago.
    freed: VecDeque<IpAddr>,
}

/// How many of the addresses that were freed last are remembered.
const FREED: usize = 64;

/// The gateway address of a pod CIDR: its first address.
pub fn gateway(cidr: &IpNetwork) -> IpAddr {
    // A CIDR of one address has nothing behind its first.
    offset(cidr, u128::from(size_minus_one(cidr) > 0))
}

impl Ipam {
    /// Takes one address of each family that the node has pod CIDRs for; all or none.
    pub fn reserve(&mut self, node: &NodeNetwork) -> Result<Vec<Lease>, Exhausted> {
        let mut leases: Vec<Lease> = Vec::new();
        for v4 in [true, false] {
            let cidrs: Vec<IpNetwork> =
                node.pod_cidrs.iter().copied().filter(|cidr| cidr.is_ipv4() == v4).collect();
            if cidrs.is_empty() {
                continue;
            }
            match cidrs.iter().find_map(|cidr| self.next(cidr)) {
                Some(lease) => leases.push(lease),
                None => {
                    leases.iter().for_each(|lease| self.release(lease.address));
                    return Err(self.exhausted(&cidrs, &node.name));
                }
            }
        }
        Ok(leases)
    }

    /// Takes this very address, which a record claims. False if it was taken already.
    pub fn claim(&mut self, address: IpAddr) -> bool {
        self.take(address)
    }

    /// Gives an address back. Fine when it was not taken.
    pub fn release(&mut self, address: IpAddr) {
        if self.used.remove(&address) {
            self.freed.retain(|freed| *freed != address);
            self.freed.push_back(address);
            if self.freed.len() > FREED {
                self.freed.pop_front();
            }
        }
    }

    /// The first free address behind the last one given, around the end if need be.
    fn next(&mut self, cidr: &IpNetwork) -> Option<Lease> {
        let (first, last) = pod_range(cidr)?;
        let given = match self.last.get(cidr) {
            Some(given) => *given,
            // After a restart: behind the highest in use.
            None => self.used_in(cidr).next_back().map_or(first - 1, |address| distance(cidr, *address)),
        };
        let behind = given.saturating_add(1);
        let found = self
            .free_in(cidr, behind.max(first), last)
            .or_else(|| self.free_in(cidr, first, given.min(last)))
            .or_else(|| self.freed_in(cidr, first, last))?;
        let address = offset(cidr, found);
        self.take(address);
        self.last.insert(*cidr, found);
        Some(Lease { address, gateway: gateway(cidr) })
    }

    /// The first free one between two offsets that was not freed lately: walks over those only, however large the CIDR.
    fn free_in(&self, cidr: &IpNetwork, from: u128, to: u128) -> Option<u128> {
        if from > to {
            return None;
        }
        let used = self.used.range(offset(cidr, from)..=offset(cidr, to));
        let mut used = used.map(|address| distance(cidr, *address)).peekable();
        let mut candidate = from;
        while used.next_if_eq(&candidate).is_some() || self.freed.contains(&offset(cidr, candidate)) {
            candidate = candidate.checked_add(1).filter(|candidate| *candidate <= to)?;
        }
        Some(candidate)
    }

    /// The one between two offsets that was freed first.
    fn freed_in(&self, cidr: &IpNetwork, from: u128, to: u128) -> Option<u128> {
        let freed = self.freed.iter().filter(|address| address.is_ipv4() == cidr.is_ipv4());
        freed.map(|address| distance(cidr, *address)).find(|place| (from..=to).contains(place))
    }

    fn take(&mut self, address: IpAddr) -> bool {
        self.freed.retain(|freed| *freed != address);
        self.used.insert(address)
    }

    fn used_in(&self, cidr: &IpNetwork) -> impl DoubleEndedIterator<Item = &IpAddr> {
        let range = pod_range(cidr).map(|(first, last)| offset(cidr, first)..=offset(cidr, last));
        range.map(|range| self.used.range(range)).into_iter().flatten()
    }

    fn exhausted(&self, cidrs: &[IpNetwork], node: &str) -> Exhausted {
        Exhausted {
            cidrs: cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            used: cidrs.iter().map(|cidr| self.used_in(cidr).count() as u128).sum(),
            capacity: cidrs
                .iter()
                .filter_map(pod_range)
                .fold(0, |sum: u128, (first, last)| sum.saturating_add(last - first + 1)),
            node: node.to_owned(),
        }
    }
}

/// The offsets of the first and the last pod address: behind the network's and the gateway's, before the broadcast.
fn pod_range(cidr: &IpNetwork) -> Option<(u128, u128)> {
    let last = size_minus_one(cidr).checked_sub(u128::from(cidr.is_ipv4()))?;
    (last >= 2).then_some((2, last))
}

fn size_minus_one(cidr: &IpNetwork) -> u128 {
    let bits: u8 = if cidr.is_ipv4() { 32 } else { 128 };
    u128::MAX.checked_shr(128 - u32::from(bits - cidr.prefix())).unwrap_or(0)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// How far behind the network's address.
fn distance(cidr: &IpNetwork, address: IpAddr) -> u128 {
    number(address).wrapping_sub(number(cidr.network()))
}

fn offset(cidr: &IpNetwork, offset: u128) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            std::net::Ipv4Addr::from_bits(base.to_bits().saturating_add(offset)).into()
        }
        IpAddr::V6(base) => std::net::Ipv6Addr::from_bits(base.to_bits().saturating_add(offset)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn node(cidrs: &[&str]) -> NodeNetwork {
        NodeNetwork {
            name: "node1".to_owned(),
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            mtu: 1500,
        }
    }

    pub(super) fn take(ipam: &mut Ipam, node: &NodeNetwork) -> String {
        let leases = ipam.reserve(node).unwrap();
        leases.iter().map(|lease| lease.address.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_24_has_253_pod_addresses_and_says_when_they_are_gone() {
        let (mut ipam, node) = (Ipam::default(), node(&["10.244.1.0/24"]));
        for last in 2..=254 {
            assert_eq!(take(&mut ipam, &node), format!("10.244.1.{last}"));
        }
        assert_eq!(
            ipam.reserve(&node).unwrap_err().to_string(),
            "pod CIDR 10.244.1.0/24 is full (253 of 253 addresses in use): widen podCIDRs for node1"
        );
        ipam.release("10.244.1.77".parse().unwrap());
        assert_eq!(take(&mut ipam, &node), "10.244.1.77");
    }

    #[test]
    fn an_address_just_freed_comes_last() {
        let (mut ipam, node) = (Ipam::default(), node(&["10.244.1.0/29"]));
        assert_eq!(take(&mut ipam, &node), "10.244.1.2");
        ipam.release("10.244.1.2".parse().unwrap());
        for next in [3, 4, 5, 6, 2] {
            assert_eq!(take(&mut ipam, &node), format!("10.244.1.{next}"));
        }
        assert!(ipam.reserve(&node).is_err());
    }

    #[test]
    fn one_freed_right_behind_the_search_is_not_the_next() {
        let (mut ipam, node) = (Ipam::default(), node(&["10.244.1.0/24"]));
        for _ in 0..250 {
            take(&mut ipam, &node);
        }
        // The search is at .251. What is freed there, by a pod that was asked for by address, is as fresh as any.
        assert!(ipam.claim("10.244.1.252".parse().unwrap()));
        ipam.release("10.244.1.252".parse().unwrap());
        for next in [253, 254] {
            assert_eq!(take(&mut ipam, &node), format!("10.244.1.{next}"));
        }
        // Around the end: the one that was freed first is the next.
        for freed in [100, 2] {
            ipam.release(format!("10.244.1.{freed}").parse().unwrap());
        }
        for next in [252, 100, 2] {
            assert_eq!(take(&mut ipam, &node), format!("10.244.1.{next}"));
        }
        assert!(ipam.reserve(&node).is_err());
    }

    #[test]
    fn the_search_goes_on_behind_the_highest_claimed() {
        let (mut ipam, node) = (Ipam::default(), node(&["10.244.1.0/29"]));
        assert!(ipam.claim("10.244.1.5".parse().unwrap()));
        assert!(!ipam.claim("10.244.1.5".parse().unwrap()));
        for next in [6, 2, 3, 4] {
            assert_eq!(take(&mut ipam, &node), format!("10.244.1.{next}"));
        }
    }

    #[test]
    fn one_address_of_each_family_or_none() {
        let (mut ipam, node) = (Ipam::default(), node(&["fd00:244:1::/64", "10.244.1.0/30"]));
        let leases = ipam.reserve(&node).unwrap();
        let gateways: Vec<_> = leases.iter().map(|lease| lease.gateway.to_string()).collect();
        assert_eq!(gateways, ["10.244.1.1", "fd00:244:1::1"]);
        assert_eq!(leases[1].address.to_string(), "fd00:244:1::2");
        assert!(ipam.reserve(&node).unwrap_err().to_string().contains("10.244.1.0/30 is full (1 of 1"));
        assert_eq!(ipam.used.len(), 2, "nothing leaked");
    }

    #[test]
    fn a_second_cidr_of_a_family_is_used_when_the_first_is_full() {
        let (mut ipam, node) = (Ipam::default(), node(&["10.244.1.0/30", "10.244.9.0/30"]));
        assert_eq!(take(&mut ipam, &node), "10.244.1.2");
        assert_eq!(ipam.reserve(&node).unwrap()[0].gateway.to_string(), "10.244.9.1");
        let error = ipam.reserve(&node).unwrap_err().to_string();
        assert!(error.contains("10.244.1.0/30, 10.244.9.0/30 is full (2 of 2"), "{error}");
    }

    #[test]
    fn huge_and_tiny_cidrs_work() {
        for cidr in ["fd00::/64", "fd00::/112", "fd00::/8", "::/0", "0.0.0.0/0", "10.0.0.0/8"] {
            let (mut ipam, node) = (Ipam::default(), node(&[cidr]));
            for _ in 0..1000 {
                ipam.reserve(&node).unwrap();
            }
            assert_eq!(ipam.used.len(), 1000, "{cidr}");
        }
        for cidr in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
            let error = Ipam::default().reserve(&node(&[cidr])).unwrap_err();
            assert!(error.to_string().contains("(0 of 0"), "{cidr}: {error}");
        }
        assert_eq!(take(&mut Ipam::default(), &node(&["fd00::/126"])), "fd00::2");
    }

    #[test]
    fn whatever_the_order_no_address_is_given_twice_and_none_is_lost() {
        let (mut ipam, node) = (Ipam::default(), node(&["10.244.1.0/27", "fd00:244:1::/123"]));
        let mut held: Vec<Vec<Lease>> = Vec::new();
        let mut random = 42_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = usize::try_from(random >> 33).unwrap();
            if draw % 2 == 0 && !held.is_empty() {
                for lease in held.swap_remove(draw / 2 % held.len()) {
                    ipam.release(lease.address);
                }
            } else {
                match ipam.reserve(&node) {
                    Ok(leases) => held.push(leases),
                    Err(_) => assert_eq!(held.len(), 29, "a /27 has room for 29"),
                }
            }
            let distinct: BTreeSet<_> = held.iter().flatten().map(|lease| lease.address).collect();
            assert_eq!(distinct, ipam.used);
            assert_eq!(distinct.len(), 2 * held.len());
            assert!(distinct.iter().all(|address| node.pod_cidrs.iter().any(|cidr| cidr.contains(*address)
                && *address != cidr.network()
                && *address != gateway(cidr)
                && (cidr.is_ipv6() || *address != cidr.broadcast()))));
        }
    }
}
