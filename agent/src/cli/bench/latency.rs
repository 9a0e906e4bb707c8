//! Round trips, one at a time, and connections.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::client::Server;
use super::protocol::{ECHO, HEADER, MESSAGE, Request, header};

/// A round trip that takes longer is a lost packet.
const LOST: Duration = Duration::from_millis(500);
/// Not timed: neighbours are resolved, caches warmed.
const WARM_UP: usize = 50;

/// Durations of round trips.
#[derive(Debug, Default)]
pub(super) struct Times {
    all: Vec<Duration>,
    /// Round trips without an answer.
    pub(super) lost: usize,
}

impl Times {
    /// The duration that so many percent are not above, in µs.
    pub(super) fn percentile(&mut self, percent: usize) -> f64 {
        self.all.sort_unstable();
        let last = self.all.len().saturating_sub(1);
        let index = (self.all.len() * percent / 100).min(last);
        self.all.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// TCP: a message there and back, on one connection.
pub(super) fn tcp(server: Server, duration: Duration) -> anyhow::Result<Times> {
    let mut stream = server.connect()?;
    Request::Echo.send(&mut stream)?;
    let mut message = [0; MESSAGE];
    collect(duration, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message).context("the server has gone")?;
        Ok(true)
    })
}

/// UDP: a packet there and back.
pub(super) fn udp(server: Server, duration: Duration) -> anyhow::Result<Times> {
    let socket = socket(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let mut number = 0;
    let (mut packet, mut answer) = ([0; MESSAGE], [0; MESSAGE]);
    collect(duration, || {
        number += 1;
        packet[..HEADER].copy_from_slice(&header(ECHO, number));
        socket.send(&packet)?;
        loop {
            match socket.recv(&mut answer) {
                // A late answer to an earlier packet is none to this one.
                Ok(_) if answer[..HEADER] != packet[..HEADER] => {}
                Ok(_) => return Ok(true),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => return Ok(false),
                Err(error) => return Err(error).context("UDP does not reach the server"),
            }
        }
    })
}

/// Connections that are opened, used for one message and closed, per second.
pub(super) fn connections(server: Server, duration: Duration) -> anyhow::Result<f64> {
    let (begun, mut number) = (Instant::now(), 0_u32);
    while begun.elapsed() < duration {
        let mut stream = server.connect()?;
        Request::Echo.send(&mut stream)?;
        number += 1;
    }
    Ok(f64::from(number) / begun.elapsed().as_secs_f64())
}

/// A UDP socket that is connected to the server.
pub(super) fn socket(server: Server) -> anyhow::Result<UdpSocket> {
    let any = match server.address {
        std::net::IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        std::net::IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).context("opening a UDP socket")?;
    socket.connect((server.address, server.port)).context("connecting a UDP socket")?;
    Ok(socket)
}

/// Round trips for so long; `trip` says whether an answer came.
fn collect(duration: Duration, mut trip: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<Times> {
    for _ in 0..WARM_UP {
        trip()?;
    }
    let (begun, mut times) = (Instant::now(), Times::default());
    while begun.elapsed() < duration {
        let sent = Instant::now();
        if trip()? {
            times.all.push(sent.elapsed());
        } else {
            times.lost += 1;
        }
    }
    ensure!(!times.all.is_empty(), "no answer came within {duration:?}");
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut times = Times { all: (1..=100).rev().map(Duration::from_micros).collect(), lost: 0 };
        assert_eq!([50, 99, 100].map(|percent| times.percentile(percent).round()), [51.0, 100.0, 100.0]);
        assert!(Times::default().percentile(50).is_nan());
    }
}
