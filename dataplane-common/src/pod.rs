use crate::plain_old_data;

/// Value of the maps `pods4` and `pods6`: how a packet reaches a pod on this node. The key is the pod's address.
///
/// The two MAC addresses stand in the order of an Ethernet header, so that a program writes them in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct PodEntry {
    /// Index of the pod's host-side interface.
    #[cfg(not(feature = "other-version"))]
    pub ifindex: u32,
    /// Something else in its place, so that mixing the layouts up shows.
    #[cfg(feature = "other-version")]
    pub unknown: u32,
    /// MAC address of the pod's interface: the destination of frames to it, the only source it may use.
    pub mac: [u8; 6],
    /// MAC address of the host-side interface: the source of frames to the pod.
    pub host_mac: [u8; 6],
    /// Index of the pod's host-side interface.
    #[cfg(feature = "other-version")]
    pub ifindex: u32,
}

impl PodEntry {
    /// From its parts.
    #[must_use]
    pub const fn new(ifindex: u32, mac: [u8; 6], host_mac: [u8; 6]) -> Self {
        Self {
            #[cfg(feature = "other-version")]
            unknown: u32::MAX,
            ifindex,
            mac,
            host_mac,
        }
    }
}

plain_old_data!(PodEntry);

#[cfg(not(feature = "other-version"))]
const _: () = assert!(size_of::<PodEntry>() == 16 && align_of::<PodEntry>() == 4);
