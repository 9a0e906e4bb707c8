//! Destination and source look-ups: in the slots first, an array's element whose place the address itself says; then,
//! where the agent says that the slots do not hold everything, in the hashes.

use core::hint::cold_path;

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap};
use dataplane_common::{
    ALL_PODS, ALL_ROUTES, Address as _, FlowEntry, FlowKey, Ip4, Ip6, POD_SLOTS, PREFIX_LENGTHS, PodEntry,
    PodSlot, ROUTE_SLOTS, RouteEntry, RouteKey, RouteSlot, Settings, pod_slot, route_slot,
};

use crate::{
    family::{Family, Ipv4Header, Ipv6Header},
    maps::{
        FLOWS, GROWING, PODS, ROUTES, pod_slots4, pod_slots6, pods4, pods6, route_slots4, route_slots6,
        routes4, routes6, settings, stack_flows4, stack_flows6,
    },
};

/// A family's maps.
pub struct Tables<A: 'static> {
    pods: &'static HashMap<A, PodEntry, PODS, GROWING>,
    pod_slots: &'static Array<PodSlot<A>, { POD_SLOTS as usize }>,
    routes: &'static HashMap<RouteKey<A>, RouteEntry, ROUTES, GROWING>,
    route_slots: &'static Array<RouteSlot<A>, { ROUTE_SLOTS as usize }>,
    flows: &'static LruHashMap<FlowKey<A>, FlowEntry, FLOWS>,
}

/// Where packets to an address go.
#[derive(Clone, Copy)]
pub enum Place {
    /// To a pod on this node.
    Here(&'static PodEntry),
    /// To a peer node.
    There(&'static RouteEntry),
}

/// A family whose pods and peers have maps.
pub trait Lookup: Family<Address: 'static> {
    /// Its maps.
    fn tables() -> Tables<Self::Address>;

    /// Its part of the settings: [`Settings::prefix_lens4`].
    fn prefix_lens(now: &Settings) -> &[u8; PREFIX_LENGTHS];

    /// Its part of the settings: [`Settings::slot_prefix_len4`], [`Settings::slot_bits4`].
    fn slot_prefix(now: &Settings) -> (u8, u8);

    /// Its part of the settings: [`Settings::all_slots4`].
    fn all_slots(now: &Settings) -> u32;

    /// The local pod, or the route to the peer, with this address. No pod CIDRs overlap.
    #[inline(always)]
    fn place(address: Self::Address) -> Option<Place> {
        if let Some(pod) = Self::pod_in_slot(address) {
            return Some(Place::Here(pod));
        }
        let now = settings.get(0)?;
        if Self::all_slots(now) & ALL_PODS == 0 {
            cold_path();
            if let Some(pod) = pod_in_hash::<Self>(&address) {
                return Some(Place::Here(pod));
            }
        }
        Self::route_by(now, address).map(Place::There)
    }

    /// The local pod with this address.
    ///
    /// The reference is into a map. In the hash, a concurrent deletion leaves it readable until the program ends
    /// (RCU), a concurrent update replaces the whole entry (`htab_map_update_elem` swaps elements). A slot is emptied
    /// before the agent writes another entry to it.
    #[inline(always)]
    fn pod(address: Self::Address) -> Option<&'static PodEntry> {
        if let Some(pod) = Self::pod_in_slot(address) {
            return Some(pod);
        }
        if Self::all_slots(settings.get(0)?) & ALL_PODS != 0 {
            return None;
        }
        cold_path();
        pod_in_hash::<Self>(&address)
    }

