//! `from_pod`: what a pod sends, seen at its host-side interface.

use aya_ebpf::programs::TcContext;
use dataplane_common::{DropReason, NextHopKind, PassReason};

use crate::{
    Exit, Forward,
    head::{Frame, same_mac},
    lookup::Lookup,
    redirect::address_to_pod,
    size::fits,
};

/// Checks the source, finds the destination and rewrites the headers for it.
///
/// # Errors
/// The reason why the packet is passed or dropped; it is unchanged then.
#[inline(always)]
pub fn forward<F: Lookup>(ctx: &TcContext) -> Result<Forward<'static, F::Address>, Exit> {
    let mut frame = Frame::<F>::of_skb(ctx).ok_or(PassReason::Malformed)?;
    let ip = F::of(&frame, ctx.len())?;

    check_source(ctx, &frame, ip)?;
    if ip.has_options() {
        return Err(PassReason::Options.into());
    }

    let destination = ip.destination();
    if let Some(pod) = F::pod(destination) {
        // SAFETY: the frame is within the packet's bounds.
        unsafe { address_to_pod(frame.ethernet(), pod) };
        return Ok(Forward::ToPod(pod));
    }

    let route = F::route(destination).ok_or(PassReason::NotPod)?;
    if route.kind != NextHopKind::Direct as u32 {
        return Err(PassReason::UnknownNextHop.into());
    }
    if ip.hop_limit() <= 1 {
        return Err(PassReason::HopLimit.into());
    }
    if !fits(ctx, ip, route.mtu) {
        return Err(PassReason::TooBig.into());
    }
    F::decrement_hop_limit(&mut frame);
    Ok(Forward::ToPeer(route))
}

/// A packet from a pod carries that pod's IP and MAC address, or it is dropped.
#[inline(always)]
fn check_source<F: Lookup>(ctx: &TcContext, frame: &Frame<F>, ip: &F) -> Result<(), Exit> {
    // SAFETY: a field of the program's context.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let pod = match F::pod(ip.source()) {
        Some(pod) if pod.ifindex == ifindex => pod,
        // Never forwarded, neither here nor by the kernel: neighbour discovery, duplicate address detection.
        _ if ip.source_is_link_local() => return Err(PassReason::LinkLocal.into()),
        _ => return Err(DropReason::SourceIp.into()),
    };
    // SAFETY: the frame is within the packet's bounds; both addresses lie at even offsets.
    if unsafe { same_mac(&raw const (*frame.ethernet()).source, &pod.mac) } {
        Ok(())
    } else {
        Err(DropReason::SourceMac.into())
    }
}
