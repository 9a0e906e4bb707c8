//! `from_pod`: what a pod sends, seen at its host-side interface.

use aya_ebpf::programs::TcContext;
use dataplane_common::{DropReason, NextHopKind, PassReason, RouteEntry, TunnelEntry};

use crate::{
    Exit, Forward, check_plain,
    context::Packet as _,
    frame::{Frame, same_mac},
    lookup::{Lookup, Place},
    maps::tunnels,
    redirect::{address_to_node, address_to_pod},
    size::fits,
};

/// Checks the source, finds the destination and rewrites the headers for it.
///
/// # Errors
/// The reason why the packet is passed or dropped; it is unchanged then.
#[inline(always)]
pub fn forward<F: Lookup>(ctx: &TcContext) -> Result<Forward<'static>, Exit> {
    let mut frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    let ip = F::of(&frame, ctx.len())?;

    check_source(ctx, &frame, ip)?;
    let route = match F::place(ip.destination()) {
        Some(Place::Here(pod)) => {
            check_plain(ctx, 0, ip)?;
            // SAFETY: the frame is within the packet's bounds.
            unsafe { address_to_pod(frame.ethernet(), pod) };
            return Ok(Forward::ToPod(pod));
        }
        Some(Place::There(route)) => route,
        None => return Err(PassReason::NotPod.into()),
    };

    check_plain(ctx, 0, ip)?;
    if ip.hop_limit() <= 1 {
        return Err(PassReason::HopLimit.into());
    }
    const DIRECT4: u16 = NextHopKind::Direct4 as u16;
    const DIRECT6: u16 = NextHopKind::Direct6 as u16;
    const TUNNEL4: u16 = NextHopKind::Tunnel4 as u16;
    const TUNNEL6: u16 = NextHopKind::Tunnel6 as u16;
    let mut mtu = u32::from(route.mtu);
    let tunnel = tunnel_of(route);
    if let Some(TunnelEntry { path_mtu: told @ 1.., .. }) = tunnel {
        mtu = mtu.min(*told);
    }
    if !fits(ctx, ip, mtu) {
        return Err(PassReason::TooBig.into());
    }
    let congestion = ip.congestion();
    match route.kind {
        DIRECT4 | DIRECT6 => {
            F::decrement_hop_limit(&mut frame);
            Ok(Forward::ToPeer(route))
        }
        TUNNEL4 | TUNNEL6 => {
            F::decrement_hop_limit(&mut frame);
            // SAFETY: the frame is within the packet's bounds.
            unsafe { address_to_node(frame.ethernet(), route) };
            Ok(Forward::ToTunnel { route, tunnel, congestion })
        }
        _ => Err(PassReason::UnknownNextHop.into()),
    }
}

/// How outer packets leave, where the programs make them themselves.
#[inline(always)]
fn tunnel_of(route: &RouteEntry) -> Option<&'static TunnelEntry> {
    if route.tunnel == 0 {
        return None;
    }
    tunnels.get(u32::from(route.tunnel)).filter(|tunnel| tunnel.ifindex != 0)
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
