//! A lab of one node with its agent, and a source full of others; and what can be seen of them from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Source;
use crate::Binaries;
use crate::lab::cluster::ClusterNode;
use crate::lab::{Agent, Lab};
use crate::probe::pins;

/// Longer than any source takes to forget a node on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lab, the source, and a record of every route that the agent has deleted.
#[derive(Debug)]
pub struct World<S> {
    /// The source, to be driven.
    pub source: S,
    monitor: Monitor,
    lab: Lab,
}

impl<S: Source> World<S> {
    /// Starts source and agent.
    pub fn start() -> anyhow::Result<Self> {
        let builder = Lab::builder().nodes(1).podlane_stopped(Binaries::find()?);
        let lab = S::settings()
            .into_iter()
            .fold(builder, |lab, (key, value)| lab.agent_setting(key, value))
            .build()?;
        let source = S::start(&lab)?;
        lab.node(1).agent()?.start_and_wait()?;
        let monitor = Monitor::start(&lab)?;
        Ok(Self { source, monitor, lab })
    }

    /// The agent that listens to the source.
    pub fn agent(&self) -> anyhow::Result<&Agent> {
        self.lab.node(1).agent()
    }

    /// Waits until exactly these peers are in the agent's status, maps and routes.
    pub fn expect(&self, peers: &[&ClusterNode]) -> anyhow::Result<()> {
        let expected: BTreeMap<String, String> =
            peers.iter().map(|peer| (peer.pod_cidrs[0].to_string(), peer.addresses[0].to_string())).collect();
        let names: BTreeSet<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        self.wait(|status| {
            let told: BTreeSet<&str> =
                list(status, "peers").filter_map(|peer| peer["name"].as_str()).collect();
            ensure!(told == names, "the status has the peers {told:?} instead of {names:?}");
            let routes = self.kernel_routes()?;
            ensure!(routes == expected, "the kernel has {routes:?} instead of {expected:?}");
            let count = pins::entries(self.agent()?, "routes4")?.len();
            ensure!(count == peers.len(), "the map has {count} routes instead of {}", peers.len());
            Ok(())
        })
    }

    /// Waits until one of the agent's problems or warnings has all these words.
    pub fn expect_problem(&self, words: &[&str]) -> anyhow::Result<()> {
        self.wait(|status| {
            let told = list(status, "problems").chain(list(status, "warnings")).filter_map(Value::as_str);
            let found = told.clone().any(|problem| words.iter().all(|word| problem.contains(word)));
            ensure!(found, "no problem with {words:?} in {:?}", told.collect::<Vec<_>>());
            Ok(())
        })
    }

    /// Waits until the agent has no problem and no warning.
    pub fn expect_health(&self) -> anyhow::Result<()> {
        self.wait(|status| {
            let all = list(status, "problems").chain(list(status, "warnings")).collect::<Vec<_>>();
            ensure!(status["healthy"] == true && all.is_empty(), "not healthy: {all:?}");
            Ok(())
        })
    }

    /// Fails if the route to this peer was ever deleted.
    pub fn never_lost(&self, peer: &ClusterNode) -> anyhow::Result<()> {
        let seen = self.monitor.text()?;
        let cidr = peer.pod_cidrs[0].to_string();
        let deleted = seen.lines().find(|line| line.starts_with("Deleted") && line.contains(&cidr));
        ensure!(deleted.is_none(), "the route to {} was lost: {deleted:?}, in\n{seen}", peer.name);
        Ok(())
    }

    fn wait(&self, check: impl Fn(&Value) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let agent = self.agent()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = agent.status().and_then(|(status, _)| check(&status));
            match result {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("after {PATIENCE:?}; the log:\n{}", agent.log())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Pod CIDRs of peers and their next hops.
    fn kernel_routes(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let text = self.lab.node(1).exec(["ip", "-json", "route", "show", "proto", "80"])?;
        let routes: Vec<Value> =
            if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text)? };
        let field = |route: &Value, key: &str| route[key].as_str().map(str::to_owned);
        Ok(routes.iter().filter_map(|route| Some((field(route, "dst")?, field(route, "gateway")?))).collect())
    }
}

fn list<'a>(status: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + Clone {
    status[key].as_array().into_iter().flatten()
}

/// `ip monitor route` on the node.
#[derive(Debug)]
struct Monitor {
    child: Child,
    file: std::path::PathBuf,
}

impl Monitor {
    fn start(lab: &Lab) -> anyhow::Result<Self> {
        let node = lab.node(1);
        let file = node.dir().join("routes.log");
        let (out, _) = fs_err::File::create(&file)?.into_parts();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", node.namespace().path().display()))
            .args(["--", "ip", "monitor", "route"])
            .stdin(Stdio::null())
            .stdout(out)
            // It complains of namespaces that come and go elsewhere.
            .stderr(Stdio::null())
            .spawn()
            .context("starting ip monitor")?;
        let monitor = Self { child, file };
        // It listens once a route of our own shows.
        let deadline = Instant::now() + PATIENCE;
        let probe = |verb| node.exec(["ip", "route", verb, "blackhole", "198.51.100.1/32"]);
        while !monitor.text()?.contains("198.51.100.1") {
            ensure!(Instant::now() < deadline, "`ip monitor route` says nothing");
            probe("add")?;
            probe("del")?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(monitor)
    }

    fn text(&self) -> anyhow::Result<String> {
        Ok(fs_err::read_to_string(&self.file)?)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
