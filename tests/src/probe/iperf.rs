//! Throughput, by iperf3.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::lab::{Namespace, Pod};

/// What iperf3's client reports about a TCP test.
#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

#[derive(Deserialize)]
struct Report {
    end: End,
}

#[derive(Deserialize)]
struct End {
    sum_sent: Sum,
    sum_received: Sum,
}

#[derive(Deserialize)]
struct Sum {
    bits_per_second: f64,
    #[serde(default)]
    retransmits: u64,
}

/// One TCP stream from `client` to `server` for `seconds`.
pub fn tcp(client: &Pod, server: &Pod, seconds: u64) -> anyhow::Result<Throughput> {
    let address = server.address().to_string();
    let report = beside_server(server.namespace(), &address, || {
        client
            .command(["iperf3", "--json", "--client", &address, "--time", &seconds.to_string()])
            .timeout(Duration::from_secs(seconds + 10))
            .read()
    })?;
    let report: Report = serde_json::from_str(&report).context("reading iperf3's report")?;
    Ok(Throughput {
        bits_per_second: report.end.sum_received.bits_per_second,
        retransmits: report.end.sum_sent.retransmits,
    })
}

/// Runs `client` while an iperf3 server waits for one test, at `address` in that namespace.
pub(crate) fn beside_server<T>(
    namespace: &Namespace,
    address: &str,
    client: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut listening = Command::new("nsenter")
        .arg(format!("--net={}", namespace.path().display()))
        .args(["--", "iperf3", "--server", "--one-off", "--forceflush", "--bind", address])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting `iperf3 --server`")?;
    let result = (|| {
        let said = listening.stdout.take().context("no output of iperf3")?;
        let ready = BufReader::new(said).lines().map_while(Result::ok).any(|line| line.contains("listening"));
        ensure!(ready, "`iperf3 --server` on {address} in {} ended early", namespace.name());
        client()
    })();
    // It ends by itself after one test; after a failure it would wait for ever.
    listening.kill().context("ending `iperf3 --server`")?;
    listening.wait()?;
    result
}
