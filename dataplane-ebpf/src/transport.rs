//! Behind the IP header: ports, for packets that may belong to a flow of the kernel's stack. A cold path: nothing here
//! runs on a node without such flows.

use dataplane_common::FlowKey;

use crate::{context::Readable, family::Family};

/// IANA protocol numbers.
pub mod protocol {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMP6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// What follows the IP header and its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Protocol number (IANA).
    pub protocol: u8,
    /// Where it starts, in bytes from the start of the packet.
    pub offset: usize,
    /// Which part of a packet this is.
    pub part: Part,
}

/// A whole packet or a fragment of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment.
    First,
    /// A fragment behind the first: there are no ports in it.
    Later,
}

/// What kind of packet this is, for the symmetry rule.
pub enum Kind<A> {
    /// Belongs to a flow.
    Flow(FlowKey<A>),
    /// Belongs to a flow, which those that follow it do not show.
    FirstFragment(FlowKey<A>),
    /// An ICMP error; the packet that it is about starts so many bytes from the start of the packet, see [`quoted`].
    IcmpError(usize),
    /// A fragment without ports, or headers that cannot be followed.
    Portless,
}

/// Length of the header of an ICMP error (RFC 792, RFC 4443); the packet that it is about follows.
pub const ICMP_LEN: usize = 8;

/// Tells a packet's kind.
#[inline(always)]
pub fn classify<F: Family>(packet: &impl Readable, base: usize, ip: &F) -> Kind<F::Address> {
    let Some(transport) = F::transport(packet, base, ip) else { return Kind::Portless };
    if let (protocol::ICMP | protocol::ICMP6, Part::Whole) = (transport.protocol, transport.part)
        && let Some(kind) = packet.load::<u8>(transport.offset)
        && F::icmp_is_error(kind)
    {
        return Kind::IcmpError(transport.offset + ICMP_LEN);
    }
    match (flow(packet, ip, &transport), transport.part) {
        (Some(key), Part::Whole) => Kind::Flow(key),
        (Some(key), Part::First) => Kind::FirstFragment(key),
        _ => Kind::Portless,
    }
}

/// The flow of the packet that an ICMP error is about; `None` where it does not tell at first sight.
#[inline(always)]
pub fn quoted<F: Family>(packet: &impl Readable, offset: usize) -> Option<FlowKey<F::Address>> {
    let ip = packet.load::<F>(offset)?;
    if !ip.version_matches() || ip.has_options() || ip.is_fragment() {
        return None;
    }
    match ip.protocol() {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMP6 => {}
        // Extension headers, for one.
        _ => return None,
    }
    let transport = Transport { protocol: ip.protocol(), offset: offset + size_of::<F>(), part: Part::Whole };
    flow(packet, &ip, &transport)
}

/// The packet's flow; `None` for later fragments and where the packet is too short.
#[inline(always)]
fn flow<F: Family>(packet: &impl Readable, ip: &F, transport: &Transport) -> Option<FlowKey<F::Address>> {
    let ports = match transport.protocol {
        _ if transport.part == Part::Later => return None,
        protocol::TCP | protocol::UDP | protocol::SCTP => packet.load::<[[u8; 2]; 2]>(transport.offset)?,
        _ => [[0; 2]; 2],
    };
    Some(FlowKey {
        source: ip.source(),
        destination: ip.destination(),
        ports,
        protocol: transport.protocol,
        reserved: [0; 3],
    })
}
