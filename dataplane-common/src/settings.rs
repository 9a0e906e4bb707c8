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
    /// The prefix length of those IPv4 routes that are in slots as well; 0 where none is.
    pub slot_prefix_len4: u8,
    /// How many of the address's first bits say the slot, by their last ones: `slot_prefix_len4`, or fewer where the
    /// last bits of all those prefixes are the same.
    pub slot_bits4: u8,
    /// `slot_prefix_len4` for IPv6.
    pub slot_prefix_len6: u8,
    /// `slot_bits4` for IPv6: 48 for fd00:244:1::/64, fd00:244:2::/64 and so on.
    pub slot_bits6: u8,
    /// [`ALL_PODS`], [`ALL_ROUTES`]: what need not be looked for in the IPv4 hashes when the slots do not have it.
    pub all_slots4: u32,
    /// The same for IPv6.
    pub all_slots6: u32,
    /// This node's IPv4 address, where overlay frames to it end; zero where it has none.
    pub node4: Ip4,
    /// This node's IPv6 address, likewise.
    pub node6: Ip6,
    /// MAC addresses of the uplinks that XDP runs at: frames to others are not this host's. Zero where there is none.
    pub uplink_macs: [[u8; 6]; UPLINK_MACS],
}

/// Every entry of `pods4` (`pods6`) is in its slot as well: an address that is not there is no pod's.
pub const ALL_PODS: u32 = 1;

/// Every entry of `routes4` (`routes6`) is in its slot as well.
pub const ALL_ROUTES: u32 = 2;

/// How many uplinks XDP can run at.
pub const UPLINK_MACS: usize = 2;

plain_old_data!(Settings);

const _: () = assert!(size_of::<Settings>() == 52);
