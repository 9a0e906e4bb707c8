//! One real agent in a cluster of thousands of nodes, all others of which exist only in its source.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lab::cluster::ClusterNode;
use crate::lab::{Agent, Builder, Lab};
use crate::probe::pins;
use crate::sources::Source;
use crate::{Binaries, Run};

const PATIENCE: Duration = Duration::from_secs(300);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// The other nodes.
    pub nodes: usize,
    /// Changes whose way into the maps is timed.
    pub changes: usize,
    /// How long the agent is watched while 1 % of the nodes change every minute, and while nothing changes.
    pub watched: Duration,
}

/// What one source's cluster costs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scale {
    /// The source.
    pub source: String,
    /// The other nodes.
    pub nodes: usize,
    /// From the agent's log line about the first full list until it is healthy, with everything in maps and routes.
    pub converged: Duration,
    /// From the start of the process until then.
    pub started: Duration,
    /// Resident memory of the agent after the changes, and its peak, in bytes.
    pub rss: u64,
    /// The peak.
    pub peak_rss: u64,
    /// Memory of the pinned maps, in bytes.
    pub map_memory: u64,
    /// From just before one node's change is written until the fast path's map has it: median and slowest.
    pub change_median: Duration,
    /// The slowest.
    pub change_slowest: Duration,
    /// Share of one CPU while 1 % of the nodes change every minute.
    pub cpu_changing: f64,
    /// Share of one CPU while nothing changes.
    pub cpu_idle: f64,
    /// From the start of the process until it is healthy, where everything is in place already.
    pub restarted: Duration,
}

/// Node `number` of the simulated ones. All are on the lab's segment.
fn node(number: usize, generation: usize) -> Result<ClusterNode> {
    let [high, low] = u16::try_from(number)?.to_be_bytes();
    let own = u8::try_from(generation % 2)?;
    Ok(ClusterNode {
        name: format!("node-{number:05}"),
        addresses: vec![[10, 100 + own, high, low].into()],
        pod_cidrs: vec![format!("10.{}.{low}.0/24", 128 + high).parse()?],
    })
}

/// Measures one source.
pub fn measure<S: Source>(name: &str, binaries: &Binaries, size: Size) -> Result<Scale> {
    let builder = Lab::builder().nodes(1).podlane_stopped(binaries.clone());
    let lab =
        S::settings().into_iter().fold(builder, |lab, (key, value)| Builder::agent_setting(lab, key, value));
    let lab = lab.agent_setting("logFormat", "json").build()?;
    let host = lab.node(1);
    // The other nodes' addresses, of both generations, are on the segment.
    host.exec(["ip", "address", "add", "10.100.255.254/15", "dev", crate::lab::UPLINK])?;
    let mut source = S::start(&lab)?;
    let mut nodes = (1..=size.nodes).map(|number| node(number, 0)).collect::<Result<Vec<_>>>()?;
    source.fill(&nodes)?;

    let agent = host.agent()?;
    let start = Instant::now();
    agent.start()?;
    wait_healthy(agent)?;
    let (started, now) = (start.elapsed(), std::time::SystemTime::now());
    let listed = first_list(agent, size.nodes)?;
    let converged = now.duration_since(listed).unwrap_or_default();
    verify(agent, host, size.nodes)?;

    let mut times = Vec::new();
    let mut generations = vec![0; size.nodes];
    let mut change = |index: usize| -> Result<ClusterNode> {
        let index = index % size.nodes;
        generations[index] += 1;
        nodes[index] = node(index + 1, generations[index])?;
        Ok(nodes[index].clone())
    };
    for number in 0..size.changes {
        let changed = change(number * 97)?;
        let begin = Instant::now();
        source.change(&changed)?;
        while !has_route(agent, &changed)? {
            ensure!(begin.elapsed() < PATIENCE, "the change of {} is not applied", changed.name);
        }
        times.push(begin.elapsed());
        // Not in step with anything of the agent's.
        std::thread::sleep(Duration::from_millis(150 + 37 * (number as u64 % 5)));
    }
    times.sort_unstable();

    let pid = agent.pid().context("the agent has ended")?;
    let cpu_idle = cpu_share(pid, size.watched, |_| Ok(()))?;
    let rate = size.nodes as f64 / 100.0 / 60.0;
    let mut made = 0;
    let cpu_changing = cpu_share(pid, size.watched, |elapsed| {
        while (made as f64) < elapsed.as_secs_f64() * rate {
            source.change(&change(7 + made * 31)?)?;
            made += 1;
        }
        Ok(())
    })?;
    let (rss, peak_rss) = memory(pid)?;
    let map_memory = map_memory(agent)?;

    agent.stop()?;
    let start = Instant::now();
    agent.start()?;
    wait_healthy(agent)?;
    let restarted = start.elapsed();
    Ok(Scale {
        source: name.to_owned(),
        nodes: size.nodes,
        converged,
        started,
        rss,
        peak_rss,
        map_memory,
        change_median: times.get(times.len() / 2).copied().unwrap_or_default(),
        change_slowest: times.last().copied().unwrap_or_default(),
        cpu_changing,
        cpu_idle,
        restarted,
    })
}

