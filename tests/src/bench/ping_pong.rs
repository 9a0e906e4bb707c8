//! Round trips of one small message at a time, by two processes that share a CPU.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Samples;
use super::beside::{self, Beside};
use super::process::Process;
use crate::contender::{Endpoint, Pair};
use crate::probe::source::connect;

const WARM_UP: usize = 50;
/// Round trips in a turn: enough that the first of them, which find other code in the CPU's caches, are few.
const TURN: usize = 50;
const MESSAGE: [u8; 64] = [0x42; 64];
const PATIENCE: Duration = Duration::from_secs(2);

/// The median in microseconds between the first pair beside the second, and what 99 of 100 took at most.
///
/// # Errors
/// Where no connection comes about, or it breaks; a lost datagram is an error.
pub(super) fn in_turns(pairs: [&Pair; 2], ipv6: bool, udp: bool, turns: usize) -> Result<(Beside, f64)> {
    let begin = |pair| -> Result<RoundTrips> {
        let mut trips = RoundTrips::begin(pair, ipv6, udp)?;
        trips.make(WARM_UP)?;
        Ok(trips)
    };
    let (mut own, mut other) = (begin(pairs[0])?, begin(pairs[1])?);
    let mut all = Vec::new();
    let turn = |trips: &mut RoundTrips, all: &mut Vec<f64>| -> Result<f64> {
        let times = trips.make(TURN)?;
        all.extend(&times);
        Ok(Samples(times).median())
    };
    let beside = beside::in_turns(turns, || turn(&mut own, &mut all), || turn(&mut other, &mut Vec::new()))?;
    Ok((beside, Samples(all).quantile(0.99)))
}

/// A connection on which a message goes forth and back.
pub(crate) struct RoundTrips {
    client: Box<dyn End>,
    _echo: Process,
}

impl RoundTrips {
    /// By UDP, or over an established TCP connection.
    pub(crate) fn begin(pair: &Pair, ipv6: bool, udp: bool) -> Result<Self> {
        if udp {
            let (client, server) = udp_sockets(pair, ipv6)?;
            return Ok(Self { client: Box::new(client), _echo: Process::echo(server.as_fd())? });
        }
        let address = pair.server.address(ipv6).context("the server has no address of that family")?;
        let ((accepted, _), client) = connect(&pair.client.namespace, &pair.server.namespace, address)?;
        Ok(Self { client: Box::new(client), _echo: Process::echo(accepted.as_fd())? })
    }

    /// Makes so many; says how long each took, in microseconds.
    pub(crate) fn make(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut buffer = MESSAGE;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.client.send(&MESSAGE)?;
            self.client.receive(&mut buffer)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }
}

/// Two UDP sockets, connected to each other.
pub(super) fn udp_sockets(pair: &Pair, ipv6: bool) -> Result<(UdpSocket, UdpSocket)> {
    let bind = |endpoint: &Endpoint| -> Result<UdpSocket> {
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
trait End {
    fn send(&mut self, message: &[u8]) -> std::io::Result<()>;
    fn receive(&mut self, message: &mut [u8]) -> std::io::Result<()>;
}

impl End for TcpStream {
    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.write_all(message)
    }
    fn receive(&mut self, message: &mut [u8]) -> std::io::Result<()> {
        self.read_exact(message)
    }
}

impl End for UdpSocket {
    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        Self::send(self, message).map(|_| ())
    }
    fn receive(&mut self, message: &mut [u8]) -> std::io::Result<()> {
        self.recv(message).map(|_| ())
    }
}
