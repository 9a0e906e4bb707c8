//! Destination and source look-ups.

use dataplane_common::{
    Address as _, FlowEntry, FlowKey, Ip4, Ip6, PREFIX_LENGTHS, PodEntry, RouteEntry, RouteKey,
};

use crate::{
    family::{Family, Ipv4Header, Ipv6Header},
    maps::{pods4, pods6, routes4, routes6, settings, stack_flows4, stack_flows6},
};

/// A family whose pods and peers have maps.
pub trait Lookup: Family {
    /// The local pod with this address.
    ///
    /// The reference is into the map: a concurrent deletion leaves it readable until the program ends (RCU), a
    /// concurrent update replaces the whole entry (`htab_map_update_elem` swaps elements).
    fn pod(address: Self::Address) -> Option<&'static PodEntry>;

    /// The peer route with the longest prefix that holds this address.
    fn route(address: Self::Address) -> Option<&'static RouteEntry>;

    /// The entry of a flow that has to go through the stack.
    fn flow(key: &FlowKey<Self::Address>) -> Option<&'static FlowEntry>;

    /// Enters such a flow; one more than the map holds puts the longest unused out.
    fn note_flow(key: &FlowKey<Self::Address>, entry: &FlowEntry);
}

impl Lookup for Ipv4Header {
    #[inline(always)]
    fn pod(address: Ip4) -> Option<&'static PodEntry> {
        // SAFETY: see the trait; the entry is only read.
        unsafe { pods4.get(address) }
    }

    #[inline(always)]
    fn route(address: Ip4) -> Option<&'static RouteEntry> {
        // SAFETY: as above.
        longest(settings.get(0)?.prefix_lens4, |len| unsafe { routes4.get(RouteKey::new(address, len)) })
    }

    #[inline(always)]
    fn flow(key: &FlowKey<Ip4>) -> Option<&'static FlowEntry> {
        // SAFETY: as above.
        unsafe { stack_flows4.get(key) }
    }

    #[inline(always)]
    fn note_flow(key: &FlowKey<Ip4>, entry: &FlowEntry) {
        // It fails only for want of memory; the flow's next packet tries again.
        let _ = stack_flows4.insert(key, entry, 0);
    }
}

impl Lookup for Ipv6Header {
    #[inline(always)]
    fn pod(address: Ip6) -> Option<&'static PodEntry> {
        // SAFETY: see the trait; the entry is only read.
        unsafe { pods6.get(address) }
    }

    #[inline(always)]
    fn route(address: Ip6) -> Option<&'static RouteEntry> {
        // SAFETY: as above.
        longest(settings.get(0)?.prefix_lens6, |len| unsafe { routes6.get(RouteKey::new(address, len)) })
    }

    #[inline(always)]
    fn flow(key: &FlowKey<Ip6>) -> Option<&'static FlowEntry> {
        // SAFETY: as above.
        unsafe { stack_flows6.get(key) }
    }

    #[inline(always)]
    fn note_flow(key: &FlowKey<Ip6>, entry: &FlowEntry) {
        // It fails only for want of memory; the flow's next packet tries again.
        let _ = stack_flows6.insert(key, entry, 0);
    }
}

/// The first hit over the prefix lengths in use; most clusters have one.
#[inline(always)]
fn longest<T>(lengths: [u8; PREFIX_LENGTHS], find: impl Fn(u32) -> Option<T>) -> Option<T> {
    for length in lengths {
        if length == 0 {
            break;
        }
        if let Some(found) = find(u32::from(length)) {
            return Some(found);
        }
    }
    None
}

// The masks above work on addresses as wide as the family's.
const _: () = assert!(Ip4::BITS == 32 && Ip6::BITS == 128);
