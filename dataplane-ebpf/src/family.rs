//! The two IP families behind one trait: the forwarding code is written once.

use core::hint::cold_path;
use core::mem::{offset_of, size_of};

use dataplane_common::{Address, Ip4, Ip6, PassReason};

use crate::{
    context::Readable,
    extensions,
    frame::{ETHERNET_LEN, Frame},
    hop_limit::checksum_after_decrement,
    transport::{Part, Transport, protocol},
    vxlan::OUTER_TTL,
};

/// EtherTypes as they stand in `__sk_buff::protocol` (IEEE 802 numbers, network byte order).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u32 = 0x0800u16.to_be() as u32;
    /// IPv6.
    pub const IPV6: u32 = 0x86ddu16.to_be() as u32;
}

/// An IPv4 header without options (RFC 791).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ipv4Header {
    version_and_length: u8,
    service: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: Ip4,
    destination: Ip4,
}

/// An IPv6 header (RFC 8200).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ipv6Header {
    version: u8,
    class_and_flow: [u8; 3],
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: Ip6,
    destination: Ip6,
}

/// The header of an ICMP message of either family (RFC 792, RFC 4443).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IcmpHeader {
    kind: u8,
    code: u8,
    _checksum: u16,
    rest: u32,
}

const _: () = assert!(size_of::<Ipv4Header>() == 20 && offset_of!(Ipv4Header, destination) == 16);
const _: () = assert!(size_of::<Ipv6Header>() == 40 && offset_of!(Ipv6Header, destination) == 24);

impl Ipv4Header {
    /// Version 4, and a length of five words: nearly all headers.
    const PLAIN: u8 = 0x45;

    /// The header of a whole UDP packet that no router may take apart, so that it tells us where it is too big. Such
    /// packets need no identification (RFC 6864, 4.1).
    #[inline(always)]
    #[must_use]
    pub fn udp(payload_len: u16, source: [u8; 4], destination: [u8; 4], congestion: u8) -> Self {
        const DONT_FRAGMENT: u16 = 0x4000u16.to_be();
        let mut header = Self {
            version_and_length: Self::PLAIN,
            service: congestion,
            total_length: payload_len.wrapping_add(size_of::<Self>() as u16).to_be(),
            identification: 0,
            fragment: DONT_FRAGMENT,
            ttl: OUTER_TTL,
            protocol: protocol::UDP,
            checksum: 0,
            source: Ip4 { addr: source },
            destination: Ip4 { addr: destination },
        };
        // SAFETY: twenty plain bytes seen as ten words, whose sum is the same in either byte order (RFC 1071, 2).
        let words = unsafe { core::mem::transmute::<Self, [u16; 10]>(header) };
        let mut sum = 0;
        for word in words {
            sum += u32::from(word);
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        header.checksum = !(sum as u16);
        header
    }
}

impl Ipv6Header {
    /// The header of a UDP packet.
    #[inline(always)]
    #[must_use]
    pub fn udp(payload_len: u16, source: [u8; 16], destination: [u8; 16], congestion: u8) -> Self {
        Self {
            version: 0x60,
            class_and_flow: [congestion << 4, 0, 0],
            payload_length: payload_len.to_be(),
            next_header: protocol::UDP,
            hop_limit: OUTER_TTL,
            source: Ip6 { addr: source },
            destination: Ip6 { addr: destination },
        }
    }
}

/// What the programs need to know of an IP family.
pub trait Family: Copy {
    /// Its addresses.
    type Address: Address;

    /// The header of a frame of `frame_len` bytes, its version and lengths checked.
    ///
    /// # Errors
    /// [`PassReason::Malformed`] for another version, a header length that cannot be, a packet cut short.
    #[inline(always)]
    fn of(frame: &Frame<Self>, frame_len: u32) -> Result<&Self, PassReason> {
        // SAFETY: a frame is within the packet's bounds, and headers are plain old data.
        unsafe { &*frame.header() }.checked(frame_len)
    }

    /// The header itself, if it is credible in a frame of so many bytes.
    ///
    /// # Errors
    /// As [`Self::of`].
    #[inline(always)]
    fn checked(&self, frame_len: u32) -> Result<&Self, PassReason> {
        let whole = self.packet_len() + ETHERNET_LEN as u32 <= frame_len;
        if self.version_matches() && whole { Ok(self) } else { Err(PassReason::Malformed) }
    }

    /// Whether the version field says this family.
    fn version_matches(&self) -> bool;

    /// Length of the whole packet as its header says, in bytes; small for a GSO packet above 64 KiB, whose header
    /// says 0.
    fn packet_len(&self) -> u32;

    /// Whether the header, whose version is right, carries something that only the kernel handles: IPv4 options,
    /// hop-by-hop options.
    fn has_options(&self) -> bool;

    /// Source address.
    fn source(&self) -> Self::Address;

    /// Destination address.
    fn destination(&self) -> Self::Address;

    /// Whether the source is one that hosts use among neighbours before or beside their address.
    fn source_is_link_local(&self) -> bool;

    /// TTL or hop limit.
    fn hop_limit(&self) -> u8;

    /// The protocol behind the header.
    fn protocol(&self) -> u8;

    /// What follows this header and its extensions, where the frame starts `base` bytes into the packet; `None` where
    /// there are more extensions than are worth following.
    fn transport(packet: &impl Readable, base: usize, header: &Self) -> Option<Transport>;

    /// Whether the packet is a fragment of a larger one, as far as the header itself says.
    fn is_fragment(&self) -> bool;

    /// The two bits by which routers tell of congestion (RFC 3168), of the type of service or the traffic class.
    fn congestion(&self) -> u8;

