//! UDP packets per second from socket to socket, on one CPU and one thread.
//!
//! The thread sends a few packets, which the kernel carries to the other socket before each call returns, then
//! receives them: no packet is lost, no time goes into waking anybody. What is left is the sockets and the way.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{pin, ping_pong::udp_sockets};
use crate::contender::Pair;

/// Fewer than what a socket's default buffer and the kernel's backlog take.
const BURST: u32 = 32;

/// Packets of `bytes` bytes of IP per second, over about `duration`.
///
/// # Errors
/// Where a packet is lost.
pub fn rate(pair: &Pair, ipv6: bool, bytes: usize, duration: Duration) -> Result<f64> {
    let (client, server) = udp_sockets(pair, ipv6)?;
    let headers = if ipv6 { 48 } else { 28 };
    let message = vec![0x42; bytes.saturating_sub(headers)];
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            pin::to_one_cpu()?;
            for _ in 0..16 {
                burst(&client, &server, &message)?;
            }
            let start = Instant::now();
            let mut packets = 0;
            while start.elapsed() < duration {
                for _ in 0..16 {
                    burst(&client, &server, &message)?;
                }
                packets += 16 * BURST;
            }
            Ok(f64::from(packets) / start.elapsed().as_secs_f64())
        });
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
