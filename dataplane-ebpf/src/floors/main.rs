//! Programs for the benches only: the least that a program can do, and what runs in front of each measured one.
//!
//! `BPF_PROG_TEST_RUN` gives a program the same packet again and again, with what it wrote last time: TTLs run out.
//! `restore4` and its like write the headers anew, vary addresses and source port, and tail-call the program in `target`.
//! Their own cost is that of a run whose target is `floor_return`, or `floor_pass` for XDP.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "return codes and sizes: small numbers that the helpers want in other types"
)]
#![expect(non_upper_case_globals, reason = "the kernel and bpftool show a map under the name of its static")]

mod restore;

use core::mem::size_of;

use aya_ebpf::{
    bindings::{
        BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup,
        bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, xdp_action,
    },
    btf_maps::{Array, DevMap, HashMap, PerCpuArray},
    helpers::{
        bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_map, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_skb_adjust_room,
    },
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_common::{Ip4, PodEntry, bench::FloorHop};
use dataplane_ebpf::{frame::ETHERNET_LEN, outer::room};

/// As `pods4`, for [`floor_lookup`].
#[btf_map]
static floor_pods: HashMap<Ip4, PodEntry, 256, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Returns.
#[classifier]
fn floor_return(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The same for XDP.
#[xdp(frags)]
fn floor_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Puts room for the overlay's headers in front of a packet, as any program must that wraps it.
#[classifier]
fn floor_wrap(ctx: TcContext) -> i32 {
    let flags = room::ENCAP_L3_IPV4
        | room::ENCAP_L4_UDP
        | room::ENCAP_L2_ETH
        | room::encap_l2(ETHERNET_LEN)
        | room::FIXED_GSO;
    adjust(&ctx, OVERLAY_LEN, flags)
}

/// Takes as much away.
#[classifier]
fn floor_unwrap(ctx: TcContext) -> i32 {
    adjust(&ctx, -OVERLAY_LEN, room::NO_CSUM_RESET)
}

/// The overlay's headers around a packet: Ethernet, IPv4, UDP, VXLAN.
const OVERLAY_LEN: i32 = 50;

#[inline(always)]
fn adjust(ctx: &TcContext, by: i32, flags: u64) -> i32 {
    // SAFETY: a helper call on the program's own context.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, by, BPF_ADJ_ROOM_MAC, flags) } == 0 {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// One hash lookup and a redirect, as any program must that knows its pods by their addresses.
#[classifier]
fn floor_lookup(ctx: TcContext) -> i32 {
    let start = ctx.data();
    if start + 34 > ctx.data_end() {
        return TC_ACT_SHOT;
    }
    // SAFETY: within the packet, see above; the verifier takes IP headers for aligned.
    let destination = unsafe { ((start + 30) as *const Ip4).read() };
    // SAFETY: the entry is only read.
    match unsafe { floor_pods.get(destination) } {
        // SAFETY: a helper call with plain numbers.
        Some(pod) => unsafe { bpf_redirect_peer(pod.ifindex, 0) as i32 },
        None => TC_ACT_SHOT,
    }
}

/// The kernel's own route lookup from a program, and a redirect to the next hop it names.
#[classifier]
fn floor_fib(ctx: TcContext) -> i32 {
    let start = ctx.data();
    if start + 34 > ctx.data_end() {
        return TC_ACT_SHOT;
    }
    // SAFETY: plain numbers, for which zero is valid.
    let mut lookup: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    lookup.family = 2;
    // SAFETY: within the packet, see above; a field of the context.
    unsafe {
        lookup.__bindgen_anon_3.ipv4_src = ((start + 26) as *const u32).read();
        lookup.__bindgen_anon_4.ipv4_dst = ((start + 30) as *const u32).read();
        lookup.ifindex = (*ctx.skb.skb).ifindex;
    }
    // SAFETY: the parameters live on the stack for the call, and their length is theirs.
    let found =
        unsafe { fib_lookup(ctx.skb.skb.cast(), &raw mut lookup, size_of::<bpf_fib_lookup>() as i32, 0) };
    if found != 0 {
        return TC_ACT_SHOT;
    }
    // SAFETY: the helper left the next hop's address there.
    let next_hop = unsafe { lookup.__bindgen_anon_4.ipv4_dst };
    let mut parameters = bpf_redir_neigh {
        nh_family: 2,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [next_hop, 0, 0, 0] },
    };
    // SAFETY: as above.
    unsafe {
        bpf_redirect_neigh(lookup.ifindex, &raw mut parameters, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

/// Where [`floor_forward`] sends packets to.
#[btf_map]
static floor_hops: Array<FloorHop, { FloorHop::PLACES as usize }> = Array::new();

/// The least that a program can do between pods: one look at the destination, one entry of an array, one redirect. No
/// pod network could do with it: packets keep their TTL, any size and any source pass, and nothing is counted.
#[classifier]
fn floor_forward(ctx: TcContext) -> i32 {
    let start = ctx.data();
    if start + 34 > ctx.data_end() {
        return TC_ACT_UNSPEC;
    }
    let packet = start as *mut u8;
    // SAFETY: within the packet, see above; the verifier takes IP headers for aligned.
    let (kind, destination) =
        unsafe { (packet.add(12).cast::<u16>().read(), packet.add(30).cast::<u32>().read()) };
    if kind != 0x0800_u16.to_be() {
        return TC_ACT_UNSPEC;
    }
    let destination = u32::from_be(destination);
    let Some(hop) = floor_hops.get(FloorHop::place(destination)) else { return TC_ACT_UNSPEC };
    if hop.address != destination {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: within the packet, see above; helper calls with plain numbers.
    unsafe {
        if hop.macs[0] == 0 {
            return bpf_redirect_peer(hop.ifindex, 0) as i32;
        }
        let words = packet.cast::<u32>();
        words.write(hop.macs[0]);
        words.add(1).write(hop.macs[1]);
        words.add(2).write(hop.macs[2]);
        bpf_redirect(hop.ifindex, 0) as i32
    }
}

/// One device.
#[btf_map]
static floor_port: DevMap<1> = DevMap::new();

/// Sends every frame to that device, without a look at it: what redirecting costs by itself.
#[expect(clippy::cast_sign_loss, reason = "an XDP return code")]
#[xdp(frags)]
fn floor_redirect(_ctx: XdpContext) -> u32 {
    // SAFETY: the map is a DEVMAP; the low bits of the flags are the return code for a missing entry.
    unsafe {
        bpf_redirect_map((&raw const floor_port).cast_mut().cast(), 0, u64::from(xdp_action::XDP_ABORTED))
            as u32
    }
}

/// Frames that arrived at a pod.
#[btf_map]
static arrived: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Counts and drops packets.
#[classifier]
fn drop_all(_ctx: TcContext) -> i32 {
    count_arrival();
    TC_ACT_SHOT
}

/// Counts and drops frames.
#[xdp]
fn drop_frames(_ctx: XdpContext) -> u32 {
    count_arrival();
    xdp_action::XDP_DROP
}

#[inline(always)]
fn count_arrival() {
    if let Some(count) = arrived.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe { *count += 1 };
    }
}

dataplane_ebpf::object!();
