//! The receiving side of the overlay, without its device.

use aya_ebpf::{
    bindings::{BPF_CSUM_LEVEL_DEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::{bpf_csum_level, bpf_skb_adjust_room},
    programs::TcContext,
};
use dataplane_common::{DropReason, PassReason, PodEntry};

use crate::{
    Exit,
    context::Packet as _,
    family::{Ipv4Header, Ipv6Header, ether_type},
    from_wire::{find_pod, hand_over},
    outer::{OuterHeader, room},
    path_mtu,
    vxlan::{Arrival, Outer, arrival},
};

/// Finds the pod that a frame of our overlay is for, and takes the outer headers off. `None` for packets that have none.
/// `ip` is the packet's outermost header.
///
/// # Errors
/// The reason why the packet is passed or dropped; it is unchanged then.
#[inline(always)]
pub fn receive<F: OuterHeader>(ctx: &TcContext, ip: &F) -> Result<Option<&'static PodEntry>, Exit> {
    if path_mtu::notice(ctx, ip) {
        return Err(PassReason::PathMtu.into());
    }
    let Some(arrival) = arrival(ctx, ip) else { return Ok(None) };
    // SAFETY: a field of the program's context.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    // Where GRO has put segments of a tunnel together, no helper takes the tunnel off the packet's description.
    if gso_size != 0 || arrival == Arrival::Congested {
        return Err(PassReason::Overlay.into());
    }
    let inner = ctx.frame::<()>(Outer::<F>::LEN).ok_or(PassReason::Malformed)?;
    // SAFETY: the frame is within the packet's bounds.
    match u32::from(unsafe { (*inner.ethernet()).ether_type }) {
        ether_type::IPV4 => unwrap::<F, Ipv4Header>(ctx),
        ether_type::IPV6 => unwrap::<F, Ipv6Header>(ctx),
        _ => Err(PassReason::NotIp.into()),
    }
    .map(Some)
}

/// The same for the frame inside, whose packet is of family `G`.
#[inline(always)]
fn unwrap<F: OuterHeader, G: OuterHeader>(ctx: &TcContext) -> Result<&'static PodEntry, Exit> {
    let frame = ctx.frame::<G>(Outer::<F>::LEN).ok_or(PassReason::Malformed)?;
    let pod = find_pod::<G, _>(ctx, Outer::<F>::LEN, &frame)?;
    let other_family = if F::DECAP == G::DECAP { 0 } else { G::DECAP };
    let flags = room::NO_CSUM_RESET | other_family;
    // SAFETY: helper calls on the program's own context. The packet is as it was if the first one fails.
    unsafe {
        if bpf_skb_adjust_room(ctx.skb.skb, -(Outer::<F>::LEN as i32), BPF_ADJ_ROOM_MAC, flags) != 0 {
            return Err(PassReason::Overlay.into());
        }
        // What hardware has found out about the outer checksum goes with it, as when the kernel takes it off.
        bpf_csum_level(ctx.skb.skb, u64::from(BPF_CSUM_LEVEL_DEC));
    }
    // The outer Ethernet header is left, and the inner one gone.
    let mut frame = ctx.frame::<G>(0).ok_or(DropReason::RedirectFailed)?;
    hand_over(ctx, &mut frame, pod);
    // SAFETY: the frame is within the packet's bounds.
    unsafe { (*frame.ethernet()).ether_type = G::ETHER_TYPE };
    Ok(pod)
}
