//! What routers between the nodes say of the overlay's packets: that they are too big.
//!
//! `from_pod` heeds it at once, whether there is an agent or not; the agent gives it to the kernel's routes, and
//! forgets it in time.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};

use crate::{
    family::IcmpHeader,
    frame::Frame,
    maps::tunnels,
    transport::{ICMP_LEN, protocol},
    vxlan::{Carrier, Outer, VXLAN_PORT},
};

/// The smallest MTU that is believed, as the kernel has it (`net.ipv4.route.min_pmtu`): no real link is smaller, and
/// whoever forges such an error should not gain much.
const LEAST: u32 = 552;

/// The start of the packet that an error is about; some routers quote no more.
#[repr(C)]
#[derive(Clone, Copy)]
struct Quoted<F> {
    ip: F,
    _source_port: u16,
    destination_port: u16,
}

/// Whether this is an ICMP error to this node that says that a packet of our overlay was too big. What it says is noted
/// then.
#[inline(always)]
pub fn notice<F: Carrier>(ctx: &TcContext, ip: &F) -> bool {
    matches!(ip.protocol(), protocol::ICMP | protocol::ICMP6)
        && !ip.has_options()
        && !ip.is_fragment()
        && F::is_here(ip.destination())
        && note::<F>(ctx) != 0
}

/// A function of its own: errors are rare. Not zero where the MTU has been noted.
#[inline(never)]
fn note<F: Carrier>(ctx: &TcContext) -> u64 {
    let start = Frame::<F>::HEAD_LEN;
    let Ok(message) = ctx.load::<IcmpHeader>(start) else { return 0 };
    let Some(mtu) = F::icmp_too_big(&message) else { return 0 };
    let Ok(quoted) = ctx.load::<Quoted<F>>(start + ICMP_LEN) else { return 0 };
    let ip = quoted.ip;
    let ours = ip.version_matches()
        && ip.protocol() == protocol::UDP
        && !ip.has_options()
        && quoted.destination_port == VXLAN_PORT.load().to_be()
        && F::is_here(ip.source());
    let node = if ours { F::node(ip.destination()) } else { None };
    let Some(node) = node.filter(|node| node.tunnel != 0) else { return 0 };
    let Some(tunnel) = tunnels.get_ptr_mut(node.tunnel) else { return 0 };
    let mtu = mtu.max(LEAST) - Outer::<F>::LEN as u32;
    // SAFETY: the map's own element; words are written whole, and one of two such errors at the same time wins.
    unsafe {
        let known = (*tunnel).path_mtu;
        if known == 0 || mtu < known {
            (*tunnel).path_mtu = mtu;
        }
        (*tunnel).learned = bpf_ktime_get_ns();
    }
    1
}
