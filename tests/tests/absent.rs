//! No agent: runtimes are answered all the same.

use std::time::{Duration, Instant};

use anyhow::ensure;
use podlane_tests::lab::Node;
use podlane_tests::probe::{failures, ping, state};
use podlane_tests::{Binaries, Lab};

fn status(node: &Node) -> anyhow::Result<podlane_tests::lab::cni::Call> {
    let call = node.call("STATUS", "none", &node.pods()[0].sandbox())?;
    let stdin = call.stdin.replace("1.0.0", "1.1.0");
    Ok(call.with_stdin(stdin))
}

#[test]
fn without_an_agent_a_del_is_remembered_and_carried_out_by_the_next() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let agent = node.agent()?;
    node.add_pod("stays")?;
    let before = state::of(node)?;
    node.add_pods(&["a", "b", "c"])?;
    status(node)?.make()?.success()?;
    agent.kill()?;

    let start = Instant::now();
    let sandbox = node.make_sandbox("late")?;
    ensure!(node.call("ADD", "late", &sandbox)?.make()?.failure()?.code == 11);
    ensure!(start.elapsed() < Duration::from_secs(1), "ADD took {:?}", start.elapsed());
    ensure!(status(node)?.make()?.failure()?.code == 50);
    // Traffic goes on, and DELs succeed, the second one of a pod as well.
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    let repeated = node.pod_call("DEL", &node.pods()[0])?;
    ensure!(node.pods()[0].name() == "a");
    node.del_pods(&["a", "b", "c"])?;
    repeated.with("CNI_NETNS", "").make()?.success()?;
    node.call("DEL", "late", &sandbox)?.make()?.success()?;

    agent.start_and_wait()?;
    let after = state::of(node)?;
    ensure!(after == before, "{:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
    ensure!(agent.log().contains("caught_up=4"), "{}", agent.log());
    node.add_pods(&["a", "b", "c"])?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    status(node)?.make()?.success()?;
    Ok(())
}

#[test]
fn an_agent_that_works_but_has_a_problem_is_status_51() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    node.add_pod("a")?;
    // Pods of a node that the cluster does not have are reached by nobody.
    let cluster = fs_err::read_to_string(lab.cluster_file())?;
    lab.write_cluster_text(&cluster.replace("node1", "node9"))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let failure = loop {
        let answer = status(node)?.make()?;
        if answer.0.code != Some(0) {
            break answer.failure()?;
        }
        ensure!(Instant::now() < deadline, "a node that is not of the cluster has no problem");
        std::thread::sleep(Duration::from_millis(20));
    };
    ensure!(failure.code == 51 && failure.text().contains("node1, is not in the cluster"), "{failure:?}");
    Ok(())
}

#[test]
fn dels_race_an_agent_that_starts_and_none_is_lost() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    for round in 0..5 {
        let names: Vec<_> = (0..8).map(|n| format!("p{round}-{n}")).collect();
        node.add_pods(&names)?;
        node.agent()?.kill()?;
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let start = scope.spawn(|| node.agent()?.start_and_wait());
            for (n, name) in names.iter().enumerate() {
                std::thread::sleep(Duration::from_millis(5 * u64::try_from(n)?));
                node.del_pod(name)?;
            }
            start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let after = state::of(node)?;
        ensure!(after == before, "{:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
    }
    Ok(())
}
