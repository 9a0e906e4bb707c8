use crate::plain_old_data;

/// How many distinct prefix lengths of peer pod CIDRs the programs try, per family.
pub const PREFIX_LENGTHS: usize = 4;

/// The one value of the map `settings`: what the programs need to know that changes while they run.
///
/// Each byte stands for itself: a program that reads while the agent writes sees old or new bytes, and at worst
/// passes a packet to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct Settings {
    /// The distinct prefix lengths in `routes4`, longest first; 0 ends the list.
    pub prefix_lens4: [u8; PREFIX_LENGTHS],
    /// The distinct prefix lengths in `routes6`, longest first; 0 ends the list.
    pub prefix_lens6: [u8; PREFIX_LENGTHS],
}

plain_old_data!(Settings);

const _: () = assert!(size_of::<Settings>() == 8);
