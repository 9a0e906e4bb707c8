//! VXLAN through the kernel's flow-based device, for what the programs do not wrap or unwrap themselves: the tunnel's
//! two ends travel as metadata beside the packet.

use aya_ebpf::{
    helpers::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key},
    programs::TcContext,
};
use dataplane_common::{DropReason, Ip4, Ip6, NextHopKind, RouteEntry};

use crate::{
    Exit,
    maps::{nodes4, nodes6},
    redirect::words,
    vxlan::{OUTER_TTL, VNI},
};

/// `struct bpf_tunnel_key` up to the fields that Linux 6.0 has added: this size is good for every kernel.
#[repr(C)]
struct TunnelKey {
    id: u32,
    remote: [u32; 4],
    service: u8,
    ttl: u8,
    reserved: u16,
    label: u32,
}

const _: () = assert!(size_of::<TunnelKey>() == 28);

/// `linux/bpf.h`: the remote address is an IPv6 one.
const BPF_F_TUNINFO_IPV6: u64 = 1;
/// `linux/bpf.h`: no UDP checksum, as VXLAN over IPv4 has it (RFC 7348, 5); the inner packet has its own.
const BPF_F_ZERO_CSUM_TX: u64 = 1 << 1;
/// `linux/bpf.h`: routers on the way say so where the outer packet is too big, as `wrap` has it.
const BPF_F_DONT_FRAGMENT: u64 = 1 << 2;

/// Attaches the tunnel's remote end to the packet. Returns whether the kernel took it.
#[inline(always)]
pub fn set_remote(ctx: &TcContext, route: &RouteEntry) -> bool {
    let v6 = route.kind == NextHopKind::Tunnel6 as u16;
    // SAFETY: a route's.
    let mut remote = unsafe { words(&route.next_hop) };
    if !v6 {
        // The one field of the key that the helper takes in host byte order.
        remote[0] = u32::from_be(remote[0]);
    }
    let mut key = TunnelKey { id: VNI.load(), remote, service: 0, ttl: OUTER_TTL, reserved: 0, label: 0 };
    let flags = if v6 { BPF_F_TUNINFO_IPV6 } else { BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT };
    // SAFETY: the key lives on the stack for the call, and its length is its own.
    let result = unsafe {
        bpf_skb_set_tunnel_key(ctx.skb.skb, (&raw mut key).cast(), size_of::<TunnelKey>() as u32, flags)
    };
    result == 0
}

/// A frame from the overlay comes from a node of the cluster, in our network.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn check_origin(ctx: &TcContext) -> Result<(), Exit> {
    let mut key = TunnelKey { id: 0, remote: [0; 4], service: 0, ttl: 0, reserved: 0, label: 0 };
    // An IPv4 outer packet first: the helper refuses (EPROTO) where the family is the other one.
    let known = if get(ctx, &mut key, 0) {
        let address = Ip4 { addr: key.remote[0].to_be_bytes() };
        // SAFETY: the entry is not even read.
        unsafe { nodes4.get(address) }.is_some()
    } else if get(ctx, &mut key, BPF_F_TUNINFO_IPV6) {
        // SAFETY: four words seen as sixteen plain bytes.
        let addr = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(key.remote) };
        // SAFETY: as above.
        unsafe { nodes6.get(Ip6 { addr }) }.is_some()
    } else {
        false
    };
    if !known {
        return Err(DropReason::UnknownNode.into());
    }
    if key.id == VNI.load() { Ok(()) } else { Err(DropReason::UnknownNetwork.into()) }
}

#[inline(always)]
fn get(ctx: &TcContext, key: &mut TunnelKey, flags: u64) -> bool {
    // SAFETY: as in `set_remote`.
    unsafe {
        bpf_skb_get_tunnel_key(ctx.skb.skb, (&raw mut *key).cast(), size_of::<TunnelKey>() as u32, flags) == 0
    }
}
