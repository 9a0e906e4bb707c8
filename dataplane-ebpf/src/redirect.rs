//! The ways out of a program: rewriting the Ethernet header, and the kernel's redirect helpers.

use aya_ebpf::{
    bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use dataplane_common::{MARK_FORWARDED, NextHopKind, PodEntry, RouteEntry, TunnelEntry};

use crate::{
    frame::EthernetHeader,
    overlay,
    wrap::{Wrapped, wrap},
};

/// `AF_INET` and `AF_INET6`.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// An address in a map's value, in words: through its bytes, the BPF target would load one by one.
///
/// # Safety
/// It lies at a multiple of four bytes, as those of routes and tunnels do.
#[inline(always)]
#[must_use]
pub unsafe fn words(address: &[u8; 16]) -> [u32; 4] {
    // SAFETY: sixteen plain bytes, and the caller's promise.
    unsafe { core::ptr::from_ref(address).cast::<[u32; 4]>().read() }
}

const _: () = assert!(
    core::mem::offset_of!(RouteEntry, next_hop).is_multiple_of(4)
        && core::mem::offset_of!(TunnelEntry, next_hop).is_multiple_of(4)
        && core::mem::offset_of!(TunnelEntry, source).is_multiple_of(4)
);

/// Addresses the frame from the host-side interface to the pod.
///
/// # Safety
/// `ethernet` points to a header in the packet.
#[inline(always)]
pub unsafe fn address_to_pod(ethernet: *mut EthernetHeader, pod: &PodEntry) {
    // SAFETY: the caller's promise; both MAC addresses are contiguous in the entry as they are in the header, and
    // are copied in three words, not twelve bytes.
    unsafe {
        let from = (&raw const pod.mac).cast::<u32>();
        let to = ethernet.cast::<u32>();
        to.write(from.read());
        to.add(1).write(from.add(1).read());
        to.add(2).write(from.add(2).read());
    }
}

// What `address_to_pod` relies on.
const _: () = assert!(
    core::mem::offset_of!(PodEntry, mac) == 4
        && core::mem::offset_of!(PodEntry, host_mac) == core::mem::offset_of!(PodEntry, mac) + 6
);

/// Addresses the frame to the peer node's overlay device. The source stays the pod's: a VXLAN device drops only
/// frames that claim its own.
///
/// # Safety
/// `ethernet` points to a header in the packet.
#[inline(always)]
pub unsafe fn address_to_node(ethernet: *mut EthernetHeader, route: &RouteEntry) {
    // SAFETY: the caller's promise.
    unsafe { (*ethernet).destination = route.mac };
}

/// Moves the packet to the receiving side of the pod's own interface, past the host side and its queues.
///
/// Returns the program's return code (`TC_ACT_REDIRECT`).
#[inline(always)]
pub fn to_pod(pod: &PodEntry) -> i32 {
    // SAFETY: a helper call with plain numbers; flags must be 0 (kernel 9aa1206e8f48).
    unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 }
}

/// Sends the packet to a next hop on the uplink: the kernel fills in the Ethernet header from its neighbour table,
/// resolving the neighbour first where it must, without a route look-up.
///
/// Returns the program's return code (`TC_ACT_REDIRECT`).
#[inline(always)]
pub fn to_peer(ctx: &TcContext, route: &RouteEntry) -> i32 {
    ctx.set_mark(MARK_FORWARDED);
    // SAFETY: a route's.
    to_neighbour(route.ifindex, route.kind, unsafe { words(&route.next_hop) })
}

#[inline(always)]
fn to_neighbour(ifindex: u32, kind: u16, next_hop: [u32; 4]) -> i32 {
    let v6 = kind == NextHopKind::Direct6 as u16;
    let mut parameters = bpf_redir_neigh {
        nh_family: if v6 { AF_INET6 } else { AF_INET },
        // The helper reads all of its union.
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: next_hop },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters live on the stack for the call, and their length is theirs.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut parameters, size, 0) as i32 }
}

/// Sends the packet through the overlay to the peer node: with outer headers of our own, or through the overlay device
/// where that cannot be. `None` where the packet is lost, as the kernel has no memory for it.
#[inline(always)]
pub fn to_tunnel(
    ctx: &TcContext,
    route: &RouteEntry,
    tunnel: Option<&TunnelEntry>,
    congestion: u8,
) -> Option<i32> {
    ctx.set_mark(MARK_FORWARDED);
    if let Some(tunnel) = tunnel {
        match wrap(ctx, route, tunnel, congestion) {
            Wrapped::Yes => {
                // SAFETY: a tunnel's.
                let next_hop = unsafe { words(&tunnel.next_hop) };
                return Some(to_neighbour(tunnel.ifindex, tunnel.kind, next_hop));
            }
            Wrapped::No => {}
            Wrapped::Broken => return None,
        }
    }
    if !overlay::set_remote(ctx, route) {
        return None;
    }
    // SAFETY: a helper call with plain numbers.
    Some(unsafe { bpf_redirect(route.ifindex, 0) as i32 })
}
