//! How long a runtime waits for a CNI plugin: from the start of its process to its end.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Samples;
use crate::Binaries;
use crate::contender::plugins;
use crate::lab::{Lab, Sandbox, cni};

/// What the kernel still has to do when a plugin has ended, such as freeing a device's memory, is not to weigh on the next
/// one.
const AFTERMATH: Duration = Duration::from_millis(40);

/// Whose plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// podlane-cni, with its own addresses.
    Podlane,
    /// The bridge plugin of containernetworking, with host-local.
    Bridge,
    /// Its ptp plugin, with host-local.
    Ptp,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Podlane, Self::Bridge, Self::Ptp];

    /// Its name in `bench.json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Podlane => "podlane",
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
        }
    }
}

/// What a runtime asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Attach.
    Add,
    /// Detach.
    Del,
}

impl Operation {
    const fn command(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// A node with a pod network, and pods' namespaces that a runtime has made.
#[derive(Debug)]
pub struct Attacher {
    /// Whose plugin it calls.
    pub network: Network,
    lab: Lab,
    sandboxes: Vec<Sandbox>,
}

impl Attacher {
    /// Builds a node and so many namespaces.
    ///
    /// # Errors
    /// Where the lab cannot be built.
    pub fn build(network: Network, binaries: &Binaries, pods: usize) -> Result<Self> {
        let builder = Lab::builder();
        let lab = match network {
            Network::Podlane => builder.podlane(binaries.clone()).build()?,
            Network::Bridge => plugins::bridge(builder)?,
            Network::Ptp => plugins::ptp(builder)?,
        };
        let sandboxes =
            (0..pods).map(|n| lab.node(1).make_sandbox(&format!("p{n}"))).collect::<Result<_>>()?;
        Ok(Self { network, lab, sandboxes })
    }

    /// Milliseconds that one call takes, for the pod with that number, while nothing else is asked for.
    ///
    /// # Errors
    /// Where the plugin fails.
    pub fn one(&self, operation: Operation, pod: usize) -> Result<f64> {
        let call = self.call(operation, pod)?;
        let took = self.lab.node(1).namespace().run(|| time(&call))?;
        std::thread::sleep(AFTERMATH);
        took
    }

    /// Milliseconds that each call takes when all are made at once.
    ///
    /// # Errors
    /// Where the plugin fails.
    pub fn all(&self, operation: Operation) -> Result<Samples> {
        let calls =
            (0..self.sandboxes.len()).map(|pod| self.call(operation, pod)).collect::<Result<Vec<_>>>()?;
        let begin = Barrier::new(calls.len());
        let node = self.lab.node(1).namespace();
        let samples = std::thread::scope(|scope| {
            let work = |call| {
                node.run(|| {
                    begin.wait();
                    time(call)
                })?
            };
            let threads: Vec<_> = calls.iter().map(|call| scope.spawn(move || work(call))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<_>>()
                .map(Samples)
        });
        std::thread::sleep(10 * AFTERMATH);
        samples
    }

    fn call(&self, operation: Operation, pod: usize) -> Result<cni::Call> {
        let sandbox = self.sandboxes.get(pod).with_context(|| format!("no namespace for pod {pod}"))?;
        self.lab.node(1).call(operation.command(), &format!("p{pod}"), sandbox)
    }
}

/// Starts the plugin as a runtime does, straight from the node's namespace, which the calling thread is in.
fn time(call: &cni::Call) -> Result<f64> {
    let begin = Instant::now();
    let mut child = Command::new(&call.plugin)
        .env_clear()
        .envs(&call.environment)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", call.plugin.display()))?;
    let mut stdin = child.stdin.take().context("the plugin has no standard input")?;
    stdin.write_all(call.stdin.as_bytes()).context("writing the network configuration")?;
    drop(stdin);
    let output = child.wait_with_output().context("waiting for the plugin")?;
    let took: Duration = begin.elapsed();
    ensure!(
        output.status.success(),
        "{} failed ({}): {}{}",
        call.plugin.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(took.as_secs_f64() * 1e3)
}
