//! The programs' entry points, and the policy: what becomes of a packet by its verdict.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use dataplane_common::{Forwarded, Hook, PassReason, Verdict};
use dataplane_ebpf::{
    Exit, Forward,
    count::count,
    family::{Ipv4Header, Ipv6Header, ether_type},
    from_pod, from_wire,
    log::log_drop,
    redirect::{NextHop, to_peer, to_pod},
};

/// tc ingress of each pod's host-side interface.
#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromPod, from_pod::forward::<Ipv4Header>, from_pod::forward::<Ipv6Header>)
}

/// tc ingress of each uplink.
#[classifier]
fn from_wire(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromWire, from_wire::forward::<Ipv4Header>, from_wire::forward::<Ipv6Header>)
}

type Outcome<F> = Result<Forward<'static, <F as dataplane_ebpf::family::Family>::Address>, Exit>;

#[inline(always)]
fn run(
    ctx: &TcContext,
    hook: Hook,
    forward4: impl Fn(&TcContext) -> Outcome<Ipv4Header>,
    forward6: impl Fn(&TcContext) -> Outcome<Ipv6Header>,
) -> i32 {
    /// `linux/if_packet.h`: the frame is addressed to this host.
    const PACKET_HOST: u32 = 0;
    // SAFETY: fields of the program's context.
    let (protocol, packet_type, vlan) =
        unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).pkt_type, (*ctx.skb.skb).vlan_present) };
    if packet_type != PACKET_HOST {
        return finish::<Ipv4Header>(ctx, hook, Err(PassReason::NotForHost.into()));
    }
    match protocol {
        // A tagged frame belongs to a VLAN device above this one.
        _ if vlan != 0 => finish::<Ipv4Header>(ctx, hook, Err(PassReason::NotIp.into())),
        ether_type::IPV4 => finish::<Ipv4Header>(ctx, hook, forward4(ctx)),
        ether_type::IPV6 => finish::<Ipv6Header>(ctx, hook, forward6(ctx)),
        _ => finish::<Ipv4Header>(ctx, hook, Err(PassReason::NotIp.into())),
    }
}

/// The policy table: verdict, counter, return code. `TC_ACT_UNSPEC` (which tcx calls `TCX_NEXT`) lets other tools'
/// programs, and then the kernel, have the packet.
#[inline(always)]
fn finish<F: NextHop>(ctx: &TcContext, hook: Hook, outcome: Outcome<F>) -> i32 {
    let (verdict, action) = match outcome {
        Ok(Forward::ToPod(pod)) => (Verdict::Forwarded(Forwarded::ToPod), to_pod(pod)),
        Ok(Forward::ToPeer(route)) => (Verdict::Forwarded(Forwarded::ToPeer), to_peer::<F>(route)),
        Err(Exit::Pass(reason)) => (Verdict::Pass(reason), TC_ACT_UNSPEC),
        Err(Exit::Drop(reason)) => {
            log_drop(ctx, hook as u32, reason as u32);
            (Verdict::Drop(reason), TC_ACT_SHOT)
        }
    };
    count(hook, verdict, ctx.len());
    action
}

/// The kernel requires a GPL-compatible licence of programs that call its redirect helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
