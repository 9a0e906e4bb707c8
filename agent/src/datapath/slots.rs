//! The slots: what the hashes hold once more, at places that the addresses themselves say. The hashes stay the truth;
//! the programs look there for what has found its place taken.

use std::borrow::BorrowMut;

use aya::maps::{Array, MapData, MapError};
use bytemuck::Zeroable;
use dataplane_common::{Address, PodSlot, ROUTE_SLOTS, RouteKey, RouteSlot, route_slot};

/// A value of a slot map.
pub(super) trait Slot: aya::Pod + Zeroable + PartialEq {
    /// Whether it is the value of an empty slot.
    fn is_empty(&self) -> bool;

    /// Whether the two are of one address or pod CIDR.
    fn same_key(&self, other: &Self) -> bool;

    /// The same with what makes it an empty one.
    fn blank(self) -> Self;
}

impl<A: Address> Slot for PodSlot<A>
where
    Self: aya::Pod + Zeroable,
{
    fn is_empty(&self) -> bool {
        self.pod.ifindex == 0
    }

    fn same_key(&self, other: &Self) -> bool {
        self.address == other.address
    }

    fn blank(mut self) -> Self {
        self.pod.ifindex = 0;
        self
    }
}

impl<A: Address> Slot for RouteSlot<A>
where
    Self: aya::Pod + Zeroable,
{
    fn is_empty(&self) -> bool {
        self.key.prefix_len == 0
    }

    fn same_key(&self, other: &Self) -> bool {
        self.key == other.key
    }

    fn blank(mut self) -> Self {
        self.key.prefix_len = 0;
        self
    }
}

/// A slot map and what is in it.
pub(super) struct Slots<M, S: aya::Pod> {
    array: Array<M, S>,
    present: Vec<S>,
    /// Entries that have found their place taken.
    displaced: usize,
}

impl<M: BorrowMut<MapData>, S: Slot> Slots<M, S> {
    /// Reads what is in the map.
    pub(super) fn read(array: Array<M, S>) -> Result<Self, MapError> {
        let present = array.iter().collect::<Result<_, _>>()?;
        Ok(Self { array, present, displaced: 0 })
    }

    /// Reads what is in the map once more. Returns whether it is not what was written.
    pub(super) fn reread(&mut self) -> Result<bool, MapError> {
        let mut changed = false;
        for (present, now) in self.present.iter_mut().zip(self.array.iter()) {
            let now = now?;
            changed |= *present != now;
            *present = now;
        }
        Ok(changed)
    }

    /// Whether every entry has its slot.
    pub(super) const fn have_all(&self) -> bool {
        self.displaced == 0
    }

    /// Enters one that the hash has already, at its place.
    pub(super) fn enter(&mut self, place: u32, slot: S) -> Result<(), MapError> {
        if self.at(place).is_some_and(|now| now.is_empty() || now.same_key(&slot)) {
            self.write(place, slot)
        } else {
            self.displaced += 1;
            Ok(())
        }
    }

    /// Takes one out that the hash is about to lose. Returns whether that leaves room for a displaced one.
    pub(super) fn leave(&mut self, place: u32, slot: &S) -> Result<bool, MapError> {
        if self.holds(place, slot) {
            self.write(place, S::zeroed())?;
        }
        Ok(self.displaced > 0)
    }

    /// Makes the slots hold these, each at its place, and nothing else. Who has a place keeps it; those who find theirs
    /// taken are left to the hash.
    pub(super) fn hold(&mut self, wanted: &[(u32, S)]) -> Result<(), MapError> {
        let mut places: Vec<S> = vec![S::zeroed(); self.present.len()];
        let mut displaced = 0;
        for staying in [true, false] {
            for (place, slot) in wanted.iter().filter(|(place, slot)| self.holds(*place, slot) == staying) {
                match places.get_mut(*place as usize) {
                    Some(free) if free.is_empty() => *free = *slot,
                    _ => displaced += 1,
                }
            }
        }
        self.displaced = displaced;
        for (place, slot) in (0..).zip(places) {
            self.write(place, slot)?;
        }
        Ok(())
    }

