//! `from_wire`, `from_overlay` and the second half of `xdp_from_wire`: what arrives from other nodes.

use dataplane_common::{DropReason, PassReason, PodEntry};

use crate::{
    Exit, check_plain, context::Packet, family::Family, frame::Frame, lookup::Lookup,
    redirect::address_to_pod, symmetry,
};

/// Finds the local pod that a packet is for. `base` is where the frame starts in the packet.
///
/// # Errors
/// The reason why the packet is passed or dropped.
#[inline(always)]
pub fn find_pod<F: Lookup, P: Packet>(
    packet: &P,
    base: usize,
    frame: &Frame<F>,
) -> Result<&'static PodEntry, Exit> {
    let ip = F::of(frame, packet.size() - base as u32)?;
    match F::pod(ip.destination()) {
        Some(pod) => check(packet, base, ip, pod),
        None => Err(not_for_pod::<F>(ip.source())),
    }
}

/// What becomes of a packet from this address to something else than a local pod.
#[inline(always)]
pub fn not_for_pod<F: Lookup>(source: F::Address) -> Exit {
    if F::pod(source).is_some() { DropReason::ForeignSource.into() } else { PassReason::NotPod.into() }
}

/// Whether a packet to that local pod is one to forward.
///
/// # Errors
/// The reason why the packet is passed or dropped.
#[inline(always)]
pub fn check<F: Lookup, P: Packet>(
    packet: &P,
    base: usize,
    ip: &F,
    pod: &'static PodEntry,
) -> Result<&'static PodEntry, Exit> {
    let source = ip.source();
    // Replies to anybody but a pod go through the stack, so what they are replies to has to as well.
    if F::route(source).is_none() {
        // Local pods' packets never leave the node to come back.
        if F::pod(source).is_some() {
            return Err(DropReason::ForeignSource.into());
        }
        if P::LAST && ip.hop_limit() > 1 && symmetry::is_about_fast_path(packet, base, ip) {
            return Ok(pod);
        }
        return Err(PassReason::NotFromPod.into());
    }
    check_plain(packet, base, ip)?;
    // This node is a hop on the way, as the kernel's own forwarding is.
    if ip.hop_limit() <= 1 {
        return Err(PassReason::HopLimit.into());
    }
    Ok(pod)
}

/// Makes the frame that a packet has come in the pod's: one hop less, and its MAC addresses.
#[inline(always)]
pub fn hand_over<F: Family>(packet: &impl Packet, frame: &mut Frame<F>, pod: &PodEntry) {
    F::decrement_hop_limit(frame);
    if F::HOP_LIMIT_SUM != 0 {
        packet.sum_changed(F::HOP_LIMIT_SUM);
    }
    // SAFETY: a frame is within the packet's bounds.
    unsafe { address_to_pod(frame.ethernet(), pod) };
}
