use crate::{Ip4, Ip6, plain_old_data};

/// Key of the maps `stack_flows4` and `stack_flows6`: a pod-to-pod flow that has to go through the kernel's stack,
/// because the stack has seen (and may have rewritten) packets of its other direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Zeroable))]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source and destination port as they stand in the packet, network byte order; zero where there are none.
    pub ports: [[u8; 2]; 2],
    /// Protocol number (IANA).
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl<A: Copy> FlowKey<A> {
    /// The flow in the other direction.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        let [source_port, destination_port] = self.ports;
        Self {
            source: self.destination,
            destination: self.source,
            ports: [destination_port, source_port],
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }
}

/// Value of the maps `stack_flows4` and `stack_flows6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FlowEntry {
    /// Something that this version does not know, in the other one's tests.
    #[cfg(feature = "other-version")]
    pub unknown: u64,
    /// When a packet of either direction was last seen, to a second: `CLOCK_MONOTONIC`, in nanoseconds.
    pub last_seen: u64,
}

impl FlowEntry {
    /// A packet has just been seen.
    #[inline(always)]
    #[must_use]
    pub const fn seen(now: u64) -> Self {
        Self {
            #[cfg(feature = "other-version")]
            unknown: 0,
            last_seen: now,
        }
    }
}

/// The one value of the map `flow_gate`: whether there may be entries in `stack_flows4` or `stack_flows6`. While it is
/// shut the programs look for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FlowGate {
    /// 1 while there may be entries, else 0. The programs set it, the agent clears it. [`FlowGate::ALL`] while an agent
    /// takes over from one with another map layout.
    pub open: u32,
}

impl FlowGate {
    /// Every flow between pods goes through the stack: some programs still note flows in maps of another layout, which
    /// those at ingress cannot read.
    pub const ALL: u32 = 2;
}

/// The bits of `skb->mark` by which the programs at ingress speak to those at egress. They are none of those that
/// kube-proxy (0xc000), portmap (0x2000), Cilium (0x0f00), Calico or Tailscale (above 0xffff) use, and never leave the
/// node.
pub const MARK_MASK: u32 = 0x30;

/// [`MARK_MASK`] of packets that a program has forwarded towards an uplink: the stack has not seen them.
pub const MARK_FORWARDED: u32 = 0x10;

/// [`MARK_MASK`] of packets that went into the stack from a pod to a pod already: the stack has not made them so.
pub const MARK_POD_TO_POD: u32 = 0x20;

/// The derive of `Pod` does not do generic types: the two that exist, with their sizes checked below.
macro_rules! without_padding {
    ($($type:ty),+) => {$(
        // SAFETY: `repr(C)`, two addresses of size 4 or 16 with alignment 4, then eight bytes: there is no padding.
        #[cfg(feature = "user")]
        unsafe impl bytemuck::Pod for $type {}
    )+};
}
without_padding!(FlowKey<Ip4>, FlowKey<Ip6>);
plain_old_data!(FlowKey<Ip4>, FlowKey<Ip6>, FlowEntry, FlowGate);

const _: () = assert!(size_of::<FlowKey<Ip4>>() == 16 && size_of::<FlowKey<Ip6>>() == 40);
