//! What the kernel's stack sends, as a program of netfilter sees it (`BPF_PROG_TYPE_NETFILTER`, Linux 6.4, commit
//! fd9c663b9ad6): packets that programs have redirected never come here, so noting flows costs them nothing.

use aya_ebpf::Global;

use crate::{context::Readable, frame::ETHERNET_LEN, kernel::read};

/// `sk_buff.len`: where the kernel has what is read of a packet; the agent finds it out from the kernel's BTF.
#[unsafe(no_mangle)]
pub static SKB_LEN_OFFSET: Global<u32> = Global::new(0);
/// `sk_buff.data_len`.
#[unsafe(no_mangle)]
pub static SKB_DATA_LEN_OFFSET: Global<u32> = Global::new(0);
/// `sk_buff.mark`.
#[unsafe(no_mangle)]
pub static SKB_MARK_OFFSET: Global<u32> = Global::new(0);
/// `sk_buff.data`, a pointer.
#[unsafe(no_mangle)]
pub static SKB_DATA_OFFSET: Global<u32> = Global::new(0);

/// `struct bpf_nf_ctx` (`linux/netfilter.h`).
#[repr(C)]
pub struct NetfilterContext {
    state: *const u8,
    skb: *const u8,
}

/// A packet at one of netfilter's hooks. Offsets and sizes are as if its Ethernet header were in front of it, as they
/// are elsewhere.
///
/// Only its linear part can be read. All headers are there in packets that the stack has rewritten: netfilter's NAT and
/// IPVS make them writable (`skb_ensure_writable`), which is to pull them there.
pub struct Sent {
    data: *const u8,
    /// The linear part, in bytes.
    linear: u32,
    len: u32,
    /// `skb->mark`.
    pub mark: u32,
}

impl Sent {
    /// The program's packet.
    ///
    /// # Safety
    /// `ctx` is the context that the kernel has called the program with.
    #[inline(always)]
    #[must_use]
    pub unsafe fn of(ctx: *const NetfilterContext) -> Self {
        // SAFETY: the caller's promise.
        let skb = unsafe { (*ctx).skb };
        // SAFETY: by the caller's promise a packet's structure, of which these are whole members.
        unsafe {
            let len: u32 = member(skb, &SKB_LEN_OFFSET);
            Self {
                data: member(skb, &SKB_DATA_OFFSET),
                linear: len.wrapping_sub(member(skb, &SKB_DATA_LEN_OFFSET)),
                len,
                mark: member(skb, &SKB_MARK_OFFSET),
            }
        }
    }
}

/// A member of the packet's structure. The verifier lets programs of netfilter read it as it is, where it knows the offset:
/// the agent's constants are read-only. No helper is called.
///
/// # Safety
/// There is a `T` at this offset of the structure.
#[inline(always)]
unsafe fn member<T>(skb: *const u8, offset: &Global<u32>) -> T {
    // SAFETY: the caller's promise; the kernel's structures are aligned.
    unsafe { skb.add(offset.load() as usize).cast::<T>().read() }
}

impl Readable for Sent {
    #[inline(always)]
    fn size(&self) -> u32 {
        self.len + ETHERNET_LEN as u32
    }

    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let offset = offset.checked_sub(ETHERNET_LEN)? as u32;
        if offset + size_of::<T>() as u32 > self.linear {
            return None;
        }
        read(self.data, offset)
    }
}
