//! What runs in front of each measured program, and what injects frames.
#![expect(clippy::cast_possible_truncation, reason = "halves of words, and the size of a small structure")]

use core::mem::size_of;

use aya_ebpf::{
    bindings::{BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, bpf_tunnel_key, xdp_action},
    btf_maps::{Array, ProgramArray},
    helpers::bpf_skb_set_tunnel_key,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_common::bench::{Scenario, Series};

/// The packets to give the target.
#[btf_map]
static scenario: Array<Scenario, 1> = Array::new();

/// The program to measure.
#[btf_map]
static target: ProgramArray<1> = ProgramArray::new();

/// The XDP program to give frames to.
#[btf_map]
static wire_target: ProgramArray<1> = ProgramArray::new();

/// Bytes of a frame as far as they are written: to its source port.
const HEAD4: usize = 36;
const HEAD6: usize = 56;

/// Restores an IPv4 packet and runs the target.
#[classifier]
fn restore4(ctx: TcContext) -> i32 {
    restore::<HEAD4>(&ctx, write_head4)
}

/// Restores an IPv6 packet and runs the target.
#[classifier]
fn restore6(ctx: TcContext) -> i32 {
    restore::<HEAD6>(&ctx, write_head6)
}

/// The same as `restore4`, of a packet that the overlay device has received from the node in the scenario.
#[classifier]
fn restore_overlay(ctx: TcContext) -> i32 {
    let Some(scene) = scenario.get(0) else { return TC_ACT_SHOT };
    // SAFETY: plain numbers, for which zero is valid.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = scene.vni;
    // The source of what is sent and of what has been received stand at one place.
    key.__bindgen_anon_3.local_ipv4 = scene.peer;
    // SAFETY: the key lives on the stack for the call, and its length is its own.
    let set = unsafe {
        bpf_skb_set_tunnel_key(
            ctx.skb.skb,
            &raw mut key,
            size_of::<bpf_tunnel_key>() as u32,
            u64::from(BPF_F_ZERO_CSUM_TX),
        )
    };
    if set != 0 {
        return TC_ACT_SHOT;
    }
    restore::<HEAD4>(&ctx, write_head4)
}

#[inline(always)]
fn restore<const HEAD: usize>(ctx: &TcContext, write_head: unsafe fn(*mut u8, &Scenario)) -> i32 {
    let Some(scene) = next() else { return TC_ACT_SHOT };
    let start = ctx.data();
    if start + HEAD > ctx.data_end() {
        return TC_ACT_SHOT;
    }
    // SAFETY: as many bytes are there; the verifier has checked both programs.
    unsafe {
        write_head(start as *mut u8, scene);
        target.tail_call(ctx, 0);
    }
    TC_ACT_SHOT
}

/// Restores an IPv4 frame that `BPF_F_TEST_XDP_LIVE_FRAMES` sends again, and lets its device receive it.
#[xdp]
fn inject4(ctx: XdpContext) -> u32 {
    inject::<HEAD4>(&ctx, write_head4, xdp_action::XDP_PASS)
}

/// The same, given to the XDP program in `wire_target`, as the device's driver would.
#[xdp(frags)]
fn receive4(ctx: XdpContext) -> u32 {
    receive::<HEAD4>(&ctx, write_head4)
}

/// As `receive4`, for IPv6.
#[xdp(frags)]
fn receive6(ctx: XdpContext) -> u32 {
    receive::<HEAD6>(&ctx, write_head6)
}

#[inline(always)]
fn receive<const HEAD: usize>(ctx: &XdpContext, write_head: unsafe fn(*mut u8, &Scenario)) -> u32 {
    let action = inject::<HEAD>(ctx, write_head, xdp_action::XDP_DROP);
    // SAFETY: the verifier has checked both programs.
    unsafe { wire_target.tail_call(ctx, 0) };
    action
}

#[inline(always)]
fn inject<const HEAD: usize>(
    ctx: &XdpContext,
    write_head: unsafe fn(*mut u8, &Scenario),
    action: u32,
) -> u32 {
    let Some(scene) = next() else { return xdp_action::XDP_ABORTED };
    let start = ctx.data();
    if start + HEAD > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: as many bytes are there.
    unsafe { write_head(start as *mut u8, scene) };
    action
}

/// The scenario, one packet further.
#[inline(always)]
fn next() -> Option<&'static Scenario> {
    let scene = scenario.get_ptr_mut(0)?;
    // SAFETY: the benches run one program at a time, on one CPU.
    unsafe {
        (*scene).counter = (*scene).counter.wrapping_add(1);
        Some(&*scene)
    }
}

/// # Safety
/// `packet` has [`HEAD4`] bytes.
#[inline(always)]
unsafe fn write_head4(packet: *mut u8, scene: &Scenario) {
    let flow = flow(scene);
    // SAFETY: the caller's promise.
    unsafe {
        write_macs(packet, scene);
        packet.add(22).cast::<u32>().write(scene.hop);
        packet.add(26).cast::<u32>().write(host_word(&scene.source, flow));
        packet.add(30).cast::<u32>().write(host_word(&scene.destination, flow));
        packet.add(34).cast::<u16>().write(port(flow));
    }
}

/// # Safety
/// `packet` has [`HEAD6`] bytes.
#[inline(always)]
unsafe fn write_head6(packet: *mut u8, scene: &Scenario) {
    let flow = flow(scene);
    // SAFETY: the caller's promise.
    unsafe {
        write_macs(packet, scene);
        packet.add(20).cast::<u16>().write(scene.hop as u16);
        for (at, series) in [(22, &scene.source), (38, &scene.destination)] {
            let address = packet.add(at).cast::<u32>();
            address.write(series.first[0].to_be());
            address.add(1).write(prefix_word(series, flow));
            address.add(2).write(series.first[2].to_be());
            address.add(3).write(host_word(series, flow));
        }
        packet.add(54).cast::<u16>().write(port(flow));
    }
}

#[inline(always)]
unsafe fn write_macs(packet: *mut u8, scene: &Scenario) {
    let words = packet.cast::<u32>();
    // SAFETY: the caller has checked that the packet is longer than this.
    unsafe {
        words.write(scene.macs[0]);
        words.add(1).write(scene.macs[1]);
        words.add(2).write(scene.macs[2]);
    }
}

/// Which flow this packet belongs to.
#[inline(always)]
fn flow(scene: &Scenario) -> u32 {
    scene.counter & scene.flow_mask
}

#[inline(always)]
fn host_word(series: &Series, flow: u32) -> u32 {
    series.first[3].wrapping_add(place(series, flow).wrapping_mul(series.step_host)).to_be()
}

#[inline(always)]
fn prefix_word(series: &Series, flow: u32) -> u32 {
    series.first[1].wrapping_add(place(series, flow).wrapping_mul(series.step_prefix)).to_be()
}

/// A plain `%` would bring a panic along.
#[inline(always)]
fn place(series: &Series, flow: u32) -> u32 {
    flow.checked_rem(series.count).unwrap_or(0)
}

#[inline(always)]
fn port(flow: u32) -> u16 {
    ((1024 + flow) as u16).to_be()
}
