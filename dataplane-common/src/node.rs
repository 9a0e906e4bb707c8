use crate::plain_old_data;

/// Value of the maps `nodes4` and `nodes6`: a peer node that may send through the overlay. The key is its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct NodeEntry {
    /// Where the tunnel to this address stands in the map `tunnels`; 0 where there is none.
    pub tunnel: u32,
}

plain_old_data!(NodeEntry);
