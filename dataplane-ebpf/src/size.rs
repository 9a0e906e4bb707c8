//! Does a packet fit the next hop's MTU?

use aya_ebpf::programs::TcContext;

use crate::{
    family::Family,
    frame::{ETHERNET_LEN, Frame},
    transport::protocol,
};

/// Whether the packet, or each segment that a GSO packet will be cut into, is at most `mtu` bytes of IP.
#[inline(always)]
pub fn fits<F: Family>(ctx: &TcContext, header: &F, mtu: u32) -> bool {
    if ctx.len() <= mtu + ETHERNET_LEN as u32 {
        return true;
    }
    // SAFETY: a field of the program's context.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    if gso_size == 0 {
        return false;
    }
    let transport_len = match header.protocol() {
        protocol::TCP => match tcp_header_len(ctx, Frame::<F>::HEAD_LEN) {
            Some(len) => len,
            None => return false,
        },
        protocol::UDP => 8,
        // Segments of other kinds (SCTP, tunnels) are the kernel's to size up.
        _ => return false,
    };
    size_of::<F>() as u32 + transport_len + gso_size <= mtu
}

/// Length of the TCP header that starts at `offset` (RFC 9293: the data offset, in words).
#[inline(always)]
fn tcp_header_len(ctx: &TcContext, offset: usize) -> Option<u32> {
    const DATA_OFFSET: usize = 12;
    let byte: u8 = ctx.load(offset + DATA_OFFSET).ok()?;
    Some(u32::from(byte >> 4) * 4)
}
