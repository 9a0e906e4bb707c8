//! Packets per second and bytes per second: as much as there is room for.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::client::Server;
use super::latency::socket;
use super::protocol::{COUNT, HEADER, PATIENCE, Request, header};

/// How many packets are sent between two looks at the clock.
const BURST: u64 = 64;

/// UDP packets that arrive, per second, when one sender sends as fast as it can; and the share that did not.
pub(super) fn packets(server: Server, payload: usize, duration: Duration) -> anyhow::Result<(f64, f64)> {
    let socket = socket(server)?;
    // A run is told from others' by its beginning: nobody starts two in one nanosecond.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let run = since.as_secs() << 32 | u64::from(since.subsec_nanos());
    let mut packet = vec![0; payload.max(HEADER)];
    packet[..HEADER].copy_from_slice(&header(COUNT, run));
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while begun.elapsed() < duration {
        for _ in 0..BURST {
            // A full queue is a lost packet, not an error; a server that is not there is found out below.
            sent += u64::from(socket.send(&packet).is_ok());
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let received: u64 = Request::Count(run).send(&mut server.connect()?)?.parse().context("a count")?;
    ensure!(
        received > 0,
        "of {sent} UDP packets none has reached port {} of {}",
        server.port,
        server.address
    );
    let (received, sent) = (float(received), float(sent));
    Ok((received / took, (1.0 - received / sent).max(0.0)))
}

/// Gbit/s by TCP on so many connections at once.
pub(super) fn bulk(server: Server, streams: usize, duration: Duration) -> anyhow::Result<f64> {
    let one = || -> anyhow::Result<u64> {
        let mut stream = server.connect()?;
        Request::Sink.send(&mut stream)?;
        let buffer = vec![0x5a; 128 * 1024];
        let begun = Instant::now();
        while begun.elapsed() < duration {
            stream.write_all(&buffer).context("sending")?;
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut received = [0; 8];
        stream.read_exact(&mut received).context("the server has gone")?;
        Ok(u64::from_be_bytes(received))
    };
    let begun = Instant::now();
    let bytes = std::thread::scope(|scope| -> anyhow::Result<u64> {
        let senders: Vec<_> = (0..streams).map(|_| scope.spawn(one)).collect();
        senders
            .into_iter()
            .map(|sender| sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum()
    })?;
    // Until the last byte was read there.
    Ok(float(bytes) * 8.0 / begun.elapsed().as_secs_f64() / 1e9)
}

/// The same by iperf3, where it is on both sides; else `None`.
pub(super) fn iperf3(server: Server, streams: usize, duration: Duration) -> anyhow::Result<Option<f64>> {
    if Command::new("iperf3").arg("--version").output().is_err() {
        return Ok(None);
    }
    let mut control = server.connect()?;
    let Ok(port) = Request::Iperf3.send(&mut control) else { return Ok(None) };
    let output = Command::new("iperf3")
        .args(["--client", &server.address.to_string(), "--port", &port, "--json"])
        .args(["--time", &duration.as_secs().to_string(), "--parallel", &streams.to_string()])
        .args(["--connect-timeout", &PATIENCE.as_millis().to_string()])
        .output()
        .context("running iperf3")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("reading iperf3's report")?;
    if let Some(error) = report["error"].as_str() {
        anyhow::bail!("iperf3: {error}");
    }
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(Some(rate.context("iperf3's report has no rate")? / 1e9))
}

/// Counts here are far below 2^53, up to which this is exact.
fn float(number: u64) -> f64 {
    let (high, low) = ((number >> 32) as u32, (number & 0xffff_ffff) as u32);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
