//! What the benches tell their own programs (`dataplane-ebpf/src/floors`); no node runs those.

use crate::plain_old_data;

/// A row of addresses, in host byte order: the packets take one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Series {
    /// The first address; IPv4 is the last word alone.
    pub first: [u32; 4],
    /// How many there are, at least 1.
    pub count: u32,
    /// What the second word grows by from one to the next: peer nodes' IPv6 pod CIDRs.
    pub step_prefix: u32,
    /// What the last word grows by.
    pub step_host: u32,
}

/// The one value of the map `scenario`: the packets that a measured program is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Scenario {
    /// Packets so far.
    pub counter: u32,
    /// One less than the number of flows, a power of two: source ports are numbered by it.
    pub flow_mask: u32,
    /// Both MAC addresses of the frame, as they stand in it.
    pub macs: [u32; 3],
    /// The overlay's network identifier, where the overlay device has received it.
    pub vni: u32,
    /// The node that it came from then, an IPv4 address in host byte order.
    pub peer: u32,
    /// The word of the IP header with TTL and checksum (IPv4), next header and hop limit (IPv6), as it stands there.
    pub hop: u32,
    /// Source addresses.
    pub source: Series,
    /// Destination addresses.
    pub destination: Series,
}

/// Where the program `floor_forward` sends what is for an address. It finds the entry by the address's last bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct FloorHop {
    /// The IPv4 address, in host byte order; others with the same last bits are left to the kernel.
    pub address: u32,
    /// The host-side interface of a local pod; the uplink for a pod of another node.
    pub ifindex: u32,
    /// Both MAC addresses of the frame, as they stand in it, for a pod of another node; zero for a local one.
    pub macs: [u32; 3],
}

impl FloorHop {
    /// How many entries there are: places for the addresses of four pod CIDRs of 256.
    pub const PLACES: u32 = 1024;

    /// The place of an address, in host byte order.
    #[must_use]
    pub const fn place(address: u32) -> u32 {
        address & (Self::PLACES - 1)
    }
}

plain_old_data!(Series, Scenario, FloorHop);

const _: () = assert!(size_of::<Scenario>() == 88);
