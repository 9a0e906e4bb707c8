//! The IP headers of the overlay's packets.

use core::mem::transmute;

use crate::{
    family::{Ipv4Header, Ipv6Header},
    vxlan::Carrier,
};

/// Flags of `bpf_skb_adjust_room` (`linux/bpf.h`): what is put in front of the packet, or is left behind.
pub mod room {
    /// Segments stay as large as they are: the pods' MTU leaves room for the outer headers.
    pub const FIXED_GSO: u64 = 1 << 0;
    /// An outer IPv4 header comes in front.
    pub const ENCAP_L3_IPV4: u64 = 1 << 1;
    /// An outer IPv6 header comes in front.
    pub const ENCAP_L3_IPV6: u64 = 1 << 2;
    /// With a UDP header behind it.
    pub const ENCAP_L4_UDP: u64 = 1 << 4;
    /// What hardware has found out about checksums stays.
    pub const NO_CSUM_RESET: u64 = 1 << 5;
    /// And an inner Ethernet header behind that (Linux 5.13, commit d01b59c9ae94).
    pub const ENCAP_L2_ETH: u64 = 1 << 6;
    /// An IPv4 packet is left (Linux 6.3, commit d219df60a70e); needed where the outer one was of the other family.
    pub const DECAP_L3_IPV4: u64 = 1 << 7;
    /// An IPv6 packet is left.
    pub const DECAP_L3_IPV6: u64 = 1 << 8;

    /// How many bytes of an inner Ethernet header there are.
    #[must_use]
    pub const fn encap_l2(len: usize) -> u64 {
        (len as u64) << 56
    }
}

/// A family whose header the programs write around a packet and take off again.
pub trait OuterHeader: Carrier {
    /// The flag for `bpf_skb_adjust_room` when such a header comes in front.
    const ENCAP: u64;
    /// The flag when a packet of this family is left of one of the other family.
    const DECAP: u64;
    /// Its EtherType, network byte order.
    const ETHER_TYPE: u16;

    /// The header of a packet that carries `payload_len` bytes from node to node, addresses as in the maps, in words.
    fn around(payload_len: u16, source: [u32; 4], destination: [u32; 4], congestion: u8) -> Self;
}

impl OuterHeader for Ipv4Header {
    const ENCAP: u64 = room::ENCAP_L3_IPV4;
    const DECAP: u64 = room::DECAP_L3_IPV4;
    const ETHER_TYPE: u16 = 0x0800u16.to_be();

    #[inline(always)]
    fn around(payload_len: u16, source: [u32; 4], destination: [u32; 4], congestion: u8) -> Self {
        Self::udp(payload_len, source[0].to_ne_bytes(), destination[0].to_ne_bytes(), congestion)
    }
}

impl OuterHeader for Ipv6Header {
    const ENCAP: u64 = room::ENCAP_L3_IPV6;
    const DECAP: u64 = room::DECAP_L3_IPV6;
    const ETHER_TYPE: u16 = 0x86ddu16.to_be();

    #[inline(always)]
    fn around(payload_len: u16, source: [u32; 4], destination: [u32; 4], congestion: u8) -> Self {
        // SAFETY: four words seen as sixteen plain bytes, on both sides.
        let [source, destination] =
            unsafe { transmute::<[[u32; 4]; 2], [[u8; 16]; 2]>([source, destination]) };
        Self::udp(payload_len, source, destination, congestion)
    }
}
