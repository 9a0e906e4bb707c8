//! Round trips of one small message at a time, by two processes that share a CPU.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::pin;
use super::process::Process;
use crate::contender::Pair;
use crate::probe::source::connect;

const WARM_UP: usize = 200;
const MESSAGE: [u8; 64] = [0x42; 64];
const PATIENCE: Duration = Duration::from_secs(2);

/// How long round trips took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// The median, in microseconds.
    pub p50: f64,
    /// 99 of 100 were at most as long, in microseconds.
    pub p99: f64,
}

/// Which round trips are to be measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// Between whom.
    pub pair: Pair,
    /// By IPv6, or by IPv4.
    pub ipv6: bool,
    /// By UDP, or by TCP.
    pub udp: bool,
    /// How many.
    pub rounds: usize,
}

impl Question {
    /// Measures them.
    ///
    /// # Errors
    /// See [`tcp`] and [`udp`].
    pub fn answer(&self) -> Result<RoundTrips> {
        let measure = if self.udp { udp } else { tcp };
        measure(&self.pair, self.ipv6, self.rounds)
    }
}

/// Over an established TCP connection.
///
/// # Errors
/// Where no connection comes about, or it breaks.
pub fn tcp(pair: &Pair, ipv6: bool, rounds: usize) -> Result<RoundTrips> {
    let address = pair.server.address(ipv6).context("the server has no address of that family")?;
    let ((accepted, _), outgoing) = connect(&pair.client.namespace, &pair.server.namespace, address)?;
    let echo = Process::echo(accepted.as_fd())?;
    measure(rounds, &echo, Tcp(outgoing))
}

/// With UDP datagrams; a lost one is an error.
///
/// # Errors
/// Where a datagram does not arrive.
pub fn udp(pair: &Pair, ipv6: bool, rounds: usize) -> Result<RoundTrips> {
    let (client, server) = udp_sockets(pair, ipv6)?;
    let echo = Process::echo(server.as_fd())?;
    measure(rounds, &echo, Udp(client))
}

/// Two UDP sockets, connected to each other.
pub(super) fn udp_sockets(pair: &Pair, ipv6: bool) -> Result<(UdpSocket, UdpSocket)> {
    let bind = |endpoint: &crate::contender::Endpoint| -> Result<UdpSocket> {
        let address = endpoint.address(ipv6).context("an end has no address of that family")?;
        let socket = endpoint.namespace.run(|| UdpSocket::bind((address, 0)))?;
        socket.with_context(|| format!("binding to {address} in {}", endpoint.namespace.name()))
    };
    let (client, server) = (bind(&pair.client)?, bind(&pair.server)?);
    client.connect(server.local_addr()?).context("connecting the client's UDP socket")?;
    server.connect(client.local_addr()?).context("connecting the server's UDP socket")?;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    Ok((client, server))
}

/// One end of a connection: whole messages out and in.
trait End: Send {
    fn send(&mut self, message: &[u8]) -> std::io::Result<()>;
    fn receive(&mut self, message: &mut [u8]) -> std::io::Result<()>;
}

struct Tcp(TcpStream);
struct Udp(UdpSocket);

impl End for Tcp {
    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.0.write_all(message)
    }
    fn receive(&mut self, message: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact(message)
    }
}

impl End for Udp {
    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.0.send(message).map(|_| ())
    }
    fn receive(&mut self, message: &mut [u8]) -> std::io::Result<()> {
        self.0.recv(message).map(|_| ())
    }
}

fn measure(rounds: usize, _echo: &Process, mut client: impl End) -> Result<RoundTrips> {
    let asker = std::thread::scope(|scope| {
        let asker = scope.spawn(|| -> Result<Vec<Duration>> {
            pin::to_one_cpu()?;
            let mut buffer = MESSAGE;
            (0..WARM_UP + rounds)
                .map(|_| {
                    let start = Instant::now();
                    client.send(&MESSAGE)?;
                    client.receive(&mut buffer)?;
                    Ok(start.elapsed())
                })
                .collect()
        });
        asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let mut times = asker.context("a round trip")?.split_off(WARM_UP);
    times.sort_unstable();
    let at = |index: usize| times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6);
    Ok(RoundTrips { p50: at(times.len() / 2), p99: at(times.len() * 99 / 100) })
}
