//! Which pod CIDR is the next free one of a range. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The first free pod CIDR with this prefix length, counted from the one with number `from` (modulo their number) of
/// each range on. All of one family.
pub(super) fn free(ranges: &[IpNetwork], length: u8, taken: &[IpNetwork], from: u64) -> Option<IpNetwork> {
    let mut spans: Vec<(u128, u128)> = taken.iter().map(span).collect();
    spans.sort_unstable();
    ranges.iter().find_map(|range| {
        let (first, last) = span(range);
        let size = 1_u128.checked_shl(u32::from(bits(range) - length))?;
        let start = first + (u128::from(from) % count(range, length)) * size;
        let found = scan(start, last, size, &spans).or_else(|| scan(first, last, size, &spans))?;
        IpNetwork::new(address(range, found)?, length).ok()
    })
}

/// How many pod CIDRs with this prefix length a range has.
pub(super) fn count(range: &IpNetwork, length: u8) -> u128 {
    1_u128.checked_shl(u32::from(length.saturating_sub(range.prefix()))).unwrap_or(u128::MAX)
}

/// Whether two networks have an address in common.
pub(super) fn overlap(one: &IpNetwork, other: &IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}

/// From `at` on in steps of `size`, past everything that is taken.
fn scan(mut at: u128, last: u128, size: u128, taken: &[(u128, u128)]) -> Option<u128> {
    let mut taken = taken.iter().peekable();
    loop {
        let end = at.checked_add(size - 1).filter(|end| *end <= last)?;
        while taken.peek().is_some_and(|(_, taken_end)| *taken_end < at) {
            taken.next();
        }
        match taken.peek() {
            Some((begin, taken_end)) if *begin <= end => at = (taken_end / size + 1).checked_mul(size)?,
            _ => return Some(at),
        }
    }
}

fn bits(network: &IpNetwork) -> u8 {
    if network.is_ipv4() { 32 } else { 128 }
}

fn span(network: &IpNetwork) -> (u128, u128) {
    (number(network.network()), number(network.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(like: &IpNetwork, number: u128) -> Option<IpAddr> {
    if like.is_ipv4() {
        Some(std::net::Ipv4Addr::from(u32::try_from(number).ok()?).into())
    } else {
        Some(std::net::Ipv6Addr::from(number).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNetwork> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_free_one_is_taken_whatever_lies_around() {
        for (ranges, length, taken, from, expected) in [
            (&["10.244.0.0/16"][..], 24, &[][..], 0, Some("10.244.0.0/24")),
            (&["10.244.0.0/16"], 24, &["10.244.0.0/24", "10.244.2.0/24"], 0, Some("10.244.1.0/24")),
            // Of another length, as from former settings.
            (&["10.244.0.0/16"], 24, &["10.244.0.0/22"], 0, Some("10.244.4.0/24")),
            (&["10.244.0.0/16"], 22, &["10.244.1.0/24"], 0, Some("10.244.4.0/22")),
            (&["10.244.0.0/16"], 24, &["10.0.0.0/8"], 0, None),
            (&["10.244.0.0/23"], 24, &["10.244.0.0/24", "10.244.1.0/24"], 0, None),
            (&["10.244.0.0/24", "10.9.0.0/24"], 24, &["10.244.0.0/24"], 0, Some("10.9.0.0/24")),
            // From somewhere, and round.
            (&["10.244.0.0/22"], 24, &["10.244.3.0/24"], 3, Some("10.244.0.0/24")),
            (&["10.244.0.0/22"], 24, &[], 6, Some("10.244.2.0/24")),
            (&["0.0.0.0/1"], 8, &["126.0.0.0/8"], 126, Some("127.0.0.0/8")),
            (&["255.255.255.0/24"], 25, &["255.255.255.0/25"], 0, Some("255.255.255.128/25")),
            (&["255.255.255.0/24"], 25, &["255.255.255.0/24"], 0, None),
            (&["fd00:244::/32"], 64, &["fd00:244::/64"], 0, Some("fd00:244:0:1::/64")),
            (&["ffff::/16"], 64, &["ffff::/16"], 5, None),
        ] {
            let found = free(&nets(ranges), length, &nets(taken), from);
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{ranges:?} {taken:?}");
        }
    }

    #[test]
    fn a_range_is_used_up_to_its_last_pod_cidr() {
        let ranges = nets(&["10.244.0.0/20"]);
        let mut taken = Vec::new();
        for from in 0..16 {
            taken.push(free(&ranges, 24, &taken, from * 7).unwrap());
        }
        assert_eq!(free(&ranges, 24, &taken, 3), None);
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 16);
        assert_eq!(count(&ranges[0], 24), 16);
    }
}
