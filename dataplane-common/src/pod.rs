use crate::plain_old_data;

/// Value of the maps `pods4` and `pods6`: how a packet reaches a pod on this node. The key is the pod's address.
///
/// The two MAC addresses stand in the order of an Ethernet header, so that a program writes them in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct PodEntry {
    /// Index of the pod's host-side interface.
    pub ifindex: u32,
    /// MAC address of the pod's interface: the destination of frames to it, the only source it may use.
    pub mac: [u8; 6],
    /// MAC address of the host-side interface: the source of frames to the pod.
    pub host_mac: [u8; 6],
}

plain_old_data!(PodEntry);

const _: () = assert!(size_of::<PodEntry>() == 16 && align_of::<PodEntry>() == 4);
