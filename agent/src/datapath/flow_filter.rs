//! The filter in front of the flows through the stack: two elements of one map, which the programs use in turns.
//!
//! Programs mark both behind every entry that they make. So the element in use lacks none, and neither does the other one,
//! once it has been emptied first and only then marked by what is in the maps: what was marked before, and is lost, was
//! entered before that. The one in use changes with every sweep, half a minute apart: who has read the gate before that is
//! done long before the next one empties what it says.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering, fence},
};

use anyhow::Context as _;
use aya::Ebpf;
use dataplane_common::{FILTER_PLACES, FILTERS, FlowFilter as Element, FlowGate};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::load::map_data;

/// Both elements, in this process's memory: an update by system call would undo what programs write meanwhile.
#[derive(Debug)]
pub(super) struct FlowFilter {
    memory: NonNull<AtomicU8>,
}

const LEN: NonZeroUsize = NonZeroUsize::new(FILTERS as usize * size_of::<Element>()).unwrap();

// The kernel puts elements next to each other, each of a multiple of eight bytes.
const _: () = assert!(size_of::<Element>() == FILTER_PLACES && FILTER_PLACES.is_multiple_of(8));

// SAFETY: the memory belongs to the value alone, and is only accessed by atomic operations.
unsafe impl Send for FlowFilter {}
// SAFETY: as above.
unsafe impl Sync for FlowFilter {}

impl FlowFilter {
    pub(super) fn map(ebpf: &Ebpf) -> anyhow::Result<Self> {
        let map = map_data(ebpf, "flow_filter")?;
        // SAFETY: a new mapping of the whole map, which lives on with it when its descriptor is closed.
        let memory = unsafe {
            mmap(
                None,
                LEN,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        };
        Ok(Self { memory: memory.context("mapping flow_filter into memory")?.cast() })
    }

    /// Empties the element that programs use in that state of the gate, which it must not be in.
    pub(super) fn clear(&self, state: u32) {
        self.places(state).iter().for_each(|place| place.store(0, Ordering::Relaxed));
        // Before any flow is looked for.
        fence(Ordering::SeqCst);
    }

    /// Says in it that there is a flow at this place.
    pub(super) fn mark(&self, state: u32, place: u32) {
        if let Some(place) = self.places(state).get(place as usize) {
            place.store(1, Ordering::Relaxed);
        }
    }

    /// Whether the programs would look for flows there.
    #[cfg(test)]
    pub(super) fn is_marked(&self, state: u32, place: u32) -> bool {
        self.places(state)[place as usize].load(Ordering::Relaxed) != 0
    }

    fn places(&self, state: u32) -> &[AtomicU8] {
        let element = FlowGate { state }.filter().min(FILTERS - 1);
        let first = element as usize * FILTER_PLACES;
        // SAFETY: within the mapping, which lives as long as the value; programs and other processes write whole bytes.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(first), FILTER_PLACES) }
    }
}

impl Drop for FlowFilter {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more. It cannot fail: these are its own bounds.
        let _ = unsafe { munmap(self.memory.cast(), LEN.get()) };
    }
}
