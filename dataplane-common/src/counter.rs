use crate::{VERDICTS, Verdict, plain_old_data};

/// Where a program is attached. The number selects its block in the map `counters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Hook {
    /// tc ingress of a pod's host-side interface.
    FromPod = 0,
    /// tc ingress of an uplink.
    FromWire = 1,
    /// tc ingress of the overlay device.
    FromOverlay = 2,
    /// XDP of an uplink.
    XdpFromWire = 3,
    /// tc egress of a pod's host-side interface.
    ToPod = 4,
    /// tc egress of an uplink and of the overlay device.
    ToWire = 5,
    /// netfilter, behind source NAT: whatever the kernel's stack sends.
    PostRouting = 6,
}

impl Hook {
    /// Every hook, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::FromPod,
        Self::FromWire,
        Self::FromOverlay,
        Self::XdpFromWire,
        Self::ToPod,
        Self::ToWire,
        Self::PostRouting,
    ];

    /// The name in the CLI and in metrics, which is the program's name as well.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::FromWire => "from_wire",
            Self::FromOverlay => "from_overlay",
            Self::XdpFromWire => "xdp_from_wire",
            Self::ToPod => "to_pod",
            Self::ToWire => "to_wire",
            Self::PostRouting => "post_routing",
        }
    }
}

/// Number of elements of the map `counters`: a block of [`VERDICTS`] for each of up to eight hooks.
pub const COUNTERS: u32 = 8 * VERDICTS;

/// Index into the map `counters`.
#[inline(always)]
#[must_use]
pub const fn counter_index(hook: Hook, verdict: Verdict) -> u32 {
    hook as u32 * VERDICTS + verdict.number()
}

/// Value of the map `counters`, one for each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Counter {
    /// Packets; a GSO or GRO packet counts once.
    pub packets: u64,
    /// Bytes of those packets, from the Ethernet header on.
    pub bytes: u64,
}

plain_old_data!(Counter);

const _: () = assert!(Hook::ALL.len() * VERDICTS as usize <= COUNTERS as usize);
