//! The overlay's frames (VXLAN, RFC 7348) as they are on the wire, and which of them are ours.

use aya_ebpf::Global;
use dataplane_common::{Ip4, Ip6, NodeEntry};

use crate::{
    context::Packet,
    family::{Ipv4Header, Ipv6Header},
    frame::Frame,
    lookup::Lookup,
    maps::{nodes4, nodes6, settings},
    transport::protocol,
};

/// The overlay's network identifier; the agent sets it when it loads the programs.
#[unsafe(no_mangle)]
pub static VNI: Global<u32> = Global::new(1);

/// UDP port of the overlay; the agent sets it when it loads the programs.
#[unsafe(no_mangle)]
pub static VXLAN_PORT: Global<u16> = Global::new(8472);

/// TTL of the outer packets.
pub const OUTER_TTL: u8 = 64;

/// UDP and VXLAN header (RFC 768, RFC 7348), all of it in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VxlanHeader {
    source_port: u16,
    destination_port: u16,
    length: u16,
    checksum: u16,
    flags: u32,
    vni: u32,
}

/// The flags of a header with a VNI, and nothing else that we would have to understand.
const VNI_VALID: u32 = 0x0800_0000u32.to_be();

impl VxlanHeader {
    /// The header in front of an inner frame. There is no UDP checksum: the inner packet has its own (RFC 7348, 5; RFC
    /// 6935 for IPv6).
    #[inline(always)]
    #[must_use]
    pub fn new(source_port: u16, frame_len: u16) -> Self {
        Self {
            source_port: source_port.to_be(),
            destination_port: VXLAN_PORT.load().to_be(),
            length: frame_len.wrapping_add(size_of::<Self>() as u16).to_be(),
            checksum: 0,
            flags: VNI_VALID,
            vni: (VNI.load() << 8).to_be(),
        }
    }
}

/// The headers in front of an inner frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Outer<F> {
    /// IP header.
    pub ip: F,
    /// What is behind it.
    pub vxlan: VxlanHeader,
}

const _: () = assert!(size_of::<VxlanHeader>() == 16);
const _: () = assert!(size_of::<Outer<Ipv4Header>>() == 36 && size_of::<Outer<Ipv6Header>>() == 56);

impl<F> Outer<F> {
    /// Bytes from the start of the packet to the inner frame. The overlay's packets are larger than the inner ones by as
    /// much: one Ethernet header goes into it, the other one does not.
    pub const LEN: usize = Frame::<Self>::HEAD_LEN;
}

/// A family that outer packets can be of.
pub trait Carrier: Lookup {
    /// The peer node with this address.
    fn node(address: Self::Address) -> Option<&'static NodeEntry>;

    /// Whether this is the address at which this node terminates the overlay.
    fn is_here(address: Self::Address) -> bool;
}

impl Carrier for Ipv4Header {
    #[inline(always)]
    fn node(address: Ip4) -> Option<&'static NodeEntry> {
        // SAFETY: as in `Lookup`: the entry is only read.
        unsafe { nodes4.get(address) }
    }

    #[inline(always)]
    fn is_here(address: Ip4) -> bool {
        settings.get(0).is_some_and(|now| now.node4 == address)
    }
}

impl Carrier for Ipv6Header {
    #[inline(always)]
    fn node(address: Ip6) -> Option<&'static NodeEntry> {
        // SAFETY: as above.
        unsafe { nodes6.get(address) }
    }

    #[inline(always)]
    fn is_here(address: Ip6) -> bool {
        settings.get(0).is_some_and(|now| now.node6 == address)
    }
}

/// What our overlay has brought.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// A whole frame, from a node that we know.
    Frame,
    /// The same, and a router has told of congestion: the kernel tells it to the inner packet.
    Congested,
}

/// Tells a packet of our overlay from others, which are the kernel's: `from_overlay` drops what is wrong with them.
#[inline(always)]
pub fn arrival<F: Carrier>(packet: &impl Packet, ip: &F) -> Option<Arrival> {
    if ip.protocol() != protocol::UDP || ip.has_options() || ip.is_fragment() {
        return None;
    }
    let outer = packet.frame::<Outer<F>>(0)?;
    // SAFETY: the frame is within the packet's bounds.
    let Outer { ip, vxlan } = unsafe { &*outer.header() };
    let ours = vxlan.destination_port == VXLAN_PORT.load().to_be()
        && vxlan.flags == VNI_VALID
        && vxlan.vni == (VNI.load() << 8).to_be()
        && F::is_here(ip.destination())
        && F::node(ip.source()).is_some();
    ours.then_some(if ip.is_congested() { Arrival::Congested } else { Arrival::Frame })
}