    /// Whether a slot that is not empty has to change for this.
    pub(super) fn replaces(&self, place: u32, slot: &S) -> bool {
        self.at(place).is_some_and(|now| !now.is_empty() && now != slot)
    }

    #[cfg(test)]
    pub(super) fn in_kernel(&self, place: u32) -> S {
        self.array.get(&place, 0).unwrap()
    }

    fn holds(&self, place: u32, slot: &S) -> bool {
        self.at(place).is_some_and(|now| !now.is_empty() && now.same_key(slot))
    }

    fn at(&self, place: u32) -> Option<&S> {
        self.present.get(place as usize)
    }

    /// In steps, as a value is not written whole: empty, then filled, then marked as full. A program that looks
    /// meanwhile finds an empty slot.
    fn write(&mut self, place: u32, slot: S) -> Result<(), MapError> {
        let Some(present) = self.present.get_mut(place as usize) else { return Ok(()) };
        if *present == slot {
            return Ok(());
        }
        if !present.is_empty() {
            self.array.set(place, present.blank(), 0)?;
        }
        if !slot.is_empty() {
            self.array.set(place, slot.blank(), 0)?;
        }
        self.array.set(place, slot, 0)?;
        *present = slot;
        Ok(())
    }
}

/// How many of the first bits of these prefixes, all of one length, are best to tell them apart by their last ones:
/// `now` where that is as good as any, or else the whole prefix, or fewer where its last bits are all the same.
pub(super) fn slot_bits<A: Address>(keys: &[RouteKey<A>], prefix_len: u32, now: u32) -> u32 {
    let mut taken = vec![false; ROUTE_SLOTS as usize];
    let mut distinct = |bits: u32| {
        taken.fill(false);
        let places = keys.iter().map(|key| route_slot(key.prefix, bits) as usize);
        places
            .filter(|place| taken.get_mut(*place).is_some_and(|seen| !std::mem::replace(seen, true)))
            .count()
    };
    let shorter = (prefix_len.saturating_sub(31).max(1)..=prefix_len).rev();
    let current = (1..=prefix_len).contains(&now).then_some(now);
    let mut best = (prefix_len, 0);
    for candidate in current.into_iter().chain(shorter) {
        let places = distinct(candidate);
        if places > best.1 {
            best = (candidate, places);
        }
        if places == keys.len() {
            break;
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_common::{Ip4, Ip6};
    use std::net::Ipv6Addr;

    fn keys6(prefixes: impl Iterator<Item = Ipv6Addr>) -> Vec<RouteKey<Ip6>> {
        prefixes.map(|prefix| RouteKey::new(prefix.into(), 64)).collect()
    }

    #[test]
    fn prefixes_are_told_apart_by_the_bits_in_which_they_differ() {
        let last = keys6((0..5000).map(|node| Ipv6Addr::new(0xfd00, 0x10, 0x244, node, 0, 0, 0, 0)));
        assert_eq!(slot_bits(&last, 64, 0), 64);
        let third = |nodes| keys6((0..nodes).map(|node| Ipv6Addr::new(0xfd00, 0x244, node, 0, 0, 0, 0, 0)));
        assert_eq!(slot_bits(&third(5000), 64, 64), 48);
        assert_eq!(slot_bits(&third(1000), 64, 64), 51);
        assert_eq!(slot_bits(&third(1000), 64, 49), 49, "what is good enough stays");
    }

    #[test]
    fn one_prefix_and_a_short_one_have_a_length() {
        assert_eq!(slot_bits(&keys6(std::iter::once(Ipv6Addr::UNSPECIFIED)), 64, 0), 64);
        let short: Vec<RouteKey<Ip4>> = vec![RouteKey::new(Ip4 { addr: [10, 0, 0, 0] }, 8)];
        assert_eq!(slot_bits(&short, 8, 200), 8);
    }
}
