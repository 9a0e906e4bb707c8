//! TCP throughput and what it costs, by iperf3.

use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::beside::{self, Beside};
use super::pin;
use crate::contender::Pair;
use crate::probe::iperf::{self, Server};

/// The unit of `/proc/stat` (`sysconf(_SC_CLK_TCK)` is 100 on every Linux machine).
const TICK: f64 = 0.01;

/// How much a lone stream may have under way: less than the 256 packets that a veth's ring holds, as a wire's end with GRO
/// has one. With more, packets are lost, and a transfer's speed is that of its recovery.
const WINDOW: &str = "256K";
/// The same of each of several streams: with more, what all have together does not stay in a CPU's cache, or does by chance,
/// which makes a difference of half.
const WINDOW_OF_SEVERAL: &str = "128K";

/// How long a transfer goes on before what it carries counts: until what the other left in the CPU's caches is gone.
const SETTLE: Duration = Duration::from_millis(4);
/// How long it counts in each turn.
const TURN: Duration = Duration::from_millis(24);
/// Longer than what is under way needs to arrive.
const DRAIN: Duration = Duration::from_millis(2);
/// How long a transfer may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Seconds of CPU time per 10⁹ bytes that arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CpuTime {
    /// Of the whole machine.
    pub(super) busy: f64,
    /// The part of it in softirqs.
    pub(super) softirq: f64,
}

/// 10⁹ bits per second that arrive between the first pair, over so many connections at once, beside the second; and what
/// that costs. Two transfers take turns: one is stopped while the other goes on.
///
/// Both ends share a CPU: on two, the scheduler now and then puts them on one, which changes the throughput by half.
///
/// By CUBIC, as most nodes do, where the kernel has it. The ends must not have begun with one that paces, see
/// [`Contender`](crate::contender::Contender): iperf3 (3.12) chooses when the connection is there already.
///
/// # Errors
/// Where iperf3 fails.
pub(super) fn in_turns(
    pairs: [&Pair; 2],
    ipv6: bool,
    streams: u32,
    turns: usize,
) -> Result<(Beside, CpuTime)> {
    let mut own = Transfer::begin(pairs[0], ipv6, streams)?;
    let mut other = Transfer::begin(pairs[1], ipv6, streams)?;
    let measured = beside::in_turns(turns, || own.turn(), || other.turn())?;
    let gigabytes = own.bytes / 1e9;
    let per_gigabyte = |ticks: f64| ticks * TICK / gigabytes;
    Ok((measured, CpuTime { busy: per_gigabyte(own.cpu.busy), softirq: per_gigabyte(own.cpu.softirq) }))
}

/// A transfer that is stopped, but for its turns.
struct Transfer {
    server: Server,
    client: Child,
    /// What arrived in its turns, and the ticks they took.
    bytes: f64,
    cpu: Cpu,
}

impl Transfer {
    fn begin(pair: &Pair, ipv6: bool, streams: u32) -> Result<Self> {
        let address =
            pair.server.address(ipv6).context("the server has no address of that family")?.to_string();
        let server = Server::start(&pair.server.namespace, &address)?;
        let cpu = pin::last_cpu()?;
        let client = iperf::command(&pair.client.namespace)
            // For longer than it will live.
            .args(["--client", &address, "--time", "600", "--parallel", &streams.to_string()])
            // The client's CPU, and the server's for this test.
            .args(["--affinity", &format!("{cpu},{cpu}")])
            .args(if has_cubic() { &["--congestion", "cubic"][..] } else { &[] })
            .args(["--window", if streams > 1 { WINDOW_OF_SEVERAL } else { WINDOW }])
            .spawn()
            .context("starting `iperf3 --client`")?;
        let mut transfer = Self { server, client, bytes: 0.0, cpu: Cpu::default() };
        let before = transfer.server.bytes_read()?;
        let begun = Instant::now();
        // More than what the two ends have to say to each other before.
        while transfer.server.bytes_read()? - before < 1_000_000.0 {
            ensure!(
                transfer.client.try_wait()?.is_none() && begun.elapsed() < PATIENCE,
                "`iperf3 --client {address}` in {} transfers nothing",
                pair.client.namespace.name()
            );
            sleep(Duration::from_millis(1));
        }
        transfer.signal(Signal::SIGSTOP)?;
        sleep(DRAIN);
        Ok(transfer)
    }

    /// Goes on for a turn; says how many 10⁹ bits per second arrived.
    fn turn(&mut self) -> Result<f64> {
        self.signal(Signal::SIGCONT)?;
        sleep(SETTLE);
        let (cpu, bytes, start) = (Cpu::now()?, self.server.bytes_read()?, Instant::now());
        sleep(TURN);
        let bytes = self.server.bytes_read()? - bytes;
        let seconds = start.elapsed().as_secs_f64();
        self.cpu = self.cpu.and(Cpu::now()?.since(cpu));
        self.bytes += bytes;
        self.signal(Signal::SIGSTOP)?;
        sleep(DRAIN);
        Ok(bytes * 8.0 / 1e9 / seconds)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let client = Pid::from_raw(self.client.id().try_into()?);
        kill(client, signal).context("`iperf3 --client` has ended early")
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn has_cubic() -> bool {
    let known = fs_err::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    known.is_ok_and(|known| known.split_whitespace().any(|name| name == "cubic"))
}

/// Ticks of all CPUs (`proc_stat(5)`).
#[derive(Clone, Copy, Default)]
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

    fn and(self, other: Self) -> Self {
        Self { busy: self.busy + other.busy, softirq: self.softirq + other.softirq }
    }
}
