use crate::{Address, Ip4, Ip6, PodEntry, RouteEntry, RouteKey, plain_old_data};

/// How many slots the maps `pod_slots4` and `pod_slots6` have: a power of two.
pub const POD_SLOTS: u32 = 1024;

/// How many slots the maps `route_slots4` and `route_slots6` have: a power of two.
pub const ROUTE_SLOTS: u32 = 8192;

/// Value of the maps `pod_slots4` and `pod_slots6`: an entry of `pods4` or `pods6` with its key, at the place that the
/// address itself says. An array look-up is a handful of inlined instructions, a hash look-up is a call and a walk.
///
/// A slot whose `pod.ifindex` is 0 is empty. Two pods that share a place leave one of them to the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Zeroable))]
#[repr(C)]
pub struct PodSlot<A> {
    /// The pod's address.
    pub address: A,
    /// How to reach it.
    pub pod: PodEntry,
}

/// Value of the maps `route_slots4` and `route_slots6`: an entry of `routes4` or `routes6` with its key, likewise.
///
/// A slot whose `key.prefix_len` is 0 is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Zeroable))]
#[repr(C)]
pub struct RouteSlot<A> {
    /// The pod CIDR.
    pub key: RouteKey<A>,
    /// How to reach its pods.
    pub route: RouteEntry,
}

/// The place of a pod's address among the slots: its last bits. Addresses that are given out one after the other have
/// different ones.
#[inline(always)]
pub fn pod_slot<A: Address>(address: A) -> u32 {
    address.number(A::BITS) & (POD_SLOTS - 1)
}

/// The place of the pod CIDR that holds `address`: the last of its first `slot_bits` bits, see
/// [`Settings::slot_bits4`](crate::Settings::slot_bits4). With the whole prefix, pod CIDRs that are given out one
/// after the other have places of their own.
#[inline(always)]
pub fn route_slot<A: Address>(address: A, slot_bits: u32) -> u32 {
    address.number(slot_bits) & (ROUTE_SLOTS - 1)
}

/// As for [`RouteKey`]: the sizes are checked below.
macro_rules! without_padding {
    ($($type:ty),+) => {$(
        // SAFETY: `repr(C)`, parts of a size and alignment that leave no padding between them.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Pod for $type {}
    )+};
}
without_padding!(PodSlot<Ip4>, PodSlot<Ip6>, RouteSlot<Ip4>, RouteSlot<Ip6>);
plain_old_data!(PodSlot<Ip4>, PodSlot<Ip6>, RouteSlot<Ip4>, RouteSlot<Ip6>);

const _: () = assert!(POD_SLOTS.is_power_of_two() && ROUTE_SLOTS.is_power_of_two());
const _: () = assert!(size_of::<PodSlot<Ip4>>() == 4 + size_of::<PodEntry>());
const _: () = assert!(size_of::<PodSlot<Ip6>>() == 16 + size_of::<PodEntry>());
const _: () = assert!(size_of::<RouteSlot<Ip4>>() == 8 + size_of::<RouteEntry>());
const _: () = assert!(size_of::<RouteSlot<Ip6>>() == 20 + size_of::<RouteEntry>());

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn neighbours_have_places_of_their_own() {
        let pod = |last: u32| pod_slot(Ip4::from(Ipv4Addr::from(0x0af4_0100 + last)));
        let pod6 = |last: u128| pod_slot(Ip6::from(Ipv6Addr::from((0xfd00_0244_u128 << 96) + last)));
        let cidr = |number: u32| route_slot(Ip4::from(Ipv4Addr::from(0x0a00_0000 + (number << 8))), 24);
        let cidr6 =
            |number: u128| route_slot(Ip6::from(Ipv6Addr::from((0xfd00 << 112) + (number << 64))), 64);
        let distinct = |places: Vec<u32>| places.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(distinct((0..POD_SLOTS).map(pod).collect()), POD_SLOTS as usize);
        assert_eq!(distinct((0..u128::from(POD_SLOTS)).map(pod6).collect()), POD_SLOTS as usize);
        assert_eq!(distinct((0..ROUTE_SLOTS).map(cidr).collect()), ROUTE_SLOTS as usize);
        assert_eq!(distinct((0..u128::from(ROUTE_SLOTS)).map(cidr6).collect()), ROUTE_SLOTS as usize);
    }

    #[test]
    fn an_address_finds_the_slot_of_its_cidr() {
        let prefix = Ip4::from(Ipv4Addr::new(10, 244, 16, 0));
        let inside = Ip4::from(Ipv4Addr::new(10, 244, 31, 255));
        assert_eq!(route_slot(inside, 20), route_slot(prefix, 20));
    }
}