    /// Whether a router has told of congestion.
    #[inline(always)]
    fn is_congested(&self) -> bool {
        self.congestion() == 0b11
    }

    /// Whether an ICMP message of this type is an error about another packet.
    fn icmp_is_error(kind: u8) -> bool;

    /// The MTU in an ICMP error that says that a packet was too big for a link; `None` for other messages.
    fn icmp_too_big(message: &IcmpHeader) -> Option<u32>;

    /// By how much that changes the sum over the packet (one's complement): an IPv4 header's own checksum balances it.
    const HOP_LIMIT_SUM: u32;

    /// Takes one off the hop limit, which is above 1, and keeps the checksum right.
    fn decrement_hop_limit(frame: &mut Frame<Self>);
}

impl Family for Ipv4Header {
    type Address = Ip4;
    const HOP_LIMIT_SUM: u32 = 0;

    #[inline(always)]
    fn version_matches(&self) -> bool {
        if self.version_and_length == Self::PLAIN {
            return true;
        }
        cold_path();
        // A header length below five words is as wrong as another version.
        self.version_and_length >> 4 == 4 && self.version_and_length & 0x0f >= 5
    }

    #[inline(always)]
    fn packet_len(&self) -> u32 {
        u32::from(u16::from_be(self.total_length))
    }

    #[inline(always)]
    fn has_options(&self) -> bool {
        self.version_and_length != Self::PLAIN
    }

    #[inline(always)]
    fn source(&self) -> Ip4 {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> Ip4 {
        self.destination
    }

    #[inline(always)]
    fn source_is_link_local(&self) -> bool {
        false
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn transport(_packet: &impl Readable, base: usize, header: &Self) -> Option<Transport> {
        /// RFC 791: the fragment offset's bits of the field.
        const OFFSET: u16 = 0x1fff;
        let part = if u16::from_be(header.fragment) & OFFSET != 0 {
            Part::Later
        } else if header.is_fragment() {
            Part::First
        } else {
            Part::Whole
        };
        Some(Transport { protocol: header.protocol, offset: base + Frame::<Self>::HEAD_LEN, part })
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        /// RFC 791: everything but "don't fragment".
        const FRAGMENT: u16 = 0x3fff;
        u16::from_be(self.fragment) & FRAGMENT != 0
    }

    #[inline(always)]
    fn congestion(&self) -> u8 {
        self.service & 0b11
    }

    #[inline(always)]
    fn icmp_too_big(message: &IcmpHeader) -> Option<u32> {
        // RFC 1191, 4: destination unreachable, fragmentation needed.
        ((message.kind, message.code) == (3, 4)).then(|| u32::from_be(message.rest) & 0xffff)
    }

    #[inline(always)]
    fn icmp_is_error(kind: u8) -> bool {
        // RFC 792: destination unreachable, source quench, redirect, time exceeded, parameter problem.
        matches!(kind, 3 | 4 | 5 | 11 | 12)
    }

    #[inline(always)]
    fn decrement_hop_limit(frame: &mut Frame<Self>) {
        // SAFETY: a frame is within the packet's bounds, and borrowed for this.
        let header = unsafe { &mut *frame.header() };
        header.ttl -= 1;
        header.checksum = checksum_after_decrement(header.checksum);
    }
}

impl Family for Ipv6Header {
    type Address = Ip6;
    /// The hop limit is the second byte of its 16-bit word.
    const HOP_LIMIT_SUM: u32 = !(1u16.to_be() as u32);

    #[inline(always)]
    fn version_matches(&self) -> bool {
        self.version >> 4 == 6
    }

    #[inline(always)]
    fn packet_len(&self) -> u32 {
        u32::from(u16::from_be(self.payload_length)) + size_of::<Self>() as u32
    }

    #[inline(always)]
    fn has_options(&self) -> bool {
        /// RFC 8200, 4.3: the one extension header that every node on the way looks at.
        const HOP_BY_HOP: u8 = 0;
        self.next_header == HOP_BY_HOP
    }

    #[inline(always)]
    fn source(&self) -> Ip6 {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> Ip6 {
        self.destination
    }

    #[inline(always)]
    fn source_is_link_local(&self) -> bool {
        // fe80::/10 (RFC 4291, 2.5.6), and :: while an address is being probed (RFC 4862, 5.4.2).
        let [first, second, ..] = self.source.addr;
        (first == 0xfe && second & 0xc0 == 0x80) || self.source == Ip6::UNSPECIFIED
    }

    #[inline(always)]
    fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_header
    }

    #[inline(always)]
    fn transport(packet: &impl Readable, base: usize, header: &Self) -> Option<Transport> {
        extensions::follow(packet, base + Frame::<Self>::HEAD_LEN, header.next_header)
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        // An extension header says so.
        false
    }

    #[inline(always)]
    fn congestion(&self) -> u8 {
        self.class_and_flow[0] >> 4 & 0b11
    }

    #[inline(always)]
    fn icmp_too_big(message: &IcmpHeader) -> Option<u32> {
        // RFC 4443, 3.2.
        (message.kind == 2).then(|| u32::from_be(message.rest))
    }

    #[inline(always)]
    fn icmp_is_error(kind: u8) -> bool {
        // RFC 4443, 2.1: error messages have the high bit clear.
        kind < 128
    }

    #[inline(always)]
    fn decrement_hop_limit(frame: &mut Frame<Self>) {
        // SAFETY: a frame is within the packet's bounds, and borrowed for this.
        unsafe { (*frame.header()).hop_limit -= 1 };
    }
}
