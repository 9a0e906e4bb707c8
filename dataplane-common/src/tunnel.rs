use crate::plain_old_data;

/// Value of the map `tunnels`: how the overlay's packets leave for a peer node, as `from_pod` makes them itself. The
/// first element stands for no tunnel.
///
/// The agent writes all of it but the last two fields, which `from_wire` writes and the agent clears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct TunnelEntry {
    /// Index of the uplink; 0 in an element that is not in use.
    pub ifindex: u32,
    /// Kind of the next hop: `NextHopKind::Direct4` or `Direct6`.
    pub kind: u16,
    /// Zero.
    pub reserved: u16,
    /// This node's address, the outer packets' source: as `RouteEntry::next_hop`.
    pub source: [u8; 16],
    /// The peer node's address, or that of the router in front of it: as `RouteEntry::next_hop`.
    pub next_hop: [u8; 16],
    /// The largest inner IP packet, in bytes, that a router on the way has let through; 0 where none has complained.
    pub path_mtu: u32,
    /// Zero.
    pub reserved2: u32,
    /// When a router complained last: `CLOCK_MONOTONIC`, in nanoseconds.
    pub learned: u64,
}

plain_old_data!(TunnelEntry);

const _: () = assert!(size_of::<TunnelEntry>() == 56 && align_of::<TunnelEntry>() == 8);
