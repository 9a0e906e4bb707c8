//! What the Podlane programs and the agent share: map keys and values, verdicts, drop reasons, hooks.
//!
//! Everything here is plain old data without padding, laid out the same for the BPF target and for the host, and
//! is a promise to operators who read the maps with bpftool: `docs/maps.md` documents it, `LAYOUT` numbers it.
#![cfg_attr(not(test), no_std)]

mod address;
pub mod bench;
mod counter;
mod flow;
mod node;
mod pod;
mod route;
mod settings;
mod slot;
mod tunnel;
mod verdict;

pub use address::{Address, Ip4, Ip6};
pub use counter::{COUNTERS, Counter, Hook, counter_index};
pub use flow::{
    FILTER_PLACES, FILTERS, FlowEntry, FlowFilter, FlowGate, FlowKey, MARK_FORWARDED, MARK_MASK,
    MARK_POD_TO_POD, filter_place,
};
pub use node::NodeEntry;
pub use pod::PodEntry;
pub use route::{NextHopKind, RouteEntry, RouteKey, overlay_mac};
pub use settings::{ALL_PODS, ALL_ROUTES, PREFIX_LENGTHS, Settings, UPLINK_MACS};
pub use slot::{POD_SLOTS, PodSlot, ROUTE_SLOTS, RouteSlot, pod_slot, route_slot};
pub use tunnel::TunnelEntry;
pub use verdict::{DropReason, Forwarded, PassReason, VERDICTS, Verdict};

/// The map layout: maps and links are pinned under a folder of this name. A change to a key, a value or a map's
/// type that an older program or agent would misread gets a new one. An agent takes over what it finds under another
/// layout's name, which is always `v` and a number.
pub const LAYOUT: &str = if cfg!(feature = "other-version") { "v999" } else { "v2" };

/// Marks types whose bytes may be copied to and from a map: no padding, no invalid bit patterns.
///
/// `bytemuck::Pod`'s derive proves both at compile time (it rejects padding); aya's own marker follows from it.
macro_rules! plain_old_data {
    ($($type:ty),+ $(,)?) => {$(
        // SAFETY: the type is `repr(C)`, `Copy` and bytemuck's derive has proved it free of padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type where $type: bytemuck::Pod {}
    )+};
}
pub(crate) use plain_old_data;
