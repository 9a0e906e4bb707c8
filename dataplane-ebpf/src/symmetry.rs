//! The symmetry rule: a flow that the kernel's stack has rewritten in one direction goes through it in the other, so
//! that netfilter can undo it.
//!
//! What leaves the stack from a pod to a pod, but has not gone in as such (the mark tells), the stack has made so:
//! a service's address has become a pod's.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};
use dataplane_common::{FlowEntry, FlowGate, PassReason};

use crate::{
    Exit,
    context::Packet,
    lookup::Lookup,
    maps::flow_gate,
    transport::{Kind, classify},
};

/// An entry is written again only when it is older than this, in nanoseconds.
const REFRESH: u64 = 1_000_000_000;

/// Passes a pod-to-pod packet whose other direction the stack has touched.
///
/// # Errors
/// The reason to pass.
#[inline(always)]
pub fn check<F: Lookup>(packet: &impl Packet, base: usize, ip: &F) -> Result<(), Exit> {
    match flow_gate.get(0) {
        Some(FlowGate { open: 0 }) | None => Ok(()),
        Some(_) => match judge(packet, base, ip) {
            FREE => Ok(()),
            STACK => Err(PassReason::StackFlow.into()),
            ERROR => Err(PassReason::IcmpError.into()),
            _ => Err(PassReason::Fragment.into()),
        },
    }
}

/// What [`judge`] says: numbers, as a function of BPF returns nothing larger.
const FREE: u64 = 0;
const STACK: u64 = 1;
const ERROR: u64 = 2;
const PORTLESS: u64 = 3;

/// Looks the packet's flow up. A function of its own, out of the way of packets on nodes without such flows.
#[inline(never)]
fn judge<F: Lookup>(packet: &impl Packet, base: usize, ip: &F) -> u64 {
    match classify(packet, base, ip) {
        Kind::Flow(key) if F::flow(&key).is_some() => STACK,
        Kind::Flow(_) => FREE,
        Kind::IcmpError => ERROR,
        Kind::Portless => PORTLESS,
    }
}

/// Notes the pod-to-pod flow that the stack has made of another.
///
/// # Errors
/// Why there was nothing to note.
#[inline(always)]
pub fn note<F: Lookup>(ctx: &TcContext) -> Result<(), PassReason> {
    let frame = ctx.frame::<F>(0).ok_or(PassReason::Malformed)?;
    let ip = F::of(&frame, ctx.len())?;
    if !is_pod::<F>(ip.destination()) || !is_pod::<F>(ip.source()) {
        return Err(PassReason::NotPod);
    }
    let Kind::Flow(key) = classify(ctx, 0, ip) else { return Err(PassReason::Fragment) };
    let key = key.reversed();
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    match F::flow(&key) {
        Some(flow) if now.wrapping_sub(flow.last_seen) < REFRESH => {}
        _ => F::note_flow(&key, &FlowEntry { last_seen: now }),
    }
    // Behind the entry: whoever sees the gate open finds the entry.
    if let Some(gate) = flow_gate.get_ptr_mut(0) {
        // SAFETY: the map's own element; a word is written whole.
        unsafe {
            if (*gate).open == 0 {
                (*gate).open = 1;
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn is_pod<F: Lookup>(address: F::Address) -> bool {
    F::pod(address).is_some() || F::route(address).is_some()
}
