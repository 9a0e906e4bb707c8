//! `ping` and `iperf3` as everybody runs them, going on while something else happens.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::lab::{Namespace, Pod};

/// Longer than a busy machine needs to start or end a program.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests whose answers may be on their way when `ping` is told to end.
const ON_THEIR_WAY: usize = 3;

/// A program that runs in a namespace until it is told to end. Killed when dropped.
#[derive(Debug)]
struct Program {
    label: String,
    child: Child,
    output: File,
}

impl Program {
    fn start(label: String, namespace: &Namespace, words: &[&str]) -> anyhow::Result<Self> {
        let output = nameless_file()?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", namespace.path().display()))
            .arg("--")
            .args(words)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("starting {label}"))?;
        Ok(Self { label, child, output })
    }

    fn said(&self) -> anyhow::Result<String> {
        Ok(fs_err::read_to_string(path_of(&self.output))?)
    }

    /// Ends it as Ctrl-C does, and returns what it said.
    fn finish(mut self) -> anyhow::Result<String> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself ({status}): {}", self.label, self.said()?);
        }
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} does not end: {}", self.label, self.said()?);
            std::thread::sleep(Duration::from_millis(5));
        }
        self.said()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended, or it is to end now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Into a file without a name: nobody has to read along, and nothing is left. Whoever opens its path anew has a position
/// of its own.
fn nameless_file() -> anyhow::Result<File> {
    Ok(memfd_create(c"podlane-lab", MFdFlags::MFD_CLOEXEC)?.into())
}

fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// `ping`, a request a millisecond.
#[derive(Debug)]
pub struct Ping(Program);

impl Ping {
    /// Begins.
    pub fn start(client: &Pod, server: &Pod) -> anyhow::Result<Self> {
        let target = server.address().to_string();
        let label = format!("ping {} -> {}", client.label(), server.label());
        Program::start(label, client.namespace(), &["ping", "-n", "-i", "0.001", &target]).map(Self)
    }

    /// Ends it; gives how many requests were sent. One without an answer is an error.
    pub fn finish(self) -> anyhow::Result<usize> {
        let label = self.0.label.clone();
        let said = self.0.finish()?;
        let sent: usize = said
            .lines()
            .find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok())
            .with_context(|| format!("{label} printed no sum: {said}"))?;
        let answered: BTreeSet<usize> = said
            .lines()
            .filter_map(|line| line.split_once("icmp_seq=")?.1.split_once(' ')?.0.parse().ok())
            .collect();
        // It counts in 16 bits, from 1.
        let missing = (1..=sent).filter(|seq| sent <= 0xffff && !answered.contains(seq)).collect::<Vec<_>>();
        let replies =
            said.lines().filter(|line| line.contains("bytes from") && line.contains("icmp_seq=")).count();
        let last = sent.saturating_sub(ON_THEIR_WAY);
        ensure!(
            replies > 0 && replies + ON_THEIR_WAY >= sent && missing.iter().all(|seq| *seq > last),
            "{label}: {replies} answers to {sent} requests; without one: {missing:?}"
        );
        Ok(sent)
    }
}

/// `iperf3`, one TCP stream at a bounded rate, so that others get to the CPU.
#[derive(Debug)]
pub struct Iperf {
    client: Program,
    _server: Program,
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    intervals: Vec<Interval>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct Interval {
    sum: Sum,
}

#[derive(Deserialize)]
struct Sum {
    bytes: u64,
    seconds: f64,
}

impl Iperf {
    /// Begins, at so many Mbit/s.
    pub fn start(client: &Pod, server: &Pod, mbit: u32) -> anyhow::Result<Self> {
        let target = server.address().to_string();
        let label = format!("iperf3 {} -> {}", client.label(), server.label());
        let listen = ["iperf3", "--server", "--forceflush", "--bind", &target];
        let listening = Program::start(format!("{label}, server"), server.namespace(), &listen)?;
        let deadline = Instant::now() + PATIENCE;
        while !listening.said()?.contains("listening") {
            ensure!(Instant::now() < deadline, "{label}: the server does not listen: {}", listening.said()?);
            std::thread::sleep(Duration::from_millis(5));
        }
        let rate = format!("{mbit}M");
        let words = ["iperf3", "--json", "--client", &target, "--time", "86400", "--bitrate", &rate];
        let client = Program::start(label, client.namespace(), &words)?;
        Ok(Self { client, _server: listening })
    }

    /// Ends it; gives how many bytes were sent. A connection that broke, or stood still for a second, is an error.
    pub fn finish(self) -> anyhow::Result<u64> {
        let label = self.client.label.clone();
        let said = self.client.finish()?;
        let report: Report = serde_json::from_str(&said).with_context(|| format!("{label}: {said}"))?;
        ensure!(report.error.is_empty() || report.error.contains("interrupt"), "{label}: {}", report.error);
        let stood_still = report.intervals.iter().position(|i| i.sum.bytes == 0 && i.sum.seconds > 0.9);
        ensure!(stood_still.is_none(), "{label}: nothing was sent in second {stood_still:?}");
        Ok(report.intervals.iter().map(|interval| interval.sum.bytes).sum())
    }
}
