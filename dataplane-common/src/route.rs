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
#[repr(u32)]
pub enum NextHopKind {
    /// A neighbour on the uplink's own segment (the peer node, or the router towards it).
    Direct = 1,
}

/// Value of the maps `routes4` and `routes6`: how packets reach a peer node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Zeroable))]
#[repr(C)]
pub struct RouteEntry<A> {
    /// A [`NextHopKind`].
    pub kind: u32,
    /// Index of the uplink.
    pub ifindex: u32,
    /// The largest IP packet, in bytes, that may leave this way; larger ones are the kernel's to refuse or fragment.
    pub mtu: u32,
    /// Address of the next hop, of the map's own family.
    pub next_hop: A,
}

/// The derive of `Pod` does not do generic types: the four that exist, with their sizes checked below.
macro_rules! without_padding {
    ($($type:ty),+) => {$(
        // SAFETY: `repr(C)`, only `u32`s and an address of size 4 or 16 with alignment 4: there is no padding.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Pod for $type {}
    )+};
}
without_padding!(RouteKey<Ip4>, RouteKey<Ip6>, RouteEntry<Ip4>, RouteEntry<Ip6>);
plain_old_data!(RouteKey<Ip4>, RouteKey<Ip6>, RouteEntry<Ip4>, RouteEntry<Ip6>);

const _: () = assert!(size_of::<RouteKey<Ip4>>() == 8 && size_of::<RouteKey<Ip6>>() == 20);
const _: () = assert!(size_of::<RouteEntry<Ip4>>() == 16 && size_of::<RouteEntry<Ip6>>() == 28);
