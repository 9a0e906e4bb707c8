//! TCP: a conversation of small messages, and bulk.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket, listen,
    setsockopt, socket,
    sockopt::{ReceiveTimeout, ReuseAddr, SendTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::path::{PATIENCE, Path};

/// Rounds of a conversation of small messages.
const ROUNDS: u32 = 40;
/// Bytes of each of them: more than one segment now and then, so that a broken checksum or MTU shows as well.
const SIZES: [usize; 3] = [1, 200, 3000];
/// Bytes of a bulk transfer, in each direction.
const BULK: usize = 3 << 20;

/// An established connection, both ends.
#[derive(Debug)]
pub struct Connection {
    /// The server's end.
    pub accepted: TcpStream,
    /// The client's address as the server sees it.
    pub seen: IpAddr,
    /// The client's end.
    pub outgoing: TcpStream,
}

/// Connects.
pub fn connect(path: &Path<'_>) -> anyhow::Result<Connection> {
    let listener = path.server.run(|| listen_at(path.listen))?;
    let listener =
        listener.with_context(|| format!("listening on {} in {}", path.listen, path.server.name()))?;
    connect_to(path, &listener)
}

/// Connects to a server that listens already.
pub(super) fn connect_to(path: &Path<'_>, listener: &TcpListener) -> anyhow::Result<Connection> {
    let target = path.target(listener.local_addr()?);
    let outgoing = path.client.run(|| connect_from(path.bind_address(), target))?;
    let outgoing = outgoing.with_context(|| format!("connecting to {target} from {}", path.client.name()))?;
    // The handshake's last packet may still be on its way, or lost.
    setsockopt(listener, ReceiveTimeout, &patience())?;
    let (accepted, seen) =
        listener.accept().with_context(|| format!("accepting a connection to {target}"))?;
    for stream in [&accepted, &outgoing] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    Ok(Connection { accepted, seen: seen.ip(), outgoing })
}

/// A service's server listens on the same port again and again. The last listener may live a moment longer: in a child
/// of this process that another test is starting and that has not executed its program yet.
pub(super) fn listen_at(address: SocketAddr) -> anyhow::Result<TcpListener> {
    for _ in 0..100 {
        match try_listen_at(address) {
            Err(error) if error.downcast_ref() == Some(&Errno::EADDRINUSE) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
    try_listen_at(address)
}

fn try_listen_at(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let fd = tcp_socket(address)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(8)?)?;
    Ok(fd.into())
}

fn connect_from(from: SocketAddr, target: SocketAddr) -> anyhow::Result<TcpStream> {
    let fd = tcp_socket(target)?;
    // It bounds connecting as well.
    setsockopt(&fd, SendTimeout, &patience())?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    connect_socket(fd.as_raw_fd(), &SockaddrStorage::from(target))?;
    Ok(fd.into())
}

fn tcp_socket(address: SocketAddr) -> anyhow::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

fn patience() -> TimeVal {
    TimeVal::seconds(i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX))
}

impl Connection {
    /// Requests and responses, one after the other.
    pub fn talk(&mut self) -> anyhow::Result<()> {
        for round in 0..ROUNDS {
            let size = SIZES.get(round as usize % SIZES.len()).copied().unwrap_or(1);
            let mut pattern = Pattern::default();
            let mut message = vec![0; size];
            pattern.read_exact(&mut message)?;
            say(&mut self.outgoing, &mut self.accepted, &message)
                .with_context(|| format!("request {round} of {size} bytes"))?;
            say(&mut self.accepted, &mut self.outgoing, &message)
                .with_context(|| format!("response {round} of {size} bytes"))?;
        }
        Ok(())
    }

    /// A few MiB from the client to the server, then the other way round; every byte is compared.
    pub fn transfer(&mut self) -> anyhow::Result<()> {
        stream(&mut self.outgoing, &mut self.accepted).context("from client to server")?;
        stream(&mut self.accepted, &mut self.outgoing).context("from server to client")
    }
}

fn say(from: &mut TcpStream, to: &mut TcpStream, message: &[u8]) -> anyhow::Result<()> {
    let mut received = vec![0; message.len()];
    from.write_all(message).context("sending")?;
    to.read_exact(&mut received).context("receiving")?;
    ensure!(received == message, "it arrived changed");
    Ok(())
}

fn stream(from: &mut TcpStream, to: &mut TcpStream) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> anyhow::Result<()> {
            std::io::copy(&mut Pattern::default().take(BULK as u64), from).context("sending")?;
            Ok(())
        });
        let mut expected = Pattern::default();
        let mut received = 0;
        let mut buffers = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let result = loop {
            let left = BULK - received;
            if left == 0 {
                break Ok(());
            }
            let room = left.min(buffers.0.len());
            let read = to.read(&mut buffers.0[..room]).and_then(|read| {
                expected.read_exact(&mut buffers.1[..read])?;
                Ok(read)
            });
            match read {
                Ok(0) => break Err(anyhow::anyhow!("the connection ended after {received} bytes")),
                Ok(read) if buffers.0[..read] != buffers.1[..read] => {
                    break Err(anyhow::anyhow!("data arrived changed after {received} bytes"));
                }
                Ok(read) => received += read,
                Err(error) => break Err(error).with_context(|| format!("receiving, after {received} bytes")),
            }
        };
        if result.is_err() {
            // So that the sender ends as well. It can be shut already.
            let _ = to.shutdown(std::net::Shutdown::Both);
        }
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and(sent)
    })
}

/// An endless row of numbers, eight bytes each: what is lost, swapped or doubled shows.
#[derive(Debug, Default)]
struct Pattern {
    position: u64,
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for byte in &mut *buffer {
            let [a, b, c, d, ..] = (self.position / 4).wrapping_mul(0x9e37_79b1).to_le_bytes();
            *byte = [a, b, c, d][(self.position % 4) as usize & 3];
            self.position += 1;
        }
        Ok(buffer.len())
    }
}

/// A conversation of small messages; gives the client's address as the server sees it.
pub fn small(path: &Path<'_>) -> anyhow::Result<IpAddr> {
    let mut connection = connect(path)?;
    connection.talk()?;
    Ok(connection.seen)
}

/// A few MiB in both directions; gives the client's address as the server sees it.
pub fn bulk(path: &Path<'_>) -> anyhow::Result<IpAddr> {
    let mut connection = connect(path)?;
    connection.transfer()?;
    Ok(connection.seen)
}