fn wait_healthy(agent: &Agent) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match agent.get("/healthz") {
            Ok((200, _)) => return Ok(()),
            other => ensure!(Instant::now() < deadline, "not healthy: {other:?}; the log:\n{}", agent.log()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// When the agent logged the first list with every node.
fn first_list(agent: &Agent, nodes: usize) -> Result<std::time::SystemTime> {
    for line in agent.log().lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        if line["fields"]["nodes"].as_u64().is_some_and(|count| count >= nodes as u64) {
            let text = line["timestamp"].as_str().context("a log line without a time")?;
            let seconds: f64 = Run::new("date").args(["-d", text, "+%s.%N"]).read()?.trim().parse()?;
            return Ok(std::time::UNIX_EPOCH + Duration::from_secs_f64(seconds));
        }
    }
    anyhow::bail!("the log says nothing of {nodes} nodes:\n{}", agent.log())
}

/// Every node is in the map and in the kernel's routes.
fn verify(agent: &Agent, host: &crate::lab::Node, nodes: usize) -> Result<()> {
    let entries = pins::entries(agent, "routes4")?.len();
    let text = host.exec(["ip", "route", "show", "proto", "80"])?;
    let routes: BTreeSet<&str> = text.lines().filter(|line| line.contains(" via ")).collect();
    ensure!((entries, routes.len()) == (nodes, nodes), "{entries} entries, {} routes", routes.len());
    Ok(())
}

/// Whether the fast path's map sends packets for the node's pods to its address.
fn has_route(agent: &Agent, node: &ClusterNode) -> Result<bool> {
    let map =
        pins::maps(agent)?.into_iter().find(|path| path.ends_with("routes4")).context("no map routes4")?;
    let (cidr, address) = (node.pod_cidrs[0], node.addresses[0]);
    let (std::net::IpAddr::V4(prefix), std::net::IpAddr::V4(hop)) = (cidr.ip(), address) else {
        return Ok(false);
    };
    let length = u32::from(cidr.prefix()).to_ne_bytes();
    let key: Vec<String> = length.into_iter().chain(prefix.octets()).map(|byte| byte.to_string()).collect();
    let found = Run::new("bpftool")
        .args(["--json", "map", "lookup", "pinned"])
        .arg(map)
        .arg("key")
        .args(key)
        .finish()?;
    let value: Value = serde_json::from_str(&found.stdout).unwrap_or_default();
    let bytes: Vec<u64> = value["formatted"]["value"]["next_hop"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect();
    Ok(bytes.get(..4).is_some_and(|found| found.iter().zip(hop.octets()).all(|(a, b)| *a == u64::from(b))))
}

/// The process's share of one CPU while `work` is called again and again.
fn cpu_share(pid: u32, watched: Duration, mut work: impl FnMut(Duration) -> Result<()>) -> Result<f64> {
    let (begin, before) = (Instant::now(), cpu_time(pid)?);
    while begin.elapsed() < watched {
        work(begin.elapsed())?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((cpu_time(pid)? - before) / begin.elapsed().as_secs_f64())
}

/// Seconds of CPU that a process has used.
fn cpu_time(pid: u32) -> Result<f64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(ticks as f64 / per_second as f64)
}

/// Resident memory and its peak.
fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("/proc/PID/status")?;
        Ok(line.split_whitespace().next().unwrap_or_default().parse::<u64>()? * 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

fn map_memory(agent: &Agent) -> Result<u64> {
    let mut sum = 0;
    for map in pins::maps(agent)? {
        let shown = Run::new("bpftool").args(["--json", "map", "show", "pinned"]).arg(&map).read()?;
        sum += serde_json::from_str::<Value>(&shown)?["bytes_memlock"].as_u64().unwrap_or(0);
    }
    Ok(sum)
}
