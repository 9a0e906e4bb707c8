//! Behind the IP header: ports, for packets that may belong to a flow of the kernel's stack. A cold path: nothing here
//! runs on a node without such flows.

use dataplane_common::FlowKey;

use crate::{context::Packet, family::Family};

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
    /// A fragment behind the first: there are no ports in it.
    pub later_fragment: bool,
}

/// What kind of packet this is, for the symmetry rule.
pub enum Kind<A> {
    /// Belongs to a flow.
    Flow(FlowKey<A>),
    /// An ICMP error, about a flow that only a look inside would tell.
    IcmpError,
    /// A fragment without ports, or headers that cannot be followed.
    Portless,
}

/// Tells a packet's kind.
#[inline(always)]
pub fn classify<F: Family>(packet: &impl Packet, base: usize, ip: &F) -> Kind<F::Address> {
    let Some(transport) = F::transport(packet, base, ip) else { return Kind::Portless };
    if transport.later_fragment {
        return Kind::Portless;
    }
    let ports = match transport.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => match packet.load::<[[u8; 2]; 2]>(transport.offset)
        {
            Some(ports) => ports,
            None => return Kind::Portless,
        },
        protocol::ICMP | protocol::ICMP6 => match packet.load::<u8>(transport.offset) {
            Some(kind) if F::icmp_is_error(kind) => return Kind::IcmpError,
            Some(_) => [[0; 2]; 2],
            None => return Kind::Portless,
        },
        _ => [[0; 2]; 2],
    };
    Kind::Flow(FlowKey {
        source: ip.source(),
        destination: ip.destination(),
        ports,
        protocol: transport.protocol,
        reserved: [0; 3],
    })
}
