//! SCTP (RFC 9260) by hand over raw sockets, as kernels without SCTP sockets still translate it: an association is set
//! up and carries a message.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockaddrStorage, recvfrom, sendto, setsockopt, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::path::{PATIENCE, Path};
use crate::lab::Namespace;

/// Chunk types (RFC 9260, 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// What the client asks with, and what the server answers with.
const STEPS: [(u8, u8); 3] = [(INIT, INIT_ACK), (COOKIE_ECHO, COOKIE_ACK), (DATA, SACK)];

/// The two ends' verification tags.
const CLIENT_TAG: u32 = 0x1111_2222;
const SERVER_TAG: u32 = 0x3333_4444;

/// Sets an association up and sends a message; gives the client's address as the server sees it.
pub fn message(path: &Path<'_>) -> anyhow::Result<IpAddr> {
    let target = path.target(path.listen);
    let v4 = target.is_ipv4();
    let (client, server) = (end(path.client, v4)?, end(path.server, v4)?);
    // A port of its own for each: the rules' memory of the last one is not to answer for this one.
    let port = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut seen = None;
    for (question, answer) in STEPS {
        let tag = if question == INIT { 0 } else { SERVER_TAG };
        client.send(target, &packet(port, target.port(), tag, question))?;
        let (source, got) = server.receive(path.listen.port(), question)?;
        ensure!(got.tag == tag, "chunk {question} has the tag {:#x}", got.tag);
        let source = SocketAddr::new(source, got.source_port);
        ensure!(seen.is_none_or(|seen| seen == source), "the server sees {source} after {seen:?}");
        seen = Some(source);
        server.send(source, &packet(path.listen.port(), source.port(), CLIENT_TAG, answer))?;
        let (source, got) = client.receive(port, answer)?;
        let answered = (source, got.source_port, got.tag);
        ensure!(answered == (target.ip(), target.port(), CLIENT_TAG), "the answer is from {answered:?}");
    }
    seen.map(|source| source.ip()).context("nothing was sent")
}

/// An end of the association: a raw socket, which the kernel gives every SCTP packet to this namespace.
struct End {
    socket: OwnedFd,
    v4: bool,
    namespace: String,
}

/// What the probe looks at in a packet.
struct Received {
    source_port: u16,
    tag: u32,
}

fn end(namespace: &Namespace, v4: bool) -> anyhow::Result<End> {
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // The library has no name for the protocol.
    let open = || {
        let family = family as i32;
        // SAFETY: a system call with plain numbers; the descriptor is nobody else's.
        unsafe {
            let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP);
            Errno::result(fd).map(|fd| std::os::fd::FromRawFd::from_raw_fd(fd))
        }
    };
    let socket: OwnedFd =
        namespace.run(open)?.with_context(|| format!("a raw socket in {}", namespace.name()))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(i64::try_from(PATIENCE.as_secs())?))?;
    Ok(End { socket, v4, namespace: namespace.name().to_owned() })
}

impl End {
    fn send(&self, to: SocketAddr, packet: &[u8]) -> anyhow::Result<()> {
        // IPv6 raw sockets take a port for a protocol number.
        let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
        sendto(self.socket.as_raw_fd(), packet, &to, MsgFlags::empty()).context("sending SCTP")?;
        Ok(())
    }

    /// The next packet to this port whose first chunk is of this type. In a namespace that is both ends, both sockets
    /// see everything.
    fn receive(&self, port: u16, chunk: u8) -> anyhow::Result<(IpAddr, Received)> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 2048];
        loop {
            ensure!(Instant::now() < deadline, "no chunk {chunk} at port {port} in {}", self.namespace);
            let (length, source) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffer)
                .with_context(|| format!("waiting for chunk {chunk} at port {port} in {}", self.namespace))?;
            let packet = buffer.get(..length).unwrap_or_default();
            // With IPv4, the header comes along.
            let start =
                if self.v4 { packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4) } else { 0 };
            let packet = packet.get(start..).unwrap_or_default();
            let [p0, p1, q0, q1, t0, t1, t2, t3, c0, c1, c2, c3, kind, ..] = *packet else { continue };
            if (u16::from_be_bytes([q0, q1]), kind) != (port, chunk) {
                continue;
            }
            let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
            ensure!(checksum == checksum_of(packet), "chunk {chunk} has a wrong checksum");
            let source = source.context("a packet without a source")?;
            let v4 = source.as_sockaddr_in().map(|source| IpAddr::V4(source.ip()));
            let v6 = source.as_sockaddr_in6().map(|source| IpAddr::V6(source.ip()));
            let received = Received {
                source_port: u16::from_be_bytes([p0, p1]),
                tag: u32::from_be_bytes([t0, t1, t2, t3]),
            };
            return Ok((v4.or(v6).context("a source of another family")?, received));
        }
    }
}

/// A common header and one chunk.
fn packet(from: u16, to: u16, tag: u32, chunk: u8) -> Vec<u8> {
    let own_tag = if chunk == INIT { CLIENT_TAG } else { SERVER_TAG };
    let mut value = Vec::new();
    match chunk {
        INIT | INIT_ACK => {
            value.extend(own_tag.to_be_bytes());
            // Window, streams out and in, first TSN.
            value.extend(65_536_u32.to_be_bytes());
            value.extend([0, 1, 0, 1]);
            value.extend(1_u32.to_be_bytes());
            if chunk == INIT_ACK {
                // A state cookie of four bytes.
                value.extend([0, 7, 0, 8, 1, 2, 3, 4]);
            }
        }
        COOKIE_ECHO => value.extend([1, 2, 3, 4]),
        // TSN, stream and sequence number, protocol, and a word.
        DATA => value.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'p', b'o', b'd', b's']),
        // TSN so far, window, no gaps, no duplicates.
        SACK => value.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
        _ => {}
    }
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    // Not a fragment of a larger message.
    let flags = if chunk == DATA { 3 } else { 0 };
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, flags]);
    packet.extend(length.to_be_bytes());
    packet.extend(value);
    let checksum = checksum_of(&packet).to_le_bytes();
    packet.splice(8..12, checksum);
    packet
}

/// CRC32c over the packet with its checksum field zero (RFC 9260, appendix A).
fn checksum_of(packet: &[u8]) -> u32 {
    let (head, rest) = packet.split_at(8.min(packet.len()));
    let mut zeroed = head.to_vec();
    zeroed.extend([0; 4]);
    zeroed.extend(rest.get(4..).unwrap_or_default());
    crc32c::crc32c(&zeroed)
}
