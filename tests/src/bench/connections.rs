//! Short connections: connect, one request, one answer, close.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::beside::{self, Beside};
use super::process::Process;
use crate::contender::Pair;
use crate::lab::Namespace;

const REQUEST: [u8; 64] = [0x42; 64];
/// Connections in a turn: some milliseconds.
const TURN: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections per second between the first pair, one after the other, both ends on one CPU, beside the second.
///
/// # Errors
/// Where a connection fails.
pub(super) fn in_turns(pairs: [&Pair; 2], ipv6: bool, turns: usize) -> Result<Beside> {
    let [own, other] = pairs.map(|pair| Server::start(pair, ipv6));
    let (own, other) = (own?, other?);
    for server in [&own, &other] {
        server.rate()?;
    }
    beside::in_turns(turns, || own.rate(), || other.rate())
}

/// A server's process, and where it is asked from.
struct Server<'a> {
    client: &'a Namespace,
    address: SocketAddr,
    _listener: TcpListener,
    _process: Process,
}

impl<'a> Server<'a> {
    fn start(pair: &'a Pair, ipv6: bool) -> Result<Self> {
        let address = pair.server.address(ipv6).context("the server has no address of that family")?;
        let listener = pair.server.namespace.run(|| TcpListener::bind((address, 0)))?;
        let listener = listener.with_context(|| format!("listening on {address}"))?;
        let socket = listener.as_raw_fd();
        // SAFETY: system calls on a descriptor that the child inherits.
        let process = unsafe { Process::start(|| while serve_one(socket) {}) }?;
        let address = listener.local_addr()?;
        Ok(Self { client: &pair.client.namespace, address, _listener: listener, _process: process })
    }

    /// Connections per second.
    fn rate(&self) -> Result<f64> {
        let time = self.client.run(|| ask(self.address, TURN))?.context("the asking end")?;
        Ok(f64::from(TURN) / time.as_secs_f64())
    }
}

/// Accepts a connection, answers its request and closes it; false where nothing comes any more.
fn serve_one(listener: RawFd) -> bool {
    let mut buffer = REQUEST;
    // SAFETY: plain system calls; the buffer outlives them.
    unsafe {
        let stream = libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut());
        if stream < 0 {
            return false;
        }
        let length = libc::read(stream, buffer.as_mut_ptr().cast(), buffer.len());
        let answered = usize::try_from(length)
            .is_ok_and(|length| libc::write(stream, buffer.as_ptr().cast(), length) == length.cast_signed());
        libc::close(stream) == 0 && answered
    }
}

fn ask(target: SocketAddr, count: u32) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..count {
        let mut stream = TcpStream::connect(target).with_context(|| format!("connecting to {target}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&REQUEST)?;
        // To the end of the stream: the server has closed first, and keeps the port for its own TIME-WAIT.
        stream.read_to_end(&mut Vec::with_capacity(REQUEST.len()))?;
    }
    Ok(start.elapsed())
}
