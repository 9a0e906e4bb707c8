//! A frame's headers, read and written in place, within bounds that were checked once.

use core::{
    marker::PhantomData,
    mem::{offset_of, size_of},
};

/// An Ethernet header (IEEE 802.3).
#[repr(C)]
pub struct EthernetHeader {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// EtherType, network byte order.
    pub ether_type: u16,
}

/// Length of an Ethernet header in bytes.
pub const ETHERNET_LEN: usize = size_of::<EthernetHeader>();

const _: () = assert!(ETHERNET_LEN == 14 && offset_of!(EthernetHeader, source) == 6);

/// A frame whose Ethernet header and header `H` behind it lie within the packet: checked once, when it is made.
///
/// Any helper that may move the packet's data ends its life; the verifier refuses programs that forget this.
pub struct Frame<H> {
    start: *mut u8,
    header: PhantomData<H>,
}

impl<H> Frame<H> {
    /// Bytes of the frame up to the end of `H`.
    pub const HEAD_LEN: usize = ETHERNET_LEN + size_of::<H>();

    /// The frame `base` bytes behind `start`, if its headers end before `end`.
    #[inline(always)]
    pub(crate) fn within(start: usize, end: usize, base: usize) -> Option<Self> {
        let start = start + base;
        (start + Self::HEAD_LEN <= end).then_some(Self { start: start as *mut u8, header: PhantomData })
    }

    /// The Ethernet header.
    #[inline(always)]
    #[must_use]
    pub fn ethernet(&self) -> *mut EthernetHeader {
        self.start.cast()
    }

    /// The header behind the Ethernet header.
    ///
    /// The BPF target and the verifier (`NET_IP_ALIGN`) take an IP header for aligned to four bytes, and the machines
    /// that the kernel's JIT knows load words from any address.
    #[inline(always)]
    #[must_use]
    pub fn header(&self) -> *mut H {
        self.start.wrapping_add(ETHERNET_LEN).cast()
    }
}

/// Whether two MAC addresses are the same, the first one in a packet: compared as words, not byte by byte.
///
/// # Safety
/// `packet` points to six readable bytes at an even address, and so does `known`.
#[inline(always)]
pub unsafe fn same_mac(packet: *const [u8; 6], known: &[u8; 6]) -> bool {
    let (packet, known) = (packet.cast::<u16>(), core::ptr::from_ref(known).cast::<u16>());
    // SAFETY: six bytes at even addresses, by the caller's promise.
    unsafe {
        packet.read() == known.read()
            && packet.add(1).read() == known.add(1).read()
            && packet.add(2).read() == known.add(2).read()
    }
}
