//! TCP throughput and what it costs, by iperf3.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::pin;
use crate::contender::Pair;
use crate::probe::iperf::beside_server;

/// The unit of `/proc/stat` (`sysconf(_SC_CLK_TCK)` is 100 on every Linux machine).
const TICK: f64 = 0.01;

/// What one transfer showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// 10⁹ bits per second that arrived.
    pub gbit_per_second: f64,
    /// Seconds of CPU time of the whole machine per 10⁹ bytes.
    pub cpu_seconds_per_gb: f64,
    /// The part of them in softirqs.
    pub softirq_seconds_per_gb: f64,
}

/// How much each of several streams may have under way: with more, what all have together does not stay in a CPU's cache,
/// or does by chance, which makes a difference of half.
const WINDOW: &str = "128K";

/// Longer than any network here takes for a sample.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends so many bytes over so many connections at once.
///
/// Both ends share a CPU: on two, the scheduler now and then puts them on one, which changes the throughput by half.
///
/// By CUBIC, as most nodes do, where the kernel has it. The ends must not have begun with one that paces, see
/// [`Contender`](crate::contender::Contender): iperf3 (3.12) chooses when the connection is there already.
///
/// # Errors
/// Where iperf3 fails.
pub fn transfer(pair: &Pair, ipv6: bool, streams: u32, bytes: u64) -> Result<Transfer> {
    let address = pair.server.address(ipv6).context("the server has no address of that family")?.to_string();
    let (report, cpu) = beside_server(&pair.server.namespace, &address, || {
        let cpu = pin::last_cpu()?;
        let before = Cpu::now()?;
        let report = pair
            .client
            .namespace
            .command(["iperf3", "--json", "--client", &address])
            .args(["--bytes", &bytes.to_string(), "--parallel", &streams.to_string()])
            // The client's CPU, and the server's for this test.
            .args(["--affinity", &format!("{cpu},{cpu}")])
            .args(if has_cubic() { &["--congestion", "cubic"][..] } else { &[] })
            .args(if streams > 1 { &["--window", WINDOW][..] } else { &[] })
            .timeout(PATIENCE)
            .read()?;
        Ok((report, Cpu::now()?.since(before)))
    })?;
    let report: Value = serde_json::from_str(&report).context("reading iperf3's report")?;
    let received = &report["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 reports no {name}"));
    let gigabytes = number("bytes")? / 1e9;
    Ok(Transfer {
        gbit_per_second: number("bits_per_second")? / 1e9,
        cpu_seconds_per_gb: cpu.busy * TICK / gigabytes,
        softirq_seconds_per_gb: cpu.softirq * TICK / gigabytes,
    })
}

fn has_cubic() -> bool {
    let known = fs_err::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    known.is_ok_and(|known| known.split_whitespace().any(|name| name == "cubic"))
}

/// Ticks of all CPUs (`proc_stat(5)`).
#[derive(Clone, Copy)]
struct Cpu {
    busy: f64,
    softirq: f64,
}

impl Cpu {
    fn now() -> Result<Self> {
        let text = fs_err::read_to_string("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        ensure!(ticks.len() >= 7, "/proc/stat has no line of all CPUs: {line}");
        // user, nice, system, idle, iowait, irq, softirq
        Ok(Self { busy: ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6], softirq: ticks[6] })
    }

    fn since(self, before: Self) -> Self {
        Self { busy: self.busy - before.busy, softirq: self.softirq - before.softirq }
    }
}
