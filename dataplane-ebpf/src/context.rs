//! What the kinds of programs have in common: a packet and its length.

use core::{hint::cold_path, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_csum_update, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};

use crate::frame::Frame;

/// A packet that can be read.
pub trait Readable {
    /// The whole length in bytes, from the Ethernet header on.
    fn size(&self) -> u32;

    /// Some bytes, copied; `None` where the packet is too short. For cold paths: it does not end a [`Frame`]'s life.
    fn load<T: Copy>(&self, offset: usize) -> Option<T>;
}

/// A packet as a program that may forward it is given it.
pub trait Packet: Readable {
    /// Whether no other program of ours sees the packet after this one has passed it: rare cases are then for this
    /// one.
    const LAST: bool;

    /// The frame that starts `base` bytes into the packet; `None` where it is shorter than its headers.
    fn frame<H>(&self, base: usize) -> Option<Frame<H>>;

    /// Tells that the sum over the packet has changed by so much (one's complement), where hardware has worked it out
    /// (`CHECKSUM_COMPLETE`).
    fn sum_changed(&self, by: u32);
}

impl Readable for TcContext {
    #[inline(always)]
    fn size(&self) -> u32 {
        self.skb.len()
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        self.skb.load(offset).ok()
    }
}

impl Packet for TcContext {
    const LAST: bool = true;

    /// Headers that are split over fragments are rare (GRO by some drivers); only those pay for pulling them together.
    #[inline(always)]
    fn frame<H>(&self, base: usize) -> Option<Frame<H>> {
        Frame::within(self.data(), self.data_end(), base).or_else(|| {
            cold_path();
            self.pull_data((base + Frame::<H>::HEAD_LEN) as u32).ok()?;
            Frame::within(self.data(), self.data_end(), base)
        })
    }

    #[inline(always)]
    fn sum_changed(&self, by: u32) {
        // SAFETY: a helper call on the program's own context; it fails where nothing was worked out.
        unsafe { bpf_csum_update(self.skb.skb, by) };
    }
}

impl Readable for XdpContext {
    #[inline(always)]
    fn size(&self) -> u32 {
        // SAFETY: a helper call on the program's own context (Linux 5.18; multi-buffer frames are longer than their
        // first part).
        unsafe { bpf_xdp_get_buff_len(self.as_ptr().cast()) as u32 }
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes as many bytes as the type has, or fails (Linux 5.18).
        unsafe {
            let to = value.as_mut_ptr().cast();
            let result = bpf_xdp_load_bytes(self.as_ptr().cast(), offset as u32, to, size_of::<T>() as u32);
            if result == 0 { Some(value.assume_init()) } else { None }
        }
    }
}

impl Packet for XdpContext {
    const LAST: bool = false;

    /// Headers lie in the first part of a multi-buffer frame; one that is split is left to the kernel.
    #[inline(always)]
    fn frame<H>(&self, base: usize) -> Option<Frame<H>> {
        Frame::within(self.data(), self.data_end(), base)
    }

    /// There is no skb yet that could hold such a sum.
    #[inline(always)]
    fn sum_changed(&self, _by: u32) {}
}
