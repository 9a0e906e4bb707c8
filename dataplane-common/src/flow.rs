use crate::{Address, Ip4, Ip6, plain_old_data};

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
    /// [`Self::SHUT`] while there are no entries; the programs set [`Self::FIRST`] when they enter one, all else is the
    /// agent's to set.
    pub state: u32,
}

impl FlowGate {
    /// There are no such flows.
    pub const SHUT: u32 = 0;
    /// There may be such flows: where the first filter says so.
    pub const FIRST: u32 = 1;
    /// Every flow between pods goes through the stack, while an agent takes over from one with another map layout: some
    /// programs still note flows in maps which those at ingress cannot read.
    pub const ALL: u32 = 2;
    /// There may be such flows: where the second filter says so.
    pub const SECOND: u32 = 3;

    /// The element of `flow_filter` that is in use.
    #[inline(always)]
    #[must_use]
    pub const fn filter(self) -> u32 {
        self.state >> 1
    }
}

/// How many filters there are: the elements of `flow_filter`.
pub const FILTERS: u32 = 2;

/// How many places a filter has.
pub const FILTER_PLACES: usize = 1 << 16;

/// Value of the map `flow_filter`: between which two pods there may be entries in `stack_flows4` or `stack_flows6`. What
/// is nowhere here need not be looked for there, where a look-up costs more the more flows there are.
///
/// The programs mark both elements behind each entry that they make. The agent empties the one that is not in use, marks
/// in it what is in the maps, and has the programs use it: no entry is ever missing in the one that they use.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FlowFilter {
    /// 1 where there may be flows, else 0; [`filter_place`] says where.
    pub places: [u8; FILTER_PLACES],
}

/// The place of the flows with these addresses, below [`FILTER_PLACES`]; others may have the same. Without ports, so that
/// all fragments of a packet have it.
#[inline(always)]
pub fn filter_place<A: Address>(source: A, destination: A) -> u32 {
    // What differs in few bits is to differ in the first ones of a product: a part of 2³² as the golden ratio's (Knuth, The
    // Art of Computer Programming, volume 3, 6.4), and a factor of MurmurHash3's finalizer (Appleby, fmix32).
    (source.folded().wrapping_mul(0x9e37_79b1) ^ destination.folded()).wrapping_mul(0x85eb_ca6b) >> 16
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
plain_old_data!(FlowKey<Ip4>, FlowKey<Ip6>, FlowEntry, FlowGate, FlowFilter);

const _: () = assert!(size_of::<FlowKey<Ip4>>() == 16 && size_of::<FlowKey<Ip6>>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many places that pairs of pods have, how many are taken by chance.
    fn share(pairs: &[(Ip4, Ip4)]) -> f64 {
        let places: std::collections::BTreeSet<u32> =
            pairs.iter().map(|(source, destination)| filter_place(*source, *destination)).collect();
        places.len() as f64 / pairs.len() as f64
    }

    #[test]
    fn pairs_of_pods_are_spread_over_the_filter() {
        let pod = |node: u8, pod: u8| Ip4 { addr: [10, 244, node, pod] };
        // A node's pods and those of sixteen others: 16,000 pairs among 65,536 places. By chance alone, 0.89 would be left.
        let pairs: Vec<_> = (2..102)
            .flat_map(|own| {
                (1..17).flat_map(move |node| (2..12).map(move |other| (pod(0, own), pod(node, other))))
            })
            .collect();
        assert!(share(&pairs) > 0.8, "{}", share(&pairs));
        let back: Vec<_> = pairs.iter().map(|(one, other)| (*other, *one)).collect();
        assert!(share(&back) > 0.8, "{}", share(&back));
        assert!(pairs.iter().all(|(one, other)| (filter_place(*one, *other) as usize) < FILTER_PLACES));
    }

    #[test]
    fn ipv6_pods_are_spread_as_well() {
        let pod =
            |node: u16, pod: u16| Ip6::from(core::net::Ipv6Addr::new(0xfd00, 0x244, node, 0, 0, 0, 0, pod));
        let places: std::collections::BTreeSet<u32> = (2..102)
            .flat_map(|own| (1..101).map(move |node| filter_place(pod(0, own), pod(node, 2))))
            .collect();
        assert!(places.len() > 8_000, "{} of 10,000", places.len());
    }
}
