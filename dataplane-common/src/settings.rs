use crate::{Ip4, Ip6, plain_old_data};

/// How many distinct prefix lengths of peer pod CIDRs the programs try, per family.
pub const PREFIX_LENGTHS: usize = 4;

/// The one value of the map `settings`: what the programs need to know that changes while they run.
///
/// Each field stands for itself: a program that reads while the agent writes sees old or new ones, and at worst
/// passes a packet to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Settings {
    /// The distinct prefix lengths in `routes4`, longest first; 0 ends the list.
    pub prefix_lens4: [u8; PREFIX_LENGTHS],
    /// The distinct prefix lengths in `routes6`, longest first; 0 ends the list.
    pub prefix_lens6: [u8; PREFIX_LENGTHS],
    /// This node's IPv4 address, where overlay frames to it end; zero where it has none.
    pub node4: Ip4,
    /// This node's IPv6 address, likewise.
    pub node6: Ip6,
    /// MAC addresses of the uplinks that XDP runs at: frames to others are not this host's. Zero where there is none.
    pub uplink_macs: [[u8; 6]; UPLINK_MACS],
}

/// How many uplinks XDP can run at.
pub const UPLINK_MACS: usize = 2;

plain_old_data!(Settings);

const _: () = assert!(size_of::<Settings>() == 40);
