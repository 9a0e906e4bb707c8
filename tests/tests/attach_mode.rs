//! Programs attached by clsact, and a setting `attach` that changes while pods are there: every program runs once,
//! whatever came before.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use podlane_tests::lab::cni::Answer;
use podlane_tests::lab::{Node, Pod};
use podlane_tests::probe::ongoing::Ping;
use podlane_tests::probe::{failures, ping, pins, state};
use podlane_tests::{Binaries, Lab};
use serde_json::json;
use serde_norway::{Mapping, Value};

/// How often each program is attached to each device: filters as `bpftool net` lists them, links as they are pinned.
fn programs(node: &Node) -> anyhow::Result<BTreeMap<(String, String), usize>> {
    let mut programs = BTreeMap::new();
    for (program, device) in state::attached(node)? {
        *programs.entry((program, device)).or_default() += 1;
    }
    for link in pins::links(node.agent()?)? {
        let name = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (program, device) = name.split_once('-').context("a link's name has no device")?;
        *programs.entry((program.to_owned(), device.to_owned())).or_default() += 1;
    }
    Ok(programs)
}

/// CHECK, as a runtime does it.
fn check(node: &Node, pod: &Pod) -> anyhow::Result<Answer> {
    let mut config = node.plugin()?.config.clone();
    config["prevResult"] = json!({ "ips": [{ "address": format!("{}/32", pod.address()) }] });
    node.pod_call("CHECK", pod)?.with_stdin(config.to_string()).make()
}

/// The agent starts anew with another setting.
fn set(node: &Node, key: &str, value: impl Into<Value>) -> anyhow::Result<()> {
    let agent = node.agent()?;
    let file = agent.config_file();
    let mut config: Mapping = serde_norway::from_str(&fs_err::read_to_string(&file)?)?;
    config.insert(key.into(), value.into());
    fs_err::write(&file, serde_norway::to_string(&config)?)?;
    agent.restart()
}

#[test]
fn check_finds_nothing_wrong_with_a_pod_attached_by_clsact() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).agent_setting("attach", "clsact").build()?;
    let node = lab.node(1);
    let pod = node.add_pod("a")?;
    let device = pod.host_interface().context("the result names no device")?.to_owned();
    check(node, &pod)?.success()?;
    // Also by an agent that found it.
    node.agent()?.restart()?;
    check(node, &pod)?.success()?;
    node.exec(["tc", "filter", "delete", "dev", &device, "ingress"])?;
    let damage = check(node, &pod)?.failure()?;
    ensure!(damage.msg.contains("from_pod is not attached"), "{damage:?}");
    Ok(())
}

#[test]
fn a_program_attached_in_another_way_takes_the_place_of_the_old_one() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).agent_setting("attach", "tcx").build()?;
    let node = lab.node(1);
    let [a, b] = node.ready_pods(["a", "b"])?;
    let [there] = lab.node(2).ready_pods(["there"])?;
    // The nodes know each other's Ethernet addresses: a lost ARP request would take a second.
    ensure!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})).is_empty());
    let before = programs(node)?;
    ensure!(before.len() == 5 && before.values().all(|times| *times == 1), "{before:?}");
    // Without netfilter's, each device has a program at its egress.
    let egress = before.keys().filter_map(|(program, device)| {
        let egress = program.strip_prefix("from_").map(|of| format!("to_{of}"))?;
        Some(((egress, device.clone()), 1))
    });
    let ingress = before.clone().into_iter().filter(|((program, _), _)| program.starts_with("from_"));
    let by_clsact: BTreeMap<_, _> = ingress.chain(egress).collect();
    let mut pings = Vec::new();
    for mode in ["clsact", "tcx", "clsact", "tcx"] {
        set(node, "attach", mode)?;
        let expected = if mode == "clsact" { &by_clsact } else { &before };
        let now = programs(node)?;
        ensure!(now == *expected, "attach: {mode}: {now:?} instead of {expected:?}");
        for pod in [&a, &b] {
            check(node, pod)?.success()?;
        }
        node.add_pod("new")?;
        node.del_pod("new")?;
        ensure!(programs(node)? == *expected, "attach: {mode}, after a pod that came and went");
        if pings.is_empty() {
            // The kernel stops a device's queues while it adds the qdisc, whoever asks; from now on it is there.
            pings = vec![Ping::start(&a, &b)?, Ping::start(&there, &a)?];
        }
    }
    for ping in pings {
        ping.finish()?;
    }
    ensure!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})).is_empty());
    Ok(())
}
