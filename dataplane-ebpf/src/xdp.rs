//! `xdp_from_wire`: pod-bound packets before an skb exists.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::{bpf_redirect_map, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use dataplane_common::{PassReason, PodEntry};

use crate::{
    Exit,
    context::{Packet as _, Readable as _},
    family::{Family, Ipv4Header, Ipv6Header, ether_type},
    frame::same_mac,
    from_wire::{find_pod, hand_over},
    lookup::Lookup,
    maps::{settings, wire_ports},
    vxlan::{Arrival, Carrier, Outer, arrival},
};

/// Finds the pod that a frame is for, strips our own overlay's headers and addresses the frame to the pod.
///
/// # Errors
/// The reason why the packet is passed or dropped; it is unchanged then.
#[inline(always)]
pub fn forward(ctx: &XdpContext) -> Result<&'static PodEntry, Exit> {
    let frame = ctx.frame::<()>(0).ok_or(PassReason::Malformed)?;
    let ethernet = frame.ethernet();
    // SAFETY: the frame is within the packet's bounds; the addresses lie at even offsets, in the map as well.
    let (ours, ether_type) =
        unsafe { (is_to_uplink(&raw const (*ethernet).destination), (*ethernet).ether_type) };
    if !ours {
        return Err(PassReason::NotForHost.into());
    }
    match u32::from(ether_type) {
        ether_type::IPV4 => forward_frame::<Ipv4Header>(ctx),
        ether_type::IPV6 => forward_frame::<Ipv6Header>(ctx),
        _ => Err(PassReason::NotIp.into()),
    }
}

/// Whether this is an uplink's MAC address.
///
/// # Safety
/// `mac` points to six readable bytes at an even address.
#[inline(always)]
unsafe fn is_to_uplink(mac: *const [u8; 6]) -> bool {
    // SAFETY: the caller's promise; the map's value is aligned, and so are its fields.
    settings.get(0).is_some_and(|now| now.uplink_macs.iter().any(|uplink| unsafe { same_mac(mac, uplink) }))
}

#[inline(always)]
fn forward_frame<F: Carrier>(ctx: &XdpContext) -> Result<&'static PodEntry, Exit> {
    let mut frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    match F::of(&frame, ctx.size()).ok().and_then(|ip| arrival(ctx, ip)) {
        Some(Arrival::Frame) => return forward_inner::<F>(ctx),
        Some(Arrival::Congested) => return Err(PassReason::Overlay.into()),
        None => {}
    }
    let pod = find_pod::<F, _>(ctx, 0, &frame)?;
    hand_over(ctx, &mut frame, pod);
    Ok(pod)
}

/// The same for the frame inside, whose outer packet is of family `F`.
#[inline(always)]
fn forward_inner<F: Family>(ctx: &XdpContext) -> Result<&'static PodEntry, Exit> {
    let base = Outer::<F>::LEN;
    let inner = ctx.frame::<()>(base).ok_or(PassReason::Malformed)?;
    // SAFETY: the frame is within the packet's bounds.
    match u32::from(unsafe { (*inner.ethernet()).ether_type }) {
        ether_type::IPV4 => strip::<Ipv4Header>(ctx, base),
        ether_type::IPV6 => strip::<Ipv6Header>(ctx, base),
        _ => Err(PassReason::NotIp.into()),
    }
}

#[inline(always)]
fn strip<F: Lookup>(ctx: &XdpContext, base: usize) -> Result<&'static PodEntry, Exit> {
    let frame = ctx.frame::<F>(base).ok_or(PassReason::Malformed)?;
    let pod = find_pod::<F, _>(ctx, base, &frame)?;
    // SAFETY: a helper call on the program's own context. The packet is as it was if it fails.
    if unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), base as i32) } != 0 {
        return Err(PassReason::Malformed.into());
    }
    let mut frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    hand_over(ctx, &mut frame, pod);
    Ok(pod)
}

#[expect(clippy::cast_sign_loss, reason = "an XDP return code")]
/// Sends the frame to the pod's host-side interface, which hands it to the pod. An interface that is not in the map
/// makes it pass.
#[inline(always)]
pub fn to_pod(pod: &PodEntry) -> u32 {
    // SAFETY: the map is a DEVMAP_HASH; the low bits of the flags are the return code for a missing entry.
    unsafe {
        bpf_redirect_map(
            (&raw const wire_ports).cast_mut().cast(),
            u64::from(pod.ifindex),
            u64::from(xdp_action::XDP_PASS),
        ) as u32
    }
}
