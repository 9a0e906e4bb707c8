//! The sending side of the overlay, without its device: the program writes the outer headers itself. So neither the
//! kernel's routing nor its netfilter has work with a packet that it has none to do with.

use aya_ebpf::{
    bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    helpers::{bpf_get_hash_recalc, bpf_skb_adjust_room},
    programs::TcContext,
};
use dataplane_common::{NextHopKind, RouteEntry, TunnelEntry};

use crate::{
    family::{Ipv4Header, Ipv6Header},
    frame::{ETHERNET_LEN, EthernetHeader, Frame},
    outer::{OuterHeader, room},
    redirect::words,
    vxlan::{Outer, VxlanHeader},
};

/// Source ports of outer packets: the range that the kernel takes as well (`net.ipv4.ip_local_port_range`).
const FIRST_PORT: u32 = 32768;
const PORTS: u32 = 28232;

/// What has become of the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wrapped {
    /// It has outer headers now.
    Yes,
    /// It is as it was: a kind of GSO packet that the kernel lets no program wrap, one that is in a tunnel already, or
    /// there is no memory.
    No,
    /// It is lost.
    Broken,
}

/// Puts the headers of the overlay in front of a frame that is addressed to the peer's overlay device.
#[inline(always)]
pub fn wrap(ctx: &TcContext, route: &RouteEntry, tunnel: &TunnelEntry, congestion: u8) -> Wrapped {
    if route.kind == NextHopKind::Tunnel4 as u16 {
        wrap_in::<Ipv4Header>(ctx, route, tunnel, congestion)
    } else {
        wrap_in::<Ipv6Header>(ctx, route, tunnel, congestion)
    }
}

#[inline(always)]
fn wrap_in<F: OuterHeader>(
    ctx: &TcContext,
    route: &RouteEntry,
    tunnel: &TunnelEntry,
    congestion: u8,
) -> Wrapped {
    // A flow's packets have one port, so that routers and receive queues keep their order (RFC 7348, 5). A GSO packet
    // of more than 64 KiB has no length: each segment gets its own.
    let frame_len = ctx.len() as u16;
    // SAFETY: helper calls on the program's own context. The packet is as it was if the second one fails.
    let (hash, result) = unsafe {
        let hash = bpf_get_hash_recalc(ctx.skb.skb);
        let flags = F::ENCAP
            | room::ENCAP_L4_UDP
            | room::ENCAP_L2_ETH
            | room::encap_l2(ETHERNET_LEN)
            | room::FIXED_GSO;
        (hash, bpf_skb_adjust_room(ctx.skb.skb, Outer::<F>::LEN as i32, BPF_ADJ_ROOM_MAC, flags))
    };
    if result != 0 {
        return Wrapped::No;
    }
    // The room is behind the Ethernet header, which becomes the inner one: the kernel makes another for the wire.
    let (start, end) = (ctx.data(), ctx.data_end());
    let (Some(outer), Some(inner)) =
        (Frame::<Outer<F>>::within(start, end, 0), Frame::<()>::within(start, end, Outer::<F>::LEN))
    else {
        return Wrapped::Broken;
    };
    let port = FIRST_PORT + ((u64::from(hash) * u64::from(PORTS)) >> 32) as u32;
    let payload_len = frame_len.wrapping_add(size_of::<VxlanHeader>() as u16);
    // SAFETY: a tunnel's and a route's.
    let (source, destination) = unsafe { (words(&tunnel.source), words(&route.next_hop)) };
    let headers = Outer {
        ip: F::around(payload_len, source, destination, congestion),
        vxlan: VxlanHeader::new(port as u16, frame_len),
    };
    // SAFETY: both frames are within the packet's bounds.
    unsafe {
        copy(outer.ethernet(), inner.ethernet());
        outer.header().write(headers);
    }
    Wrapped::Yes
}

/// Copies an Ethernet header in four words.
///
/// # Safety
/// Both point to headers in the packet.
#[inline(always)]
unsafe fn copy(from: *const EthernetHeader, to: *mut EthernetHeader) {
    // SAFETY: the caller's promise; the machines that the kernel's JIT knows take words at any address.
    unsafe {
        let (words, into) = (from.cast::<u32>(), to.cast::<u32>());
        into.write(words.read());
        into.add(1).write(words.add(1).read());
        into.add(2).write(words.add(2).read());
        (*to).ether_type = (*from).ether_type;
    }
}
