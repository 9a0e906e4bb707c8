//! UDP: datagrams that are echoed, whole and in fragments, and what the network says about those it cannot deliver.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, cmsg_space, recvmsg, setsockopt,
    sockopt::{Ipv4RecvErr, Ipv4Ttl, Ipv6RecvErr, Ipv6Ttl},
};
use std::os::fd::AsRawFd as _;

use super::path::{PATIENCE, Path};

/// Datagrams of one probe.
const ROUNDS: u8 = 8;
/// Bytes of one that goes in fragments through any network with less than jumbo frames.
const LARGE: usize = 4000;

/// Small datagrams there and back; gives the client's address as the server sees it.
pub fn small(path: &Path<'_>) -> anyhow::Result<IpAddr> {
    echo(path, 300)
}

/// Datagrams larger than the MTU, there and back; gives the client's address as the server sees it.
pub fn fragments(path: &Path<'_>) -> anyhow::Result<IpAddr> {
    echo(path, LARGE)
}

/// A server and a client connected to it, so that it hears from nobody else.
fn pair(path: &Path<'_>) -> anyhow::Result<(UdpSocket, UdpSocket)> {
    let server = path.server.run(|| UdpSocket::bind(path.listen))?;
    let server = server.with_context(|| format!("binding {} in {}", path.listen, path.server.name()))?;
    let client = connected(path, path.target(server.local_addr()?))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    Ok((server, client))
}

fn connected(path: &Path<'_>, target: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = path.client.run(|| {
        let socket = UdpSocket::bind(path.bind_address())?;
        socket.connect(target)?;
        Ok::<_, std::io::Error>(socket)
    })?;
    socket.with_context(|| format!("a UDP socket to {target} in {}", path.client.name()))
}

fn echo(path: &Path<'_>, size: usize) -> anyhow::Result<IpAddr> {
    let (server, client) = pair(path)?;
    let mut seen = None;
    let mut buffer = vec![0; 1 << 16];
    for round in 0..ROUNDS {
        let message: Vec<u8> =
            (0..size).map(|index| round ^ u8::try_from(index % 251).unwrap_or(0)).collect();
        client.send(&message).with_context(|| format!("sending datagram {round}"))?;
        let (length, source) =
            server.recv_from(&mut buffer).with_context(|| format!("datagram {round} at the server"))?;
        ensure!(buffer.get(..length) == Some(&message[..]), "datagram {round} arrived changed");
        ensure!(seen.is_none_or(|seen| seen == source), "the server sees {source} after {seen:?}");
        seen = Some(source);
        server.send_to(&message, source).with_context(|| format!("echoing datagram {round}"))?;
        let length = client.recv(&mut buffer).with_context(|| format!("echo of datagram {round}"))?;
        ensure!(buffer.get(..length) == Some(&message[..]), "the echo of datagram {round} arrived changed");
    }
    seen.map(|source| source.ip()).context("no datagrams were sent")
}

/// What the network said about a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The error that a socket's user gets.
    pub error: Errno,
    /// For a datagram that was too big, the MTU; else 0.
    pub info: u32,
    /// Who said it; none where it was the client's own kernel.
    pub offender: Option<IpAddr>,
    /// ICMP type and code.
    pub icmp: (u8, u8),
}

/// Path MTU discovery by the book: "don't fragment", and never more than the path is known to take.
fn dont_fragment(socket: &UdpSocket, v4: bool) -> anyhow::Result<()> {
    let (level, option, value) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    let length = libc::socklen_t::try_from(size_of_val(&value))?;
    // SAFETY: an open socket, and an option whose value is an int that lives for the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    Errno::result(result).context("asking for path MTU discovery").map(|_| ())
}

