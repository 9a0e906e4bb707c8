//! The programs' entry points, and the policy: what becomes of a packet by its verdict.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{btf_tracepoint, classifier, xdp},
    programs::{BtfTracePointContext, TcContext, XdpContext},
};
use dataplane_common::{DropReason, Forwarded, Hook, MARK_MASK, MARK_POD_TO_POD, PassReason, Verdict};
use dataplane_ebpf::{
    Exit, Forward,
    context::{Packet as _, Readable},
    count::count,
    family::{Family as _, Ipv4Header, Ipv6Header, ether_type},
    frame::ETHERNET_LEN,
    from_pod, from_wire,
    log::log_drop,
    lookup::Lookup,
    outer::OuterHeader,
    overlay,
    post_routing::{NetfilterContext, Sent},
    redirect::{self, to_peer, to_tunnel},
    redirect_errors, symmetry, unwrap, xdp as wire,
};

/// tc ingress of each pod's host-side interface.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    let length = ctx.len();
    let outcome = for_host(&ctx, from_pod::forward::<Ipv4Header>, from_pod::forward::<Ipv6Header>);
    finish(&ctx, Hook::FromPod, length, outcome)
}

/// tc ingress of each uplink.
#[classifier]
fn from_wire(ctx: TcContext) -> i32 {
    // As it has arrived: the overlay's headers count.
    let length = ctx.len();
    let outcome = for_host(&ctx, receive_wrapped::<Ipv4Header>, receive_wrapped::<Ipv6Header>);
    finish(&ctx, Hook::FromWire, length, outcome)
}

/// tc ingress of the overlay device.
#[classifier]
fn from_overlay(ctx: TcContext) -> i32 {
    let length = ctx.len();
    let outcome = match overlay::check_origin(&ctx) {
        Ok(()) => for_host(&ctx, receive::<Ipv4Header>, receive::<Ipv6Header>),
        Err(exit) => Err(exit),
    };
    finish(&ctx, Hook::FromOverlay, length, outcome)
}

/// tc egress of each pod's host-side interface.
#[classifier]
fn to_pod(ctx: TcContext) -> i32 {
    leave_device(&ctx, Hook::ToPod)
}

/// tc egress of each uplink and of the overlay device.
#[classifier]
fn to_wire(ctx: TcContext) -> i32 {
    leave_device(&ctx, Hook::ToWire)
}

/// netfilter, behind source NAT, where the kernel has programs there; in the place of `to_pod` and `to_wire`, which
/// forwarded packets would pass as well.
///
/// aya does not know this kind: the section's name is one that its reader takes, the agent loads it as what it is.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn post_routing(ctx: *const NetfilterContext) -> i32 {
    /// `linux/netfilter.h`.
    const NF_ACCEPT: i32 = 1;
    // SAFETY: the program's context.
    let packet = unsafe { Sent::of(ctx) };
    leave(Hook::PostRouting, packet.mark, packet.size(), || note_sent(&packet));
    NF_ACCEPT
}

/// XDP of each uplink.
#[xdp(frags)]
fn xdp_from_wire(ctx: XdpContext) -> u32 {
    let length = ctx.size();
    let (verdict, action) = match wire::forward(&ctx) {
        Ok(pod) => (Verdict::Forwarded(Forwarded::ToPod), wire::to_pod(pod)),
        Err(Exit::Pass(reason)) => (Verdict::Pass(reason), xdp_action::XDP_PASS),
        Err(Exit::Drop(reason)) => (Verdict::Drop(reason), xdp_action::XDP_DROP),
    };
    count(Hook::XdpFromWire, verdict, length);
    action
}

/// A batch of redirected frames has been handed to a device.
#[btf_tracepoint(function = "xdp_devmap_xmit")]
fn redirect_flushed(ctx: BtfTracePointContext) {
    redirect_errors::flushed(&ctx);
}

/// A redirect has been refused at once.
#[btf_tracepoint(function = "xdp_redirect_err")]
fn redirect_refused(ctx: BtfTracePointContext) {
    redirect_errors::refused(&ctx);
}

/// Has a frame that is addressed to this host looked at by its family. A branch for each: the two programs in one have
/// nothing to do with each other.
#[inline(always)]
fn for_host<T>(
    ctx: &TcContext,
    ipv4: impl FnOnce(&TcContext) -> Result<T, Exit>,
    ipv6: impl FnOnce(&TcContext) -> Result<T, Exit>,
) -> Result<T, Exit> {
    /// `linux/if_packet.h`.
    const PACKET_HOST: u32 = 0;
    // SAFETY: a field of the program's context.
    if unsafe { (*ctx.skb.skb).pkt_type } != PACKET_HOST {
        return Err(PassReason::NotForHost.into());
    }
    by_family(ctx, ipv4, ipv6, || Err(PassReason::NotIp.into()))
}

