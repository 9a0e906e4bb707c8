//! The cluster file: read, watched, and refused where it is wrong.

use std::time::{Duration, Instant};

use podlane_tests::lab::{Agent, Node};
use podlane_tests::probe::{counters, failures, ping};
use podlane_tests::{Binaries, Lab};

/// Waits until `podlane status` says something; fails with what it said last.
fn wait_for_status(
    agent: &Agent,
    what: &str,
    wanted: impl Fn(&serde_json::Value, Option<i32>) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        // An agent that has just been started does not answer yet.
        let status = agent.status();
        if status.as_ref().is_ok_and(|(status, code)| wanted(status, *code)) {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "`podlane status` never {what}: {status:?}; the log:\n{}",
            agent.log(),
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is wrong, of whatever weight.
fn problems(status: &serde_json::Value) -> String {
    let texts = ["problems", "warnings"].map(|key| status[key].as_array().cloned().unwrap_or_default());
    serde_json::Value::from(texts.concat()).to_string()
}

/// Starts an agent that must not become ready, and gives what it says about it.
fn refusal(node: &Node, words: &[&str]) -> anyhow::Result<()> {
    let agent = node.agent()?;
    agent.start()?;
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let log = agent.log();
        if words.iter().all(|word| log.contains(word)) {
            break;
        }
        anyhow::ensure!(Instant::now() < deadline, "the log does not name {words:?}:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Ok((status, body)) = agent.get("/healthz") {
        anyhow::ensure!(status == 503, "/healthz: {status} {body}");
    }
    Ok(())
}

#[test]
fn overlapping_pod_cidrs_are_refused_with_both_names_and_the_rest_goes_on() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(3).podlane_stopped(Binaries::find()?).build()?;
    let mut cluster = lab.cluster();
    cluster.nodes[1].pod_cidrs = vec!["10.244.1.128/25".parse()?];
    lab.write_cluster(&cluster)?;
    let agent = lab.node(1).agent()?;
    agent.start()?;
    wait_for_status(agent, "named the overlap", |status, code| {
        let problems = problems(status);
        let named = ["10.244.1.128/25", "10.244.1.0/24", "node1", "node2"];
        let peers: Vec<_> =
            status["peers"].as_array().into_iter().flatten().map(|peer| &peer["name"]).collect();
        named.iter().all(|word| problems.contains(word)) && peers == ["node3"] && code == Some(0)
    })
}

#[test]
fn a_node_without_a_pod_cidr_is_refused_by_its_name() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane_stopped(Binaries::find()?).build()?;
    let mut cluster = lab.cluster();
    cluster.nodes[0].pod_cidrs.clear();
    lab.write_cluster(&cluster)?;
    refusal(lab.node(1), &["node1", "podCIDRs"])
}

#[test]
fn a_cluster_file_without_this_node_is_refused_by_its_name() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane_stopped(Binaries::find()?).build()?;
    let mut cluster = lab.cluster();
    cluster.nodes.remove(0);
    lab.write_cluster(&cluster)?;
    refusal(lab.node(1), &["node1", "not in the cluster", "nodeName"])
}

#[test]
fn a_file_that_becomes_invalid_keeps_the_old_state_and_says_why() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    for node in lab.nodes() {
        node.add_pod("a")?;
    }
    let agent = lab.node(1).agent()?;
    let mut overlapping = lab.cluster();
    overlapping.nodes[1].pod_cidrs = overlapping.nodes[0].pod_cidrs.clone();
    let invalid = [("nodes: [{", "cluster.yaml"), (&serde_norway::to_string(&overlapping)?, "10.244.1.0/24")];
    for (text, word) in invalid {
        lab.write_cluster_text(text)?;
        wait_for_status(agent, "named the problem", |status, code| {
            problems(status).contains(word) && code == Some(0)
        })?;
        assert!(agent.log().contains(word), "{}", agent.log());
        let (status, _) = agent.status()?;
        assert_eq!(status["peers"][0]["name"], "node2", "{status}");
        // What was there works on, still on the fast path, and so do new pods.
        let before = counters::forwarded_by(lab.nodes())?;
        assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
        assert_eq!(counters::forwarded_by(lab.nodes())?, before);
        lab.write_cluster(&lab.cluster())?;
        wait_for_status(agent, "recovered", |status, code| problems(status) == "[]" && code == Some(0))?;
    }
    Ok(())
}

#[test]
fn a_node_that_joins_or_leaves_is_noticed() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(3).podlane_stopped(Binaries::find()?).build()?;
    let mut two = lab.cluster();
    let third = two.nodes.pop();
    lab.write_cluster(&two)?;
    for node in &lab.nodes()[..2] {
        node.agent()?.start_and_wait()?;
        node.add_pod("a")?;
    }
    lab.write_cluster(&lab.cluster())?;
    lab.node(3).agent()?.start_and_wait()?;
    lab.node(3).add_pod("a")?;
    for node in lab.nodes() {
        wait_for_status(node.agent()?, "knew two peers", |status, _| {
            status["peers"].as_array().is_some_and(|peers| peers.len() == 2)
        })?;
    }
    let before = counters::forwarded_by(lab.nodes())?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    assert_eq!(counters::forwarded_by(lab.nodes())?, before);

    lab.write_cluster(&two)?;
    let agent = lab.node(1).agent()?;
    wait_for_status(agent, "forgot the node that left", |status, _| {
        status["peers"].as_array().is_some_and(|peers| peers.len() == 1)
    })?;
    let gone = third.map(|node| node.pod_cidrs[0].to_string()).unwrap_or_default();
    let routes = lab.node(1).exec(["ip", "route"])?;
    assert!(!routes.contains(&gone), "{routes}");
    assert_eq!(podlane_tests::probe::pins::entries(agent, "routes4")?.len(), 1);
    Ok(())
}
