//! The bench of the programs is an executable of its own: it needs the programs, which xtask must not.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use podlane_tests::bench::Programs;
use podlane_tests::bench::ping_pong::{Question, RoundTrips};
use podlane_tests::contender::{Contender, Endpoint, Kind};
use serde::de::DeserializeOwned;

use super::plan::Plan;

pub(super) fn measure(bench: &Path, plan: &Plan) -> Result<Programs> {
    let mut command = Command::new(bench);
    if plan.quick {
        command.arg("--quick");
    }
    // Its standard error is its progress.
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", bench.display()))?;
    ensure!(output.status.success(), "{} failed ({})", bench.display(), output.status);
    serde_json::from_slice(&output.stdout).context("reading what the bench of the programs printed")
}

/// How frames get from the wire to a pod, when nothing but that is measured.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// As the kernel and programs at tc have them.
    Stack,
    /// By the native XDP program at the uplink.
    Native,
    /// By a program in its place that does nothing but send them there.
    Floor,
}

impl Way {
    /// A contender's ways, with what each is called in `bench.json`.
    pub(super) const fn of(kind: Kind) -> &'static [(Self, &'static str)] {
        match kind {
            Kind::PodlaneXdp => &[(Self::Native, "forwarding-pps"), (Self::Floor, "forwarding-floor-pps")],
            _ => &[(Self::Stack, "forwarding-pps")],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::Native => "native",
            Self::Floor => "floor",
        }
    }
}

/// Frames per second from the wire into a pod on the other node.
pub(super) fn forwarding(bench: &Path, contender: &Contender, way: Way, frames: u32) -> Result<f64> {
    let pair = &contender.across_nodes;
    let address = |endpoint: &Endpoint| endpoint.address(false).map(|address| address.to_string());
    let (source, destination) =
        address(&pair.client).zip(address(&pair.server)).context("no IPv4 address")?;
    let [from, node] = [1, 2].map(|number| contender.lab().node(number).namespace().name());
    let pod = pair.server.namespace.name();
    let frames = frames.to_string();
    ask(bench, &["forward", from, node, pod, &source, &destination, &frames, way.name()])
}

/// By a process of their own: where its code lies in memory (ASLR) makes a difference, and not the same for every contender.
pub(super) fn round_trips(bench: &Path, question: &Question) -> Result<RoundTrips> {
    ask(bench, &["round-trips", &serde_json::to_string(question)?])
}

fn ask<T: DeserializeOwned>(bench: &Path, arguments: &[&str]) -> Result<T> {
    let asked = || format!("{} {}", bench.display(), arguments.join(" "));
    let output = Command::new(bench).args(arguments).output().with_context(asked)?;
    ensure!(output.status.success(), "{}: {}", asked(), String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).with_context(asked)
}
