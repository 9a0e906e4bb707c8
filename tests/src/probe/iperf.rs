//! Throughput, by iperf3.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
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
    let _server = Server::start(server.namespace(), &address)?;
    let report = client
        .command(["iperf3", "--json", "--client", &address, "--time", &seconds.to_string()])
        .timeout(Duration::from_secs(seconds + 10))
        .read()?;
    let report: Report = serde_json::from_str(&report).context("reading iperf3's report")?;
    Ok(Throughput {
        bits_per_second: report.end.sum_received.bits_per_second,
        retransmits: report.end.sum_sent.retransmits,
    })
}

/// iperf3 in that namespace, which ends with the thread that starts it. What it says is lost, unless told otherwise.
pub(crate) fn command(namespace: &Namespace) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "nsenter"])
        .arg(format!("--net={}", namespace.path().display()))
        .args(["--", "iperf3"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// An iperf3 server that waits for one test. Dropping it ends it, as does the end of the thread that started it.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it, at `address` in that namespace.
    pub(crate) fn start(namespace: &Namespace, address: &str) -> anyhow::Result<Self> {
        let mut server = command(namespace)
            .args(["--server", "--one-off", "--forceflush", "--bind", address])
            .stdout(Stdio::piped())
            .spawn()
            .map(Self)
            .context("starting `iperf3 --server`")?;
        let said = server.0.stdout.take().context("no output of iperf3")?;
        let ready = BufReader::new(said).lines().map_while(Result::ok).any(|line| line.contains("listening"));
        ensure!(ready, "`iperf3 --server` on {address} in {} ended early", namespace.name());
        Ok(server)
    }

    /// Bytes that it has read since it began, from sockets and files.
    pub(crate) fn bytes_read(&self) -> anyhow::Result<f64> {
        let file = format!("/proc/{}/io", self.0.id());
        let text = fs_err::read_to_string(&file)?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
        bytes.with_context(|| format!("no rchar in {file}: {text}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends by itself after one test; after a failure it would wait for ever.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
