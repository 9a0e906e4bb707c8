//! Short connections: connect, one request, one answer, close.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::pin;
use crate::contender::Pair;

const REQUEST: [u8; 64] = [0x42; 64];
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections per second, one after the other, both ends on one CPU.
///
/// # Errors
/// Where a connection fails.
pub fn rate(pair: &Pair, ipv6: bool, count: u32) -> Result<f64> {
    let address = pair.server.address(ipv6).context("the server has no address of that family")?;
    let listener = pair.server.namespace.run(|| TcpListener::bind((address, 0)))?;
    let listener = listener.with_context(|| format!("listening on {address}"))?;
    let target = listener.local_addr()?;
    let server = std::thread::spawn(move || serve(&listener, count));
    let time = pair.client.namespace.run(|| ask(target, count))?.context("the asking end")?;
    server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("the serving end")?;
    Ok(f64::from(count) / time.as_secs_f64())
}

fn serve(listener: &TcpListener, count: u32) -> Result<()> {
    pin::to_one_cpu()?;
    for _ in 0..count {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = REQUEST;
        stream.read_exact(&mut buffer)?;
        stream.write_all(&buffer)?;
    }
    Ok(())
}

fn ask(target: SocketAddr, count: u32) -> Result<Duration> {
    pin::to_one_cpu()?;
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
