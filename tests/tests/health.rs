//! What makes a node unhealthy, and what is only a warning; when it is ready.

use std::time::{Duration, Instant};

use anyhow::ensure;
use podlane_tests::lab::{Agent, Node};
use podlane_tests::probe::ping;
use podlane_tests::{Binaries, Lab};
use serde_json::Value;

/// Waits until the agent's status is as it should be.
fn wait_for(agent: &Agent, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, _) = agent.status()?;
        if is(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the runtime hears: 0, or an error's code.
fn cni_status(node: &Node) -> anyhow::Result<u32> {
    let sandbox = node.pods()[0].sandbox();
    let call = node.call("STATUS", "none", &sandbox)?;
    let stdin = call.stdin.replace("1.0.0", "1.1.0");
    let answer = call.with_stdin(stdin).make()?;
    if answer.0.code == Some(0) { Ok(0) } else { Ok(answer.failure()?.code) }
}

/// Everything that asks about the node's health says yes.
fn assert_healthy(node: &Node) -> anyhow::Result<()> {
    let agent = node.agent()?;
    for path in ["/livez", "/readyz", "/healthz"] {
        let (status, body) = agent.get(path)?;
        ensure!(status == 200, "{path}: {status} {body}");
    }
    let (status, code) = agent.status()?;
    ensure!(code == Some(0) && status["healthy"] == true, "{status}");
    ensure!(cni_status(node)? == 0, "{status}");
    Ok(())
}

#[test]
fn a_peer_out_of_reach_is_a_warning() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).agent_setting("tunnel", "never").podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let [a, b] = node.ready_pods(["a", "b"])?;
    let text = fs_err::read_to_string(lab.cluster_file())?;
    // On no segment of this node's, and nothing may be tunnelled.
    lab.write_cluster_text(&text.replace("192.168.1.12", "192.168.77.12"))?;
    node.exec(["ip", "route", "add", "192.168.77.0/24", "via", "192.168.1.200", "dev", "uplink"])?;
    let status = wait_for(node.agent()?, |status| status["warnings"].to_string().contains("node2"))?;
    ensure!(status["peers"][0]["state"] == "unreachable", "{status}");
    ensure!(status["problems"] == serde_json::json!([]), "{status}");
    assert_healthy(node)?;
    let text = node.agent()?.cli(["status"])?.success()?;
    ensure!(text.contains("WARNING: ") && !text.contains("NOT HEALTHY"), "{text}");
    ping::ping(a.namespace(), b.address())?;
    node.add_pod("c").map(|_| ())
}

#[test]
fn a_missing_nft_is_a_warning() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    // The agent finds its programs by PATH, of which this is all that is left.
    let empty = node.dir().join("empty");
    fs_err::create_dir_all(&empty)?;
    node.agent()?.set_path(&empty);
    node.agent()?.start_and_wait()?;
    node.add_pod("a")?;
    let status = wait_for(node.agent()?, |status| status["warnings"].to_string().contains("nft"))?;
    ensure!(status["problems"] == serde_json::json!([]), "{status}");
    assert_healthy(node)
}

#[test]
fn a_node_without_its_address_is_unhealthy() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    node.add_pod("a")?;
    assert_healthy(node)?;
    node.exec(["ip", "address", "delete", "192.168.1.11/24", "dev", "uplink"])?;
    let status = wait_for(node.agent()?, |status| status["healthy"] == false)?;
    ensure!(status["problems"].to_string().contains("192.168.1.11"), "{status}");
    // It has started, and answers: neither a readiness nor a liveness probe should end it.
    for (path, expected) in [("/healthz", 503), ("/readyz", 200), ("/livez", 200)] {
        let (status, body) = node.agent()?.get(path)?;
        ensure!(status == expected, "{path}: {status} {body}");
    }
    ensure!(cni_status(node)? == 51, "{status}");
    node.exec(["ip", "address", "add", "192.168.1.11/24", "dev", "uplink"])?;
    wait_for(node.agent()?, |status| status["healthy"] == true)?;
    assert_healthy(node)
}

#[test]
fn before_the_first_cluster_list_it_is_not_ready() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let agent = node.agent()?;
    let cluster = fs_err::read_to_string(lab.cluster_file())?;
    fs_err::remove_file(lab.cluster_file())?;
    agent.start()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while agent.get("/livez").is_err() {
        ensure!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, body) = agent.get("/readyz")?;
    ensure!(status == 503 && body.contains("cluster"), "{status} {body}");
    ensure!(agent.get("/healthz")?.0 == 503);
    lab.write_cluster_text(&cluster)?;
    agent.wait_ready()?;
    node.add_pod("a")?;
    assert_healthy(node)?;
    // What was known stays in force, however the source fares.
    lab.write_cluster_text("nodes: [")?;
    wait_for(agent, |status| status["warnings"].to_string().contains("cluster.yaml"))?;
    assert_healthy(node)?;
    node.add_pod("b").map(|_| ())
}
