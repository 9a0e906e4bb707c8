//! Listing thousands of routes: each is read out of the kernel's answer as it comes, so that the whole answer is never
//! in memory.

use std::io;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What the kernel puts into one piece of its answer at most.
const PIECE: usize = 32 << 10;

/// Calls `take` for each route that the kernel has of the kind of `filter`. On a socket of its own, in the calling
/// thread's network namespace.
pub(super) fn routes(filter: RouteMessage, mut take: impl FnMut(&RouteMessage)) -> io::Result<()> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(filter));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut buffer = vec![0; request.buffer_len()];
    request.serialize(&mut buffer);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // The kernel applies the filter, instead of ignoring it.
    socket.set_netlink_get_strict_chk(true)?;
    socket.send_to(&buffer, &SocketAddr::new(0, 0), 0)?;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        socket.recv(&mut piece, 0)?;
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => take(&route),
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(()),
                NetlinkPayload::Done(done) => return Err(io::Error::from_raw_os_error(-done.code)),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of four bytes.
            let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
