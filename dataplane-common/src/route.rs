use crate::{Address, Ip4, Ip6, plain_old_data};

/// Key of the maps `routes4` and `routes6`: a pod CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Zeroable))]
#[repr(C)]
pub struct RouteKey<A> {
    /// Length of the prefix in bits.
    pub prefix_len: u32,
    /// The prefix, the bits behind `prefix_len` cleared.
    pub prefix: A,
}

impl<A: Address> RouteKey<A> {
    /// The key of the prefix of this length that holds `address`.
    #[inline(always)]
    pub fn new(address: A, prefix_len: u32) -> Self {
        Self { prefix_len, prefix: address.masked(prefix_len) }
    }
}

/// What a route's next hop is. A plain number in the map: unknown ones make the programs pass the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum NextHopKind {
    /// A neighbour on the uplink's own segment (the peer node, or the router towards it), by its IPv4 address.
    Direct4 = 1,
    /// The same, by its IPv6 address.
    Direct6 = 2,
    /// The peer node at the other end of the overlay, by its IPv4 address.
    Tunnel4 = 3,
    /// The same, by its IPv6 address.
    Tunnel6 = 4,
}

/// Value of the maps `routes4` and `routes6`: how packets reach a peer node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct RouteEntry {
    /// Index of the uplink, or of the overlay device.
    pub ifindex: u32,
    /// The largest IP packet, in bytes, that may leave this way; larger ones are the kernel's to refuse or fragment.
    pub mtu: u16,
    /// A [`NextHopKind`].
    pub kind: u16,
    /// Address of the next hop or of the peer node, network byte order; an IPv4 address in the first four bytes, the
    /// others zero.
    pub next_hop: [u8; 16],
    /// MAC address of the peer's overlay device, see [`overlay_mac`]; zero for direct next hops.
    pub mac: [u8; 6],
    /// Where in the map `tunnels` it stands how outer packets reach the peer node; 0 where they go through the overlay
    /// device, and for direct next hops.
    pub tunnel: u16,
}

/// MAC address of a node's overlay device, worked out from the node's own address, so that nodes need not tell each
/// other: `02:50` (locally administered, "P") and the IPv4 address, or a hash of the IPv6 address (FNV-1a: folding it
/// by xor gave subnet 1, host 11 and subnet 2, host 12 the same).
#[must_use]
pub const fn overlay_mac(node: core::net::IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match node {
        core::net::IpAddr::V4(address) => address.octets(),
        core::net::IpAddr::V6(address) => hash(&address.octets()).to_be_bytes(),
    };
    [0x02, 0x50, a, b, c, d]
}

const fn hash(mut bytes: &[u8]) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    while let [first, rest @ ..] = bytes {
        hash = (hash ^ *first as u32).wrapping_mul(0x0100_0193);
        bytes = rest;
    }
    hash
}

/// The derive of `Pod` does not do generic types: the two that exist, with their sizes checked below.
macro_rules! without_padding {
    ($($type:ty),+) => {$(
        // SAFETY: `repr(C)`, a `u32` and an address of size 4 or 16 with alignment 4: there is no padding.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Pod for $type {}
    )+};
}
without_padding!(RouteKey<Ip4>, RouteKey<Ip6>);
plain_old_data!(RouteKey<Ip4>, RouteKey<Ip6>, RouteEntry);

const _: () = assert!(size_of::<RouteKey<Ip4>>() == 8 && size_of::<RouteKey<Ip6>>() == 20);
const _: () = assert!(size_of::<RouteEntry>() == 32 && align_of::<RouteEntry>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_macs_are_local_unicast_and_tell_nodes_apart() {
        let first = overlay_mac("192.168.1.11".parse().unwrap());
        assert_eq!(first, [0x02, 0x50, 192, 168, 1, 11]);
        // Every node of a cluster has to work out the same.
        assert_eq!(overlay_mac("fd00:1::11".parse().unwrap()), [0x02, 0x50, 0xb9, 0x16, 0xdd, 0x98]);
        let mut seen = std::collections::BTreeSet::new();
        for (subnet, host) in (1..=50).flat_map(|subnet| (1..=100).map(move |host| (subnet, host))) {
            let address = core::net::Ipv6Addr::new(0xfd00, subnet, 0, 0, 0, 0, 0, host);
            assert!(seen.insert(overlay_mac(address.into())), "{address}");
        }
    }
}