/// Sends a datagram of `size` bytes, with that TTL or hop limit, not to be fragmented, and waits for what the network
/// says about it. `None` where nobody says anything: `reached` tells, asked again and again, that it has arrived.
pub fn refusal(
    path: &Path<'_>,
    target: SocketAddr,
    size: usize,
    ttl: Option<u8>,
    reached: impl Fn() -> bool,
) -> anyhow::Result<Option<Refusal>> {
    let socket = listening_to_errors(path, target, ttl)?;
    send(&socket, target, size)?;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(refusal) = queued(&socket, target.is_ipv4())? {
            return Ok(Some(refusal));
        }
        if reached() {
            return Ok(None);
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "{size} bytes to {target} from {}: neither arrived nor refused",
            path.client.name(),
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// The same, but the network may be slow to learn: what gets lost, or arrives all the same, is sent again until
/// somebody says something.
pub fn refusal_in_time(path: &Path<'_>, target: SocketAddr, size: usize) -> anyhow::Result<Refusal> {
    let socket = listening_to_errors(path, target, None)?;
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < deadline {
        send(&socket, target, size)?;
        for _ in 0..50 {
            if let Some(refusal) = queued(&socket, target.is_ipv4())? {
                return Ok(refusal);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    bail!("{size} bytes to {target} from {}: never refused", path.client.name())
}

/// A socket that does path MTU discovery and keeps what the network says.
fn listening_to_errors(path: &Path<'_>, target: SocketAddr, ttl: Option<u8>) -> anyhow::Result<UdpSocket> {
    let socket = connected(path, target)?;
    dont_fragment(&socket, target.is_ipv4())?;
    let ttl = ttl.map(i32::from);
    if target.is_ipv4() {
        setsockopt(&socket, Ipv4RecvErr, &true)?;
        ttl.map(|ttl| setsockopt(&socket, Ipv4Ttl, &ttl)).transpose()?;
    } else {
        setsockopt(&socket, Ipv6RecvErr, &true)?;
        ttl.map(|ttl| setsockopt(&socket, Ipv6Ttl, &ttl)).transpose()?;
    }
    Ok(socket)
}

fn send(socket: &UdpSocket, target: SocketAddr, size: usize) -> anyhow::Result<()> {
    match socket.send(&vec![0x42; size]) {
        Ok(_) => Ok(()),
        // The kernel knows already; its error queue says what.
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending {size} bytes to {target}")),
    }
}

/// The first entry of the socket's error queue.
fn queued(socket: &UdpSocket, v4: bool) -> anyhow::Result<Option<Refusal>> {
    let mut data = [0; 2048];
    let mut data = [std::io::IoSliceMut::new(&mut data)];
    let mut control =
        vec![0; cmsg_space::<[u8; 16 + size_of::<libc::sockaddr_in6>()]>() + cmsg_space::<[u8; 64]>()];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_raw_fd();
    let (error, offender) = if v4 {
        let message = match recvmsg::<SockaddrIn>(fd, &mut data, Some(&mut control), flags) {
            Err(Errno::EAGAIN) => return Ok(None),
            other => other.context("reading the error queue")?,
        };
        let found = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, offender) => Some((error, offender)),
            _ => None,
        });
        let Some((error, offender)) = found else { bail!("an entry of the error queue without an error") };
        let offender = offender.map(|address| IpAddr::V4(u32::from_be(address.sin_addr.s_addr).into()));
        (error, offender)
    } else {
        let message = match recvmsg::<SockaddrIn6>(fd, &mut data, Some(&mut control), flags) {
            Err(Errno::EAGAIN) => return Ok(None),
            other => other.context("reading the error queue")?,
        };
        let found = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv6RecvErr(error, offender) => Some((error, offender)),
            _ => None,
        });
        let Some((error, offender)) = found else { bail!("an entry of the error queue without an error") };
        (error, offender.map(|address| IpAddr::V6(address.sin6_addr.s6_addr.into())))
    };
    Ok(Some(Refusal {
        error: Errno::from_raw(i32::try_from(error.ee_errno)?),
        info: error.ee_info,
        // The kernel's own say has no offender, or an unspecified one.
        offender: offender
            .filter(|address| !address.is_unspecified() && error.ee_origin != libc::SO_EE_ORIGIN_LOCAL),
        icmp: (error.ee_type, error.ee_code),
    }))
}

/// A socket at `address` in the server's namespace, and whether something has arrived there.
pub fn sink(path: &Path<'_>) -> anyhow::Result<UdpSocket> {
    let sink = path.server.run(|| UdpSocket::bind(path.listen))??;
    sink.set_nonblocking(true)?;
    Ok(sink)
}

/// Whether a datagram has arrived at the sink since the last time.
pub fn arrived(sink: &UdpSocket) -> bool {
    !matches!(sink.recv(&mut [0; 1 << 16]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}
