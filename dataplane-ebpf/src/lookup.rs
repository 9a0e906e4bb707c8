//! Destination and source look-ups.

use dataplane_common::{Address as _, Ip4, Ip6, PREFIX_LENGTHS, PodEntry, RouteEntry, RouteKey};

use crate::{
    family::{Family, Ipv4Header, Ipv6Header},
    maps::{pods4, pods6, routes4, routes6, settings},
};

/// A family whose pods and peers have maps.
pub trait Lookup: Family {
    /// The local pod with this address.
    ///
    /// The reference is into the map: a concurrent deletion leaves it readable until the program ends (RCU), a
    /// concurrent update replaces the whole entry (`htab_map_update_elem` swaps elements).
    fn pod(address: Self::Address) -> Option<&'static PodEntry>;

    /// The peer route with the longest prefix that holds this address.
    fn route(address: Self::Address) -> Option<&'static RouteEntry<Self::Address>>;
}

impl Lookup for Ipv4Header {
    #[inline(always)]
    fn pod(address: Ip4) -> Option<&'static PodEntry> {
        // SAFETY: see the trait; the entry is only read.
        unsafe { pods4.get(address) }
    }

    #[inline(always)]
    fn route(address: Ip4) -> Option<&'static RouteEntry<Ip4>> {
        // SAFETY: as above.
        longest(settings.get(0)?.prefix_lens4, |len| unsafe { routes4.get(RouteKey::new(address, len)) })
    }
}

impl Lookup for Ipv6Header {
    #[inline(always)]
    fn pod(address: Ip6) -> Option<&'static PodEntry> {
        // SAFETY: see the trait; the entry is only read.
        unsafe { pods6.get(address) }
    }

    #[inline(always)]
    fn route(address: Ip6) -> Option<&'static RouteEntry<Ip6>> {
        // SAFETY: as above.
        longest(settings.get(0)?.prefix_lens6, |len| unsafe { routes6.get(RouteKey::new(address, len)) })
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
