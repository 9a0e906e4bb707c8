//! The ways out of a program: rewriting the Ethernet header, and the kernel's redirect helpers.

use aya_ebpf::{
    bindings::{bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
};
use dataplane_common::{Ip4, Ip6, PodEntry, RouteEntry};

use crate::{
    family::{Family, Ipv4Header, Ipv6Header},
    head::EthernetHeader,
};

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

/// Moves the packet to the receiving side of the pod's own interface, past the host side and its queues.
///
/// Returns the program's return code (`TC_ACT_REDIRECT`).
#[inline(always)]
pub fn to_pod(pod: &PodEntry) -> i32 {
    // SAFETY: a helper call with plain numbers; flags must be 0 (kernel 9aa1206e8f48).
    unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 }
}

/// A family with next hops.
pub trait NextHop: Family {
    /// The next hop's address as the helper wants it.
    fn parameters(route: &RouteEntry<Self::Address>) -> bpf_redir_neigh;
}

impl NextHop for Ipv4Header {
    #[inline(always)]
    fn parameters(route: &RouteEntry<Ip4>) -> bpf_redir_neigh {
        // The whole union is written: the helper reads all of it.
        let mut words = [0; 4];
        words[0] = u32::from_ne_bytes(route.next_hop.addr);
        bpf_redir_neigh {
            nh_family: Self::ADDRESS_FAMILY,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: words },
        }
    }
}

impl NextHop for Ipv6Header {
    #[inline(always)]
    fn parameters(route: &RouteEntry<Ip6>) -> bpf_redir_neigh {
        // SAFETY: sixteen plain bytes seen as four words.
        let words = unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(route.next_hop.addr) };
        bpf_redir_neigh {
            nh_family: Self::ADDRESS_FAMILY,
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: words },
        }
    }
}

/// Sends the packet to a next hop on the uplink: the kernel fills in the Ethernet header from its neighbour table,
/// resolving the neighbour first where it must, without a route look-up.
///
/// Returns the program's return code (`TC_ACT_REDIRECT`).
#[inline(always)]
pub fn to_peer<F: NextHop>(route: &RouteEntry<F::Address>) -> i32 {
    let mut parameters = F::parameters(route);
    // SAFETY: the parameters live on the stack for the call, and their length is theirs.
    unsafe {
        bpf_redirect_neigh(route.ifindex, &raw mut parameters, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}
