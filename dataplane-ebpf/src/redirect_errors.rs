//! What XDP has redirected to a pod and the kernel has not delivered: only tracepoints tell.
//!
//! A redirect is carried out after the program has returned: the frame may be refused at once (too large for the pod's
//! interface), or dropped with others when the driver's batch is flushed (the interface is down or has no NAPI).

use aya_ebpf::{Global, programs::BtfTracePointContext};
use dataplane_common::{DropReason, Hook, Verdict};

use crate::{count::count_many, kernel::read, maps::wire_ports};

/// `net_device.ifindex`: where the kernel's structures have what is read of them; the agent finds it out from the
/// kernel's BTF.
#[unsafe(no_mangle)]
pub static IFINDEX_OFFSET: Global<u32> = Global::new(0);
/// `net_device.nd_net`, a pointer to `net`.
#[unsafe(no_mangle)]
pub static NAMESPACE_OFFSET: Global<u32> = Global::new(0);
/// `net.net_cookie`.
#[unsafe(no_mangle)]
pub static COOKIE_OFFSET: Global<u32> = Global::new(0);
/// The cookie of this node's network namespace: the tracepoints tell of every device of the machine.
#[unsafe(no_mangle)]
pub static NAMESPACE_COOKIE: Global<u64> = Global::new(0);

/// The tracepoint's view of a `net_device`.
type Device = *const u8;

/// `xdp_devmap_xmit(from_dev, to_dev, sent, drops, err)`: a batch has been handed to a device.
#[inline(always)]
pub fn flushed(ctx: &BtfTracePointContext) {
    let drops: i32 = ctx.arg(3);
    let to: Device = ctx.arg(1);
    if drops > 0
        && is_of_this_node(to)
        && let Some(ifindex) = read::<u32>(to, IFINDEX_OFFSET.load())
    {
        count_lost(ifindex, u64::from(drops.unsigned_abs()));
    }
}

/// `xdp_redirect_err(dev, xdp, tgt, err, map_type, map_id, index)`: a frame has been refused at once.
#[inline(always)]
pub fn refused(ctx: &BtfTracePointContext) {
    /// `BPF_MAP_TYPE_DEVMAP_HASH`.
    const DEVMAP_HASH: u32 = 25;
    let from: Device = ctx.arg(0);
    let map_type: u32 = ctx.arg(4);
    let index: u32 = ctx.arg(6);
    if map_type == DEVMAP_HASH && is_of_this_node(from) {
        count_lost(index, 1);
    }
}

#[inline(always)]
fn count_lost(ifindex: u32, frames: u64) {
    if wire_ports.get_ifindex(ifindex).is_some() {
        count_many(Hook::XdpFromWire, Verdict::Drop(DropReason::RedirectFailed), frames);
    }
}

#[inline(always)]
fn is_of_this_node(device: Device) -> bool {
    read::<*const u8>(device, NAMESPACE_OFFSET.load())
        .and_then(|namespace| read::<u64>(namespace, COOKIE_OFFSET.load()))
        .is_some_and(|cookie| cookie == NAMESPACE_COOKIE.load())
}