/// The same for any frame.
#[inline(always)]
fn by_family<T>(
    ctx: &TcContext,
    ipv4: impl FnOnce(&TcContext) -> T,
    ipv6: impl FnOnce(&TcContext) -> T,
    neither: impl FnOnce() -> T,
) -> T {
    // SAFETY: fields of the program's context.
    let (protocol, vlan) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_present) };
    match protocol {
        // A tagged frame belongs to a VLAN device above this one.
        _ if vlan != 0 => neither(),
        ether_type::IPV4 => ipv4(ctx),
        ether_type::IPV6 => ipv6(ctx),
        _ => neither(),
    }
}

/// Packets to pods first: nothing of the overlay is addressed to one.
#[inline(always)]
fn receive_wrapped<F: OuterHeader>(ctx: &TcContext) -> Result<Forward<'static>, Exit> {
    let mut frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    let ip = F::of(&frame, ctx.len())?;
    let Some(pod) = F::pod(ip.destination()) else {
        let source = ip.source();
        return match unwrap::receive(ctx, ip)? {
            Some(pod) => Ok(Forward::ToPod(pod)),
            None => Err(from_wire::not_for_pod::<F>(source)),
        };
    };
    let pod = from_wire::check(ctx, 0, ip, pod)?;
    from_wire::hand_over(ctx, &mut frame, pod);
    Ok(Forward::ToPod(pod))
}

#[inline(always)]
fn receive<F: Lookup>(ctx: &TcContext) -> Result<Forward<'static>, Exit> {
    let mut frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    let pod = from_wire::find_pod(ctx, 0, &frame)?;
    from_wire::hand_over(ctx, &mut frame, pod);
    Ok(Forward::ToPod(pod))
}

/// What the stack sends is left alone. Packets that the programs at ingress have forwarded, or have passed on from a
/// pod to a pod, are known by their mark and not even counted again.
#[inline(always)]
fn leave(hook: Hook, mark: u32, length: u32, note: impl FnOnce() -> Result<(), PassReason>) {
    if mark & MARK_MASK != 0 {
        return;
    }
    let reason = match note() {
        Ok(()) => PassReason::Noted,
        Err(reason) => reason,
    };
    count(hook, Verdict::Pass(reason), length);
}

#[inline(always)]
fn leave_device(ctx: &TcContext, hook: Hook) -> i32 {
    // SAFETY: a field of the program's context.
    let mark = unsafe { (*ctx.skb.skb).mark };
    leave(hook, mark, ctx.len(), || {
        by_family(ctx, note_frame::<Ipv4Header>, note_frame::<Ipv6Header>, || Err(PassReason::NotIp))
    });
    TC_ACT_UNSPEC
}

#[inline(always)]
fn note_frame<F: Lookup>(ctx: &TcContext) -> Result<(), PassReason> {
    let frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    symmetry::note(ctx, F::of(&frame, ctx.len())?)
}

/// netfilter has a hook for each family, but the same program at both. As much as IPv4's header has is there with either.
#[inline(always)]
fn note_sent(packet: &Sent) -> Result<(), PassReason> {
    let ip: Ipv4Header = packet.load(ETHERNET_LEN).ok_or(PassReason::Malformed)?;
    if ip.version_matches() {
        return symmetry::note(packet, ip.checked(packet.size())?);
    }
    let ip: Ipv6Header = packet.load(ETHERNET_LEN).ok_or(PassReason::Malformed)?;
    if ip.version_matches() {
        return symmetry::note(packet, ip.checked(packet.size())?);
    }
    Err(PassReason::NotIp)
}

/// The policy table: verdict, counter, return code. `TC_ACT_UNSPEC` (which tcx calls `TCX_NEXT`) lets other tools'
/// programs, and then the kernel, have the packet.
#[inline(always)]
fn finish(ctx: &TcContext, hook: Hook, length: u32, outcome: Result<Forward<'static>, Exit>) -> i32 {
    let (verdict, action) = match outcome {
        Ok(Forward::ToPod(pod)) => (Verdict::Forwarded(Forwarded::ToPod), redirect::to_pod(pod)),
        Ok(Forward::ToPeer(route)) => (Verdict::Forwarded(Forwarded::ToPeer), to_peer(ctx, route)),
        Ok(Forward::ToTunnel { route, tunnel, congestion }) => {
            match to_tunnel(ctx, route, tunnel, congestion) {
                Some(action) => (Verdict::Forwarded(Forwarded::ToTunnel), action),
                // Rewritten already, and lost: TTL and MAC address would no longer be what the kernel expects.
                None => (Verdict::Drop(DropReason::RedirectFailed), TC_ACT_SHOT),
            }
        }
        Err(Exit::Pass(reason)) => {
            if reason.is_pod_to_pod() {
                // SAFETY: a field of the program's context.
                ctx.set_mark(unsafe { (*ctx.skb.skb).mark } | MARK_POD_TO_POD);
            }
            (Verdict::Pass(reason), TC_ACT_UNSPEC)
        }
        Err(Exit::Drop(reason)) => {
            log_drop(ctx, hook as u32, reason as u32);
            (Verdict::Drop(reason), TC_ACT_SHOT)
        }
    };
    count(hook, verdict, length);
    action
}

dataplane_ebpf::object!();
