//! Agents die and come back under load, on a full node: not one packet is lost, no connection breaks.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use podlane_tests::lab::Pod;
use podlane_tests::probe::ongoing::{Iperf, Ping};
use podlane_tests::probe::{state, steady::Steady};
use podlane_tests::{Binaries, Lab};

/// Sets how many times an agent is killed: 50 take a minute more.
const ROUNDS_VARIABLE: &str = "PODLANE_RESTARTS";
/// Builds of `podlane` to take turns with the one under test, paths separated by colons: upgrades and downgrades.
const OTHERS_VARIABLE: &str = "PODLANE_RESTART_BINARIES";
/// As many as kubelet allows on a node.
const PODS_HERE: usize = 110;
const PODS_THERE: usize = 12;
/// Of each iperf3: with more, the CPUs are busy with it and nothing else.
const MBIT: u32 = 20;

#[test]
fn killed_and_restarted_agents_cost_no_packet_and_no_connection() -> anyhow::Result<()> {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(Ok(15), |rounds| rounds.parse())?;
    let mut builds: Vec<PathBuf> = vec![Binaries::find()?.podlane];
    builds.extend(std::env::var_os(OTHERS_VARIABLE).iter().flat_map(std::env::split_paths));
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    for (node, count) in lab.nodes().iter().zip([PODS_HERE, PODS_THERE]) {
        let names: Vec<_> = (1..=count).map(|number| format!("p{number}")).collect();
        node.add_pods(&names)?;
    }
    let before = lab.nodes().iter().map(state::of).collect::<anyhow::Result<Vec<_>>>()?;

    let (here, there) = (lab.node(1).pods(), lab.node(2).pods());
    let pair = |a: &[Pod], n: usize, b: &[Pod], m: usize| (a[n].clone(), b[m].clone());
    let pairs = [
        pair(&here, 0, &here, PODS_HERE - 1),
        pair(&there, 0, &there, 1),
        pair(&here, 2, &there, 2),
        pair(&there, 3, &here, 3),
        pair(&here, 54, &there, 5),
    ];
    let (mut messages, mut pings, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (client, server)) in pairs.iter().enumerate() {
        messages.push(Steady::udp(client, server)?);
        messages.push(Steady::tcp(client, server)?);
        // Busy all the time at this pace: one on the node and one across are what the machine can bear.
        if [0, 2].contains(&number) {
            pings.push(Ping::start(client, server)?);
        }
        streams.push(Iperf::start(client, server, MBIT)?);
    }

    let mut times: Vec<Duration> = Vec::new();
    for round in 0..rounds {
        // The full node twice as often.
        let agent = lab.node(if round % 3 == 2 { 2 } else { 1 }).agent()?;
        agent.kill()?;
        let start = Instant::now();
        agent.start_binary(&builds[round % builds.len()])?;
        agent.wait_ready()?;
        if round % 3 != 2 {
            times.push(start.elapsed());
        }
    }
    // What is compared at the end is this build's state.
    if builds.len() > 1 {
        for node in lab.nodes() {
            node.agent()?.kill()?;
            node.agent()?.start_and_wait()?;
        }
    }
    let (mut sent, mut slowest, mut requests, mut bytes) = (0, Duration::ZERO, 0, 0);
    for conversation in messages {
        let seen = conversation.finish()?;
        sent += seen.sent;
        slowest = slowest.max(seen.slowest);
    }
    for ping in pings {
        requests += ping.finish()?;
    }
    for stream in streams {
        bytes += stream.finish()?;
    }
    times.sort_unstable();
    println!(
        "{rounds} restarts; {requests} pings and {sent} messages, none lost, the slowest answer to a message after \
         {slowest:?}; {} MB by iperf3; with {PODS_HERE} pods ready after {:?} (median), {:?} (slowest)",
        bytes / 1_000_000,
        times.get(times.len() / 2).copied().unwrap_or_default(),
        times.last().copied().unwrap_or_default()
    );
    for (node, before) in lab.nodes().iter().zip(before) {
        let after = state::of(node)?;
        let changed: Vec<_> = after.symmetric_difference(&before).collect();
        assert!(changed.is_empty(), "{}: {changed:#?}", node.name());
    }
    Ok(())
}

/// The kernel's switch for short grace periods, of the whole machine: other tests' agents set it now and then too, for
/// milliseconds.
const SWITCH: &str = "/sys/kernel/rcu_expedited";
const PATIENCE: Duration = Duration::from_secs(30);

fn wait_until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn short_grace_periods_end_with_the_work_or_with_the_next_agent() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let marker = node.agent()?.run_dir().join("rcu-expedited");
    let is_off = || Ok(fs_err::read_to_string(SWITCH)?.trim() == "0");
    node.add_pod("a")?;
    node.del_pod("a")?;
    assert!(!marker.exists());
    wait_until("off after ADD and DEL", is_off)?;
    // As if the agent had been killed in the middle of one.
    node.agent()?.kill()?;
    fs_err::write(&marker, "")?;
    fs_err::write(SWITCH, "1")?;
    let started = node.agent()?.start_and_wait();
    let off = wait_until("off after a restart", is_off);
    if off.is_err() {
        fs_err::write(SWITCH, "0")?;
    }
    started.and(off)?;
    assert!(!marker.exists());
    Ok(())
}

/// What an agent writes to the switch while a pod comes and goes: `inotify` sees every writer on the machine, so the
/// Whether the agent uses the switch while a pod comes and goes: its marker is there only meanwhile, so one that somebody
/// else has made goes with it.
fn expedites(setting: bool) -> anyhow::Result<bool> {
    let lab = Lab::builder().podlane(Binaries::find()?).agent_setting("expediteRcu", setting).build()?;
    let node = lab.node(1);
    let marker = node.agent()?.run_dir().join("rcu-expedited");
    fs_err::write(&marker, "")?;
    // Not where another test's agent has turned the switch on at that moment.
    for round in 0..20 {
        let name = format!("p{round}");
        node.add_pod(&name)?;
        node.del_pod(&name)?;
        if !marker.exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn grace_periods_are_left_alone_where_the_operator_says_so() -> anyhow::Result<()> {
    ensure!(expedites(true)?, "the switch was not used");
    ensure!(!expedites(false)?, "the switch was used");
    Ok(())
}
