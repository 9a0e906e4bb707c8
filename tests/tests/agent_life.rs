//! The agent's ends and beginnings: traffic does not notice.

use podlane_tests::probe::{counters, failures, ping, pins, state};
use podlane_tests::{Binaries, Lab};

fn two_nodes() -> anyhow::Result<Lab> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    for node in lab.nodes() {
        node.add_pods(&["a", "b"])?;
    }
    Ok(lab)
}

/// All pairs reach each other, and no kernel forwards anything of it.
fn assert_fast_path(lab: &Lab) -> anyhow::Result<()> {
    let before = counters::forwarded_by(lab.nodes())?;
    let problems = failures(&ping::ping_pairs(&lab.pod_pairs(), || {}));
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let after = counters::forwarded_by(lab.nodes())?;
    anyhow::ensure!(before == after, "the kernels forwarded: {before:?} before, {after:?} after");
    Ok(())
}

#[test]
fn traffic_flows_while_a_killed_agent_is_away_and_it_takes_up_where_it_was() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let node = lab.node(1);
    let agent = node.agent()?;
    let before = state::of(node)?;
    agent.kill()?;
    assert_fast_path(&lab)?;
    agent.start_and_wait()?;
    assert_eq!(state::of(node)?, before);
    assert_fast_path(&lab)?;
    // It knows its pods: the next address is a new one, and the old pods can go.
    let pod = node.add_pod("c")?;
    assert!(node.pods().iter().filter(|other| other.address() == pod.address()).count() == 1);
    node.del_pods(&["a", "b"])?;
    assert_fast_path(&lab)
}

#[test]
fn a_stopped_agent_ends_with_status_0_and_leaves_the_traffic_flowing() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let agent = lab.node(1).agent()?;
    let status = agent.stop()?;
    assert!(status.success(), "{status}; the log:\n{}", agent.log());
    assert_fast_path(&lab)?;
    // No agent: `podlane status` says so by its exit status.
    assert_eq!(agent.cli(["status"])?.code, Some(2));
    Ok(())
}

#[test]
fn a_restarted_agent_removes_pods_whose_namespace_vanished() -> anyhow::Result<()> {
    let lab = two_nodes()?;
    let node = lab.node(1);
    let before = pins::entries(node.agent()?, "pods4")?.len();
    node.agent()?.kill()?;
    // As a machine that is too busy: the runtime deletes the sandbox, its DEL finds no agent.
    node.pods()[0].namespace().delete()?;
    node.agent()?.start_and_wait()?;
    assert_eq!(pins::entries(node.agent()?, "pods4")?.len(), before - 1);
    Ok(())
}

#[test]
fn clean_up_removes_every_trace() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane_stopped(Binaries::find()?).build()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    lab.start_agents()?;
    for node in lab.nodes() {
        node.add_pods(&["a", "b"])?;
    }
    assert!(state::of(node)?.len() > before.len() + 10);
    let agent = node.agent()?;
    agent.stop()?;
    agent.cli(["cleanup"])?.success()?;
    assert_eq!(state::of(node)?, before);
    // And again, when there is nothing.
    agent.cli(["cleanup"])?.success()?;
    Ok(())
}
