//! A node that has been switched off and on: pods, devices, maps and `/run` are gone, the configuration is not.

use anyhow::ensure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podlane_tests::Topology;
use podlane_tests::lab::Node;
use podlane_tests::probe::{failures, ping, state};

/// What a reboot does to a node's network namespace, bpffs and `/run`; nobody told the agent.
fn reboot(node: &Node) -> anyhow::Result<()> {
    let agent = node.agent()?;
    agent.kill()?;
    for pod in node.pods() {
        pod.namespace().delete()?;
    }
    let bpffs = node.dir().join("bpf");
    umount2(&bpffs, MntFlags::MNT_DETACH)?;
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)?;
    fs_err::remove_dir_all(agent.run_dir())?;
    for line in node.exec(["ip", "-oneline", "link", "show"])?.lines() {
        let device = line.split_whitespace().nth(1).unwrap_or_default().trim_end_matches(':');
        let device = device.split('@').next().unwrap_or_default();
        if device.starts_with("pl") {
            // Pods' namespaces take theirs along, at a time of the kernel's choice.
            node.command(["ip", "link", "delete", device]).finish()?;
        }
    }
    for family in ["-4", "-6"] {
        node.exec(["ip", family, "route", "flush", "proto", "80"])?;
        node.exec(["ip", family, "address", "flush", "dev", "lo", "scope", "global"])?;
        for rule in
            node.exec(["ip", family, "rule", "show"])?.lines().filter(|line| line.starts_with("1080:"))
        {
            let words: Vec<_> = rule.split_whitespace().skip(1).collect();
            node.exec(["ip", family, "rule", "delete"].into_iter().chain(words))?;
        }
    }
    node.exec(["nft", "flush", "ruleset"])?;
    node.namespace().sysctl("net/ipv4/ip_forward", "0")?;
    node.namespace().sysctl("net/ipv6/conf/all/forwarding", "0")
}

fn run(topology: Topology) -> anyhow::Result<()> {
    let lab = topology.lab()?.build()?;
    let node = lab.node(1);
    let fresh = state::of(node)?;
    for node in lab.nodes() {
        node.ready_pods(["a", "b", "c"])?;
    }
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    let others = lab.node(2).pods();
    reboot(node)?;
    node.agent()?.start_and_wait()?;
    let after = state::of(node)?;
    ensure!(after == fresh, "{:?}", after.symmetric_difference(&fresh).collect::<Vec<_>>());
    let (status, code) = node.agent()?.status()?;
    ensure!(code == Some(0) && status["pods"] == 0, "{status}");
    for list in ["problems", "warnings", "repairs"] {
        ensure!(status[list] == serde_json::json!([]), "{status}");
    }
    // The runtime makes its pods anew, and they talk to those that have lived on. The late DELs of the old ones do nothing.
    let [d, e] = node.ready_pods(["d", "e"])?;
    for old in node.pods().iter().filter(|pod| ["a", "b", "c"].contains(&pod.name())) {
        node.pod_call("DEL", old)?.with("CNI_NETNS", "").make()?.success()?;
    }
    let pairs: Vec<_> = others
        .iter()
        .flat_map(|other| [(d.clone(), other.clone()), (other.clone(), e.clone())])
        .chain([(d.clone(), e.clone())])
        .collect();
    assert_eq!(failures(&ping::ping_pairs(&pairs, || {})), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_rebooted_node_comes_up_clean() -> anyhow::Result<()> {
    run(Topology::Direct)
}

#[test]
fn a_rebooted_node_with_an_overlay_comes_up_clean() -> anyhow::Result<()> {
    run(Topology::Vxlan)
}
