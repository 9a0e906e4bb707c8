//! The bench of the programs is an executable of its own: it needs the programs, which xtask must not.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use podlane_tests::bench::{Answer, Forwarding, Programs, Question, Receiver, Route};
use podlane_tests::contender::{Contender, Endpoint, Kind};
use serde::Serialize;

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

/// By a process of its own, see [`Question`].
pub(super) fn ask(bench: &Path, question: &Question) -> Result<Answer> {
    answer(bench, "ask", question)
}

/// A contender's ways for frames from the wire into a pod on the other node.
pub(super) const fn receivers(kind: Kind) -> &'static [Receiver] {
    match kind {
        Kind::PodlaneXdp => &[Receiver::Native, Receiver::Floor],
        _ => &[Receiver::Stack],
    }
}

/// Frames per second from the wire into a pod of the first contender, in turns with the second at tc.
pub(super) fn forwarding(
    bench: &Path,
    contenders: [&Contender; 2],
    receiver: Receiver,
    plan: &Plan,
) -> Result<Answer> {
    let route = route(contenders[0], receiver)?;
    let beside = self::route(contenders[1], Receiver::Stack)?;
    answer(bench, "forward", &Forwarding { route, beside, frames: plan.frames, turns: plan.forwarding })
}

fn route(contender: &Contender, receiver: Receiver) -> Result<Route> {
    let pair = &contender.across_nodes;
    let address = |endpoint: &Endpoint| match endpoint.address(false) {
        Some(IpAddr::V4(address)) => Ok(address),
        _ => bail!("{} has no IPv4 address", endpoint.namespace.name()),
    };
    let [from, node] = [1, 2].map(|number| contender.lab().node(number).namespace().clone());
    Ok(Route {
        from,
        node,
        pod: pair.server.namespace.clone(),
        source: address(&pair.client)?,
        destination: address(&pair.server)?,
        receiver,
    })
}

fn answer(bench: &Path, task: &str, question: &impl Serialize) -> Result<Answer> {
    let question = serde_json::to_string(question)?;
    let asked = || format!("{} {task} {question}", bench.display());
    let output = Command::new(bench).args([task, &question]).output().with_context(asked)?;
    ensure!(output.status.success(), "{}: {}", asked(), String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).with_context(asked)
}
