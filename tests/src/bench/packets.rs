//! UDP packets per second from socket to socket, on one CPU and one thread.
//!
//! The thread sends a few packets, which the kernel carries to the other socket before each call returns, then
//! receives them: no packet is lost, no time goes into waking anybody. What is left is the sockets and the way.

use std::net::UdpSocket;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::beside::{self, Beside};
use super::ping_pong::udp_sockets;
use crate::contender::Pair;

/// Fewer than what a socket's default buffer and the kernel's backlog take.
const BURST: u32 = 32;
/// Bursts in a turn: some milliseconds.
const TURN: u32 = 16;

/// Packets of `bytes` bytes of IP per second between the first pair, beside the second.
///
/// # Errors
/// Where a packet is lost.
pub(super) fn in_turns(pairs: [&Pair; 2], ipv6: bool, bytes: usize, turns: usize) -> Result<Beside> {
    let headers = if ipv6 { 48 } else { 28 };
    let message = vec![0x42; bytes.saturating_sub(headers)];
    let [own, other] = pairs.map(|pair| udp_sockets(pair, ipv6));
    let (own, other) = (own?, other?);
    let turn = |(client, server): &(UdpSocket, UdpSocket)| {
        let start = Instant::now();
        for _ in 0..TURN {
            burst(client, server, &message)?;
        }
        Ok(f64::from(TURN * BURST) / start.elapsed().as_secs_f64())
    };
    for sockets in [&own, &other] {
        turn(sockets)?;
    }
    beside::in_turns(turns, || turn(&own), || turn(&other))
}

fn burst(client: &UdpSocket, server: &UdpSocket, message: &[u8]) -> Result<()> {
    for _ in 0..BURST {
        client.send(message).context("sending")?;
    }
    let mut buffer = [0; 2048];
    for _ in 0..BURST {
        let length = server.recv(&mut buffer).context("receiving")?;
        ensure!(length == message.len(), "{length} bytes arrived, not {}", message.len());
    }
    Ok(())
}
