//! `xdp_from_wire`: pod-bound packets before an skb exists.

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::xdp_action,
    helpers::{bpf_redirect_map, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use dataplane_common::{PassReason, PodEntry};

use crate::{
    Exit,
    context::Packet as _,
    family::{Family, Ipv4Header, Ipv6Header, ether_type},
    frame::{Frame, same_mac},
    from_wire::find_pod,
    lookup::Lookup,
    maps::{settings, wire_ports},
    overlay::VNI,
    redirect::address_to_pod,
    transport::protocol,
};

/// UDP port of the overlay; the agent sets it when it loads the programs.
#[unsafe(no_mangle)]
pub static VXLAN_PORT: Global<u16> = Global::new(8472);

/// UDP and VXLAN header (RFC 768, RFC 7348).
#[repr(C)]
#[derive(Clone, Copy)]
struct VxlanHeader {
    _source_port: [u8; 2],
    destination_port: [u8; 2],
    _length: [u8; 2],
    _checksum: [u8; 2],
    flags: u8,
    _reserved: [u8; 3],
    vni: [u8; 3],
    _reserved2: u8,
}

/// The headers in front of an inner frame.
#[repr(C)]
struct Outer<F> {
    _ip: F,
    vxlan: VxlanHeader,
}

const _: () = assert!(size_of::<VxlanHeader>() == 16 && size_of::<Outer<Ipv4Header>>() == 36);

/// The flag that says that the VNI is valid.
const VNI_VALID: u8 = 0x08;

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
fn forward_frame<F: Terminates>(ctx: &XdpContext) -> Result<&'static PodEntry, Exit> {
    let frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    if is_ours(ctx, &frame) {
        return forward_inner::<F>(ctx);
    }
    let pod = find_pod::<F, _>(ctx, 0, &frame)?;
    // SAFETY: the frame is within the packet's bounds.
    unsafe { address_to_pod(frame.ethernet(), pod) };
    Ok(pod)
}

/// A family in which this node terminates the overlay.
trait Terminates: Lookup {
    /// Whether the outer packet goes from a known node to this one.
    fn between_nodes(&self) -> bool;
}

impl Terminates for Ipv4Header {
    #[inline(always)]
    fn between_nodes(&self) -> bool {
        // SAFETY: the entry is not even read.
        settings.get(0).is_some_and(|now| now.node4 == self.destination())
            && unsafe { crate::maps::nodes4.get(self.source()) }.is_some()
    }
}

impl Terminates for Ipv6Header {
    #[inline(always)]
    fn between_nodes(&self) -> bool {
        // SAFETY: the entry is not even read.
        settings.get(0).is_some_and(|now| now.node6 == self.destination())
            && unsafe { crate::maps::nodes6.get(self.source()) }.is_some()
    }
}

/// Whether this is a whole packet of our overlay, from a node that we know. Others are the kernel's: `from_overlay`
/// drops what is wrong with them.
#[inline(always)]
fn is_ours<F: Terminates>(ctx: &XdpContext, frame: &Frame<F>) -> bool {
    let Ok(ip) = F::of(frame, ctx.size()) else { return false };
    if ip.protocol() != protocol::UDP || ip.has_options() || ip.is_fragment() {
        return false;
    }
    let Some(outer) = ctx.frame::<Outer<F>>(0) else { return false };
    // SAFETY: the frame is within the packet's bounds.
    let vxlan = unsafe { &(*outer.header()).vxlan };
    let [a, b, c] = vxlan.vni;
    u16::from_be_bytes(vxlan.destination_port) == VXLAN_PORT.load()
        && vxlan.flags == VNI_VALID
        && u32::from_be_bytes([0, a, b, c]) == VNI.load()
        && ip.between_nodes()
}

/// The same for the frame inside, whose outer packet is of family `F`.
#[inline(always)]
fn forward_inner<F: Family>(ctx: &XdpContext) -> Result<&'static PodEntry, Exit> {
    let base = Frame::<Outer<F>>::HEAD_LEN;
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
    let frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    // SAFETY: the frame is within the packet's bounds.
    unsafe { address_to_pod(frame.ethernet(), pod) };
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
