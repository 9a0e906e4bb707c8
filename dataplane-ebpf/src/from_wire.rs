//! `from_wire`: what arrives at an uplink.

use aya_ebpf::programs::TcContext;
use dataplane_common::{DropReason, PassReason};

use crate::{Exit, Forward, head::Frame, lookup::Lookup, redirect::address_to_pod};

/// Finds the local pod that the packet is for, and addresses the frame to it.
///
/// # Errors
/// The reason why the packet is passed or dropped; it is unchanged then.
#[inline(always)]
pub fn forward<F: Lookup>(ctx: &TcContext) -> Result<Forward<'static, F::Address>, Exit> {
    let frame = Frame::<F>::of_skb(ctx).ok_or(PassReason::Malformed)?;
    let ip = F::of(&frame, ctx.len())?;

    let pod = F::pod(ip.destination()).ok_or(PassReason::NotPod)?;
    // Local pods' packets never leave the node to come back.
    if F::pod(ip.source()).is_some() {
        return Err(DropReason::ForeignSource.into());
    }
    if ip.has_options() {
        return Err(PassReason::Options.into());
    }
    // SAFETY: the frame is within the packet's bounds.
    unsafe { address_to_pod(frame.ethernet(), pod) };
    Ok(Forward::ToPod(pod))
}