    /// The local pod with this address, if it has its slot.
    #[inline(always)]
    fn pod_in_slot(address: Self::Address) -> Option<&'static PodEntry> {
        match Self::tables().pod_slots.get(pod_slot(address)) {
            Some(slot) if slot.address == address && slot.pod.ifindex != 0 => Some(&slot.pod),
            _ => None,
        }
    }

    /// The peer route whose pod CIDR holds this address. No two do: the agent refuses clusters whose CIDRs overlap.
    #[inline(always)]
    fn route(address: Self::Address) -> Option<&'static RouteEntry> {
        Self::route_by(settings.get(0)?, address)
    }

    /// The same, with these settings.
    #[inline(always)]
    fn route_by(now: &Settings, address: Self::Address) -> Option<&'static RouteEntry> {
        let (prefix_len, bits) = Self::slot_prefix(now);
        let prefix_len = u32::from(prefix_len);
        match Self::tables().route_slots.get(route_slot(address, bits.into())) {
            // Where no slot is in use the length is 0, and so it is in them.
            Some(slot)
                if slot.key.prefix_len == prefix_len
                    && prefix_len != 0
                    && address.is_in(slot.key.prefix, prefix_len) =>
            {
                Some(&slot.route)
            }
            _ if Self::all_slots(now) & ALL_ROUTES != 0 => None,
            _ => {
                cold_path();
                route_in_hash::<Self>(&address)
            }
        }
    }

    /// The entry of a flow that has to go through the stack; it stays readable and writable until the program ends.
    #[inline(always)]
    fn flow(key: &FlowKey<Self::Address>) -> Option<*mut FlowEntry> {
        Self::tables().flows.get_ptr_mut(key)
    }

    /// Enters such a flow; one more than the map holds puts the longest unused out.
    #[inline(always)]
    fn note_flow(key: &FlowKey<Self::Address>, entry: &FlowEntry) {
        // It fails only for want of memory; the flow's next packet tries again.
        let _ = Self::tables().flows.insert(key, entry, 0);
    }
}

/// A function of its own, as every look-up has it behind it and hardly any comes here.
#[inline(never)]
fn pod_in_hash<F: Lookup>(address: &F::Address) -> Option<&'static PodEntry> {
    // SAFETY: see the trait; the entry is only read.
    unsafe { F::tables().pods.get(address) }
}

/// The first hit over the prefix lengths in use. As above.
#[inline(never)]
fn route_in_hash<F: Lookup>(address: &F::Address) -> Option<&'static RouteEntry> {
    let (routes, now) = (F::tables().routes, settings.get(0)?);
    // One key for all lengths: the stack of a program and its functions is small.
    let mut key = RouteKey { prefix_len: 0, prefix: *address };
    for prefix_len in *F::prefix_lens(now) {
        if prefix_len == 0 {
            break;
        }
        key.prefix_len = prefix_len.into();
        key.prefix = address.masked(prefix_len.into());
        // SAFETY: as for pods.
        if let Some(found) = unsafe { routes.get(key) } {
            return Some(found);
        }
    }
    None
}

impl Lookup for Ipv4Header {
    #[inline(always)]
    fn tables() -> Tables<Ip4> {
        Tables {
            pods: &pods4,
            pod_slots: &pod_slots4,
            routes: &routes4,
            route_slots: &route_slots4,
            flows: &stack_flows4,
        }
    }

    #[inline(always)]
    fn prefix_lens(now: &Settings) -> &[u8; PREFIX_LENGTHS] {
        &now.prefix_lens4
    }

    #[inline(always)]
    fn slot_prefix(now: &Settings) -> (u8, u8) {
        (now.slot_prefix_len4, now.slot_bits4)
    }

    #[inline(always)]
    fn all_slots(now: &Settings) -> u32 {
        now.all_slots4
    }
}

impl Lookup for Ipv6Header {
    #[inline(always)]
    fn tables() -> Tables<Ip6> {
        Tables {
            pods: &pods6,
            pod_slots: &pod_slots6,
            routes: &routes6,
            route_slots: &route_slots6,
            flows: &stack_flows6,
        }
    }

    #[inline(always)]
    fn prefix_lens(now: &Settings) -> &[u8; PREFIX_LENGTHS] {
        &now.prefix_lens6
    }

    #[inline(always)]
    fn slot_prefix(now: &Settings) -> (u8, u8) {
        (now.slot_prefix_len6, now.slot_bits6)
    }

    #[inline(always)]
    fn all_slots(now: &Settings) -> u32 {
        now.all_slots6
    }
}
