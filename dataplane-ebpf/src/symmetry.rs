//! The symmetry rule: a flow that the kernel's stack has rewritten in one direction goes through it in the other, so
//! that netfilter can undo it.
//!
//! What leaves the stack from a pod to a pod, but has not gone in as such (the mark tells), the stack has made so:
//! a service's address has become a pod's.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use dataplane_common::{FILTERS, FlowEntry, FlowGate, FlowKey, PassReason, filter_place};

use crate::{
    Exit,
    context::Readable,
    frame::Frame,
    lookup::Lookup,
    maps::{flow_filter, flow_gate},
    transport::{ICMP_LEN, Kind, classify, protocol, quoted},
};

/// An entry's time is written again only when it is older than this, in nanoseconds.
const REFRESH: u64 = 1_000_000_000;

/// Passes a pod-to-pod packet whose other direction the stack has touched.
///
/// # Errors
/// The reason to pass.
#[inline(always)]
pub fn check<F: Lookup>(packet: &impl Readable, base: usize, ip: &F) -> Result<(), Exit> {
    match flow_gate.get(0) {
        Some(FlowGate { state: FlowGate::SHUT }) | None => Ok(()),
        Some(FlowGate { state: FlowGate::ALL }) => Err(PassReason::StackFlow.into()),
        Some(gate) if is_between_others(*gate, ip) => Ok(()),
        Some(_) => match judge(packet, base, ip) {
            FREE => Ok(()),
            STACK => Err(PassReason::StackFlow.into()),
            ERROR => Err(PassReason::IcmpError.into()),
            _ => Err(PassReason::Fragment.into()),
        },
    }
}

/// Whether a packet is no ICMP error, and between pods that have no flow through the stack in this direction.
#[inline(always)]
fn is_between_others<F: Lookup>(gate: FlowGate, ip: &F) -> bool {
    if !matches!(ip.protocol(), protocol::TCP | protocol::UDP | protocol::SCTP) {
        return false;
    }
    let place = filter_place(ip.source(), ip.destination());
    flow_filter.get_ptr(gate.filter()).is_some_and(|filter| {
        // SAFETY: a byte of the map's element; the place is within it.
        unsafe { filter.cast::<u8>().add(place as usize).read() == 0 }
    })
}

/// What [`judge`] says: numbers, as a function of BPF returns nothing larger.
const FREE: u64 = 0;
const STACK: u64 = 1;
const ERROR: u64 = 2;
const PORTLESS: u64 = 3;

/// Looks the packet's flow up. A function of its own, out of the way of packets on nodes without such flows.
#[inline(never)]
fn judge<F: Lookup>(packet: &impl Readable, base: usize, ip: &F) -> u64 {
    match classify(packet, base, ip) {
        Kind::Flow(key) => match F::flow(&key) {
            Some(flow) => {
                refresh(flow);
                STACK
            }
            None => FREE,
        },
        Kind::IcmpError(subject) => judge_error::<F>(packet, subject),
        // All of a packet's fragments go the same way, as whoever puts them together needs all.
        Kind::FirstFragment(_) | Kind::Portless => PORTLESS,
    }
}

/// The stack has to see an ICMP error where it has to see the flow that it is about, or the flow's other direction.
/// About others it knows nothing: netfilter would find the error invalid.
#[inline(always)]
fn judge_error<F: Lookup>(packet: &impl Readable, subject: usize) -> u64 {
    quoted::<F>(packet, subject).map_or(ERROR, |key| judge_quoted::<F>(&key))
}

#[inline(always)]
fn judge_quoted<F: Lookup>(key: &FlowKey<F::Address>) -> u64 {
    if F::flow(key).is_some() || F::flow(&key.reversed()).is_some() { ERROR } else { FREE }
}

/// Whether this is an ICMP error, from a router or a node, about a pod-to-pod flow that the stack knows nothing of.
/// Netfilter would find it invalid, and with kube-proxy's rules drop it.
#[inline(always)]
pub fn is_about_fast_path<F: Lookup>(packet: &impl Readable, base: usize, ip: &F) -> bool {
    matches!(ip.protocol(), protocol::ICMP | protocol::ICMP6) && judge_foreign_error(packet, base, ip) == FREE
}

/// A function of its own: errors are rare.
#[inline(never)]
fn judge_foreign_error<F: Lookup>(packet: &impl Readable, base: usize, ip: &F) -> u64 {
    let start = base + Frame::<F>::HEAD_LEN;
    if matches!(flow_gate.get(0), Some(FlowGate { state: FlowGate::ALL })) {
        return STACK;
    }
    if ip.has_options() || ip.is_fragment() || !packet.load(start).is_some_and(F::icmp_is_error) {
        return STACK;
    }
    let Some(key) = quoted::<F>(packet, start + ICMP_LEN) else { return STACK };
    let by_the_pod = key.source == ip.destination();
    if by_the_pod && F::route(key.destination).is_some() { judge_quoted::<F>(&key) } else { STACK }
}

/// Notes the pod-to-pod flow that the stack has made of another.
///
/// # Errors
/// Why there was nothing to note.
#[inline(always)]
pub fn note<F: Lookup>(packet: &impl Readable, ip: &F) -> Result<(), PassReason> {
    if F::place(ip.destination()).is_none() || F::place(ip.source()).is_none() {
        return Err(PassReason::NotPod);
    }
    let (Kind::Flow(key) | Kind::FirstFragment(key)) = classify(packet, 0, ip) else {
        return Err(PassReason::Fragment);
    };
    let key = key.reversed();
    match F::flow(&key) {
        Some(flow) => refresh(flow),
        None => F::note_flow(&key, &FlowEntry::seen(now())),
    }
    // Behind the entry: whoever sees a mark, or the gate open, finds the entry.
    let place = filter_place(key.source, key.destination);
    (0..FILTERS).for_each(|filter| mark(filter, place));
    if let Some(gate) = flow_gate.get_ptr_mut(0) {
        // SAFETY: the map's own element; a word is written whole.
        unsafe {
            if (*gate).state == FlowGate::SHUT {
                (*gate).state = FlowGate::FIRST;
            }
        }
    }
    Ok(())
}

/// Says in a filter that there is a flow at this place.
#[inline(always)]
fn mark(filter: u32, place: u32) {
    if let Some(filter) = flow_filter.get_ptr_mut(filter) {
        // SAFETY: a byte of the map's element; the place is within it. It is read first, so that CPUs that note other
        // flows of the same pods do not take its cache line from each other.
        unsafe {
            let place = filter.cast::<u8>().add(place as usize);
            if place.read() == 0 {
                place.write(1);
            }
        }
    }
}

/// The flow lives, in whichever direction: conntrack sees both as well. Some offloads of the kernel (flow tables) let
/// the stack send only its first packets in sight of [`note`].
#[inline(always)]
fn refresh(flow: *mut FlowEntry) {
    let now = now();
    // SAFETY: an entry of the map, see `Lookup::flow`; its time is a word, read and written whole. Whoever is given the
    // place of an entry that is put out at this moment has the flow's time by a second at most.
    unsafe {
        if now.wrapping_sub((*flow).last_seen) >= REFRESH {
            (*flow).last_seen = now;
        }
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
