//! Another version of the agent, with another map layout and newer records, takes over and gives back: not one packet is
//! lost, no connection breaks, and what an older agent cannot read it leaves alone.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use dataplane_common::LAYOUT;
use podlane_tests::lab::{Agent, Node, Pod};
use podlane_tests::probe::path::{Family, Path};
use podlane_tests::probe::{counters, failures, ping, pins, state, steady::Steady, tcp};
use podlane_tests::services::{Rules, Service};
use podlane_tests::{Binaries, Lab, Topology};
use serde_json::Value;

/// Sets how many times an agent is exchanged.
const ROUNDS_VARIABLE: &str = "PODLANE_UPGRADES";
/// More steps than a start has.
const MOST_STEPS: u32 = 400;

/// This version and the other one.
fn versions() -> anyhow::Result<[PathBuf; 2]> {
    let binaries = Binaries::find()?;
    Ok([binaries.podlane.clone(), binaries.other_podlane()?])
}

/// The folders of the layouts under which anything is pinned.
fn layouts(agent: &Agent) -> anyhow::Result<BTreeSet<String>> {
    let below = agent.bpf_dir();
    let folder = |file: &PathBuf| {
        let inside = file.strip_prefix(&below).ok()?;
        Some(inside.components().next()?.as_os_str().to_string_lossy().into_owned())
    };
    let mut layouts: BTreeSet<_> = pins::files_below(&below)?.iter().filter_map(folder).collect();
    for entry in fs_err::read_dir(&below)? {
        layouts.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(layouts)
}

/// Starts the agent in that version, in the place of the one that is there, if any.
fn exchange(agent: &Agent, version: &std::path::Path) -> anyhow::Result<()> {
    if agent.pid().is_some() {
        agent.kill()?;
    }
    agent.set_binary(version);
    agent.start_and_wait()
}

fn warnings(agent: &Agent) -> anyhow::Result<String> {
    Ok(agent.status()?.0["warnings"].to_string())
}

/// All packets that the programs have counted.
fn packets(agent: &Agent) -> anyhow::Result<u64> {
    let (status, _) = agent.status()?;
    let counters = status["counters"].as_array().cloned().unwrap_or_default();
    Ok(counters.iter().filter_map(|counter| counter["packets"].as_u64()).sum())
}

fn run(topology: Topology, attach: &str, xdp: &str) -> anyhow::Result<()> {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(Ok(8), |rounds| rounds.parse())?;
    let versions = versions()?;
    let lab = topology.lab()?.agent_setting("attach", attach).agent_setting("xdp", xdp).build()?;
    let [a, b, backend] = lab.node(1).ready_pods(["a", "b", "backend"])?;
    let [c, d] = lab.node(2).ready_pods(["c", "d"])?;
    let service = Service::of(&backend, Family::V4)?;
    for node in lab.nodes() {
        service.set(Rules::Nftables, node, false)?;
    }
    let before = lab.nodes().iter().map(state::of).collect::<anyhow::Result<Vec<_>>>()?;

    // Connections on which nobody speaks, so that nothing notes their flows anew.
    let idle = |client: &Pod| {
        let backend = backend.namespace();
        tcp::connect(&Path::by_service(client.namespace(), service.cluster_ip(), backend, service.listen()))
    };
    let mut idle = [idle(&a)?, idle(&c)?];
    let conversations = [
        Steady::ping(&a, &b)?,
        Steady::ping(&a, &c)?,
        Steady::udp(&c, &a)?,
        Steady::tcp(&b, &a)?,
        Steady::tcp(&a, &d)?,
        Steady::service(&a, &service, &backend)?,
        Steady::service(&c, &service, &backend)?,
        Steady::connections(&b, &service, &backend)?,
    ];
    let mut times: Vec<Duration> = Vec::new();
    for round in 0..rounds {
        // Each node up and down again, at different times.
        let node = lab.node(1 + round % 2);
        let version = &versions[usize::from(round / 2 % 2 == 0)];
        let agent = node.agent()?;
        let counted = packets(agent)?;
        let begin = Instant::now();
        exchange(agent, version)?;
        times.push(begin.elapsed());
        let found = layouts(agent)?;
        let expected = if round / 2 % 2 == 0 { "v999" } else { LAYOUT };
        ensure!(found == [expected.to_owned()].into(), "{found:?}; the log:\n{}", agent.log());
        let flows = pins::entries(agent, "stack_flows4")?;
        ensure!(!flows.is_empty(), "flows of the service are lost: {flows:?}; the log:\n{}", agent.log());
        ensure!(packets(agent)? >= counted, "the counters started anew");
        for connection in &mut idle {
            // The server speaks first: its packet has to find the way through the stack that the client's first one took.
            connection.accepted.write_all(b"news")?;
            let mut heard = [0; 4];
            connection.outgoing.read_exact(&mut heard).context("hearing the service's news")?;
        }
        ensure!(warnings(agent)? == "[]", "{}", warnings(agent)?);
    }
    let mut sent = 0;
    for conversation in conversations {
        sent += conversation.finish()?.sent;
    }
    times.sort_unstable();
    println!(
        "{rounds} upgrades and downgrades, {sent} messages, none lost; ready after {:?} (median)",
        times.get(times.len() / 2).copied().unwrap_or_default()
    );
    for (node, before) in lab.nodes().iter().zip(before) {
        exchange(node.agent()?, &versions[0])?;
        let after = state::of(node)?;
        ensure!(
            after == before,
            "{}: {:?}",
            node.name(),
            after.symmetric_difference(&before).collect::<Vec<_>>()
        );
    }
    // And the kernels forward nothing of what the programs can.
    let forwarded = counters::forwarded_by(lab.nodes())?;
    let pairs = [(a.clone(), b.clone()), (a, c.clone()), (d, b)];
    assert_eq!(failures(&ping::ping_pairs(&pairs, || {})), Vec::<String>::new());
    ensure!(counters::forwarded_by(lab.nodes())? == forwarded, "the kernels forward");
    Ok(())
}

#[test]
fn upgrades_and_downgrades_cost_no_packet_and_no_connection() -> anyhow::Result<()> {
    run(Topology::Direct, "tcx", "off")
}

#[test]
fn neither_with_clsact() -> anyhow::Result<()> {
    run(Topology::Direct, "clsact", "off")
}

#[test]
fn nor_with_xdp_and_an_overlay() -> anyhow::Result<()> {
    run(Topology::Vxlan, "tcx", "native")
}

/// Without what differs between the versions: the folders' names.
fn state_of(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let keep = |line: &String| !line.starts_with("pods4") && !line.starts_with("pods6");
    let plain = |line: String| line.replace(" linkdown", "").replace("/v999/", &format!("/{LAYOUT}/"));
    Ok(state::of(node)?.into_iter().filter(keep).map(plain).collect())
}

#[test]
fn an_agent_killed_at_any_step_of_taking_over_comes_back_to_the_truth() -> anyhow::Result<()> {
    let versions = versions()?;
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let agent = node.agent()?;
    let [a, b, backend] = node.ready_pods(["a", "b", "backend"])?;
    let [c] = lab.node(2).ready_pods(["c"])?;
    let service = Service::of(&backend, Family::V4)?;
    for node in lab.nodes() {
        service.set(Rules::Nftables, node, false)?;
    }
    let conversations = [
        Steady::udp(&a, &b)?,
        Steady::udp(&a, &c)?,
        Steady::tcp(&c, &b)?,
        Steady::service(&a, &service, &backend)?,
        Steady::service(&c, &service, &backend)?,
    ];
    let before = state_of(node)?;
    let failpoint = agent.run_dir().join("failpoint");
    let mut steps = 0;
    // `now` is the version that left its maps; an odd step is followed by an agent of its version, an even one by another
    // start of the version that was killed.
    let mut now = 0;
    for n in 1..MOST_STEPS {
        agent.kill()?;
        fs_err::write(&failpoint, n.to_string())?;
        let next = 1 - now;
        agent.set_binary(&versions[next]);
        agent.start()?;
        let died = loop {
            if !failpoint.exists() {
                break true;
            }
            if agent.get("/healthz").is_ok_and(|(status, _)| status == 200) {
                break false;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if died {
            agent.wait_exit()?;
            now = if n % 2 == 1 { now } else { next };
            exchange(agent, &versions[now])?;
        } else {
            fs_err::remove_file(&failpoint)?;
            now = next;
        }
        let what =
            format!("killed at step {n}, then the {} version", if now == 0 { "same" } else { "other" });
        let after = state_of(node)?;
        ensure!(
            after == before,
            "{what}: {:?}; the log:\n{}",
            after.symmetric_difference(&before).collect::<Vec<_>>(),
            agent.log()
        );
        ensure!(layouts(agent)?.len() == 1, "{what}: {:?}", layouts(agent)?);
        if !died {
            break;
        }
        steps = n;
    }
    for conversation in conversations {
        conversation.finish().with_context(|| format!("killed at each of {steps} steps"))?;
    }
    println!("killed at each of {steps} steps of taking over");
    assert!(steps > 40 && steps + 2 < MOST_STEPS, "{steps} steps");
    Ok(())
}

#[test]
fn until_the_cluster_is_known_the_former_agents_programs_forward() -> anyhow::Result<()> {
    let versions = versions()?;
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let [a, b] = lab.node(1).ready_pods(["a", "b"])?;
    let [c] = lab.node(2).ready_pods(["c"])?;
    let agent = lab.node(1).agent()?;
    let conversations = [Steady::udp(&a, &b)?, Steady::udp(&a, &c)?, Steady::tcp(&c, &a)?];
    let forwarded = counters::forwarded_by(lab.nodes())?;
    agent.kill()?;
    let cluster = lab.cluster_file();
    let aside = cluster.with_extension("aside");
    fs_err::rename(&cluster, &aside)?;
    agent.set_binary(&versions[1]);
    agent.start()?;
    let restored = Instant::now() + Duration::from_secs(20);
    while !agent.log().contains("attachments restored restored=2") {
        ensure!(Instant::now() < restored, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    ensure!(agent.get("/readyz")?.0 == 503, "ready without a cluster");
    ensure!(warnings(agent)?.contains("until the cluster is known"), "{}", warnings(agent)?);
    ensure!(layouts(agent)? == [LAYOUT.to_owned(), "v999".to_owned()].into(), "{:?}", layouts(agent)?);
    ensure!(counters::forwarded_by(lab.nodes())? == forwarded, "the kernels forward");
    fs_err::rename(&aside, &cluster)?;
    agent.wait_ready()?;
    ensure!(layouts(agent)? == ["v999".to_owned()].into(), "{:?}", layouts(agent)?);
    ensure!(warnings(agent)? == "[]", "{}", warnings(agent)?);
    for conversation in conversations {
        conversation.finish()?;
    }
    Ok(())
}

fn assert_intact(agent: &Agent, pod: &Pod) -> anyhow::Result<()> {
    let (status, body) = agent.get(&format!("/v1/attachments/{}/eth0/check", pod.container_id()))?;
    ensure!(status == 200, "{status} {body}");
    Ok(())
}

fn records(agent: &Agent) -> anyhow::Result<Vec<Value>> {
    let files = pins::files_below(&agent.run_dir().join("attachments"))?;
    files.iter().map(|file| Ok(serde_json::from_slice(&fs_err::read(file)?)?)).collect()
}

#[test]
fn older_records_are_read_and_newer_ones_named_and_left_alone() -> anyhow::Result<()> {
    let [this, other] = versions()?;
    // Room for five pods.
    let lab = Lab::builder().pod_cidrs(1, ["10.244.1.0/29".parse()?]).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let agent = node.agent()?;
    let older = node.add_pod("older")?;
    exchange(agent, &other)?;
    let newer = node.add_pod("newer")?;
    assert_intact(agent, &older)?;
    let mut versions: Vec<_> =
        records(agent)?.iter().filter_map(|record| record["version"].as_u64()).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2], "an older record is left as it is until it changes");
    let conversations =
        [Steady::udp(&older, &newer)?, Steady::tcp(&newer, &older)?, Steady::ping(&newer, &older)?];

    exchange(agent, &this)?;
    let text = warnings(agent)?;
    let file = format!("{}-eth0.json is of version 2", newer.container_id());
    ensure!(text.contains(&file) && text.contains(&newer.address().to_string()), "{text}");
    ensure!(agent.log().contains(&file), "{}", agent.log());
    ensure!(agent.status()?.1 == Some(0), "one pod's record makes the node unhealthy");
    // Its address is nobody else's.
    let names = ["x", "y", "z"];
    node.add_pods(&names)?;
    ensure!(node.pods().iter().filter(|pod| pod.address() == newer.address()).count() == 1);
    let sandbox = node.make_sandbox("full")?;
    let refusal = node.call("ADD", "full", &sandbox)?.make()?.failure()?;
    ensure!(refusal.code == 101, "{refusal:?}");
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    // A restart changes nothing of it, nor does the upgrade.
    agent.restart()?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    for conversation in conversations {
        conversation.finish()?;
    }
    exchange(agent, &other)?;
    ensure!(warnings(agent)? == "[]", "{}", warnings(agent)?);
    assert_intact(agent, &newer)?;
    // The runtime may delete the pod also while nobody understands its record.
    exchange(agent, &this)?;
    node.del_pod("newer")?;
    ensure!(warnings(agent)? == "[]", "{}", warnings(agent)?);
    node.attach("full", sandbox)?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    Ok(())
}

#[test]
fn clean_up_removes_the_traces_of_every_version() -> anyhow::Result<()> {
    let [this, other] = versions()?;
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    let agent = node.agent()?;
    exchange(agent, &other)?;
    node.add_pods(&["a", "b"])?;
    agent.stop()?;
    agent.set_binary(&this);
    agent.cli(["cleanup"])?.success()?;
    assert_eq!(state::of(node)?, before);
    Ok(())
}
