use crate::plain_old_data;

/// Value of the maps `nodes4` and `nodes6`: a peer node that may send through the overlay. The key is its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct NodeEntry {
    /// A number that the agent gives each node, for its own use.
    pub id: u32,
}

plain_old_data!(NodeEntry);
