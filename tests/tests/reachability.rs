//! Pods on three nodes reach each other at their own addresses: on the fast path, and without it.

use podlane_tests::lab::{Pod, Wire};
use podlane_tests::probe::{counters, failures, ping, pins, source, state};
use podlane_tests::{Binaries, Lab};

fn three_nodes_three_pods_each() -> anyhow::Result<Lab> {
    let lab = Lab::builder().nodes(3).podlane(Binaries::find()?).build()?;
    for node in lab.nodes() {
        node.add_pods(&["a", "b", "c"])?;
    }
    Ok(lab)
}

/// Pings all pairs and checks the source address in each; gives how many packets each node's kernel forwarded.
fn probe_all(lab: &Lab, pairs: &[(Pod, Pod)]) -> anyhow::Result<Vec<u64>> {
    let before = counters::forwarded_by(lab.nodes())?;
    let mut problems = failures(&ping::ping_pairs(pairs, || {}));
    problems.extend(failures(&source::check_pairs(pairs, || {})));
    anyhow::ensure!(
        problems.is_empty(),
        "{} of {} pairs:\n{}",
        problems.len(),
        pairs.len(),
        problems.join("\n")
    );
    let after = counters::forwarded_by(lab.nodes())?;
    Ok(after.iter().zip(&before).map(|(after, before)| after - before).collect())
}

#[test]
fn all_72_pairs_talk_through_ebpf_through_the_kernel_without_it_and_through_ebpf_again() -> anyhow::Result<()>
{
    let lab = three_nodes_three_pods_each()?;
    let pairs = lab.pod_pairs();
    assert_eq!(pairs.len(), 72);
    assert_eq!(probe_all(&lab, &pairs)?, [0, 0, 0], "packets that the kernels forwarded");

    for node in lab.nodes() {
        node.agent()?.stop()?;
        // A program for each of three pods and an uplink, one at netfilter for both families.
        assert_eq!(pins::detach_all(node.agent()?)?, 6);
    }
    for (node, forwarded) in lab.nodes().iter().zip(probe_all(&lab, &pairs)?) {
        // Of each of the 42 pairs that a node has an end of, it forwards a request and a reply at least.
        assert!(forwarded >= 2 * 42, "{} forwarded {forwarded} packets only", node.name());
    }

    lab.start_agents()?;
    for node in lab.nodes() {
        assert_eq!(pins::links(node.agent()?)?.len(), 6);
    }
    assert_eq!(probe_all(&lab, &pairs)?, [0, 0, 0], "packets that the kernels forwarded");
    Ok(())
}

#[test]
fn all_pairs_talk_through_ebpf_attached_by_clsact() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).agent_setting("attach", "clsact").build()?;
    for node in lab.nodes() {
        node.add_pods(&["a", "b"])?;
    }
    let programs = state::attached(lab.node(1))?;
    let count = |hook: &str| programs.iter().filter(|(name, _)| name.contains(hook)).count();
    assert_eq!((count("from_pod"), count("from_wire")), (2, 1), "{programs:?}");
    assert_eq!(probe_all(&lab, &lab.pod_pairs())?, [0, 0]);

    // A restart attaches nothing twice, and clean-up leaves nothing attached.
    let before = state::of(lab.node(1))?;
    lab.node(1).agent()?.restart()?;
    assert_eq!(state::of(lab.node(1))?, before);
    assert_eq!(probe_all(&lab, &lab.pod_pairs())?, [0, 0]);
    lab.node(1).agent()?.stop()?;
    lab.node(1).agent()?.cli(["cleanup"])?.success()?;
    assert_eq!(state::attached(lab.node(1))?, []);
    Ok(())
}

#[test]
fn all_pairs_talk_through_ebpf_over_ipv4_and_ipv6() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).ipv6(true).podlane(Binaries::find()?).build()?;
    for node in lab.nodes() {
        for pod in node.add_pods(&["a", "b"])? {
            assert_eq!(pod.addresses().filter(|address| address.is_ipv6()).count(), 1);
            pod.wait_until_receiving()?;
        }
    }
    assert_eq!(probe_all(&lab, &lab.pod_pairs())?, [0, 0]);
    Ok(())
}

#[test]
fn pods_talk_over_a_cable_with_jumbo_frames() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).wire(Wire::Cable).mtu(9000).podlane(Binaries::find()?).build()?;
    let client = lab.node(1).add_pod("a")?;
    let server = lab.node(2).add_pod("a")?;
    assert_eq!(probe_all(&lab, &lab.pod_pairs())?, [0, 0]);
    assert!(client.exec(["ip", "link", "show", "eth0"])?.contains("mtu 9000"));
    let full = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "8972", &server.address().to_string()];
    client.exec(full)?;
    Ok(())
}

#[test]
fn pods_nodes_and_gateways_answer_each_other() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let pod = lab.node(1).add_pod("a")?;
    let remote = lab.node(2).add_pod("a")?;
    let address = |number: usize| lab.node(number).addresses().next().into_iter();
    // A pod and its gateway, its own node, the other node.
    ping::ping(pod.namespace(), pod.gateway())?;
    for number in [1, 2] {
        for target in address(number) {
            ping::ping(pod.namespace(), target)?;
        }
    }
    // A node and its own pod, and the other node's.
    ping::ping(lab.node(1).namespace(), pod.address())?;
    ping::ping(lab.node(1).namespace(), remote.address())?;
    // The other node's gateway is an address as any.
    ping::ping(pod.namespace(), remote.gateway())?;
    // A node sees the pod's own address as well, over TCP.
    for target in address(1).chain(address(2)) {
        let server = lab.nodes().iter().find(|node| node.addresses().any(|own| own == target));
        let server = server.map(|node| node.namespace().clone()).unwrap_or_else(|| pod.namespace().clone());
        assert_eq!(source::seen_by(pod.namespace(), &server, target)?, pod.address());
    }
    Ok(())
}

#[test]
fn an_address_of_the_pod_cidr_that_no_pod_has_is_unreachable() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let pod = lab.node(1).add_pod("a")?;
    for target in ["10.244.1.200", "10.244.2.200"] {
        // The kernel answers by a limited rate, so not each of them.
        let ping = pod.command(["ping", "-n", "-c", "5", "-i", "0.3", "-W", "1", target]).finish()?;
        assert_ne!(ping.code, Some(0), "{}", ping.stdout);
        // A router's answer, rather than silence.
        assert!(ping.stdout.contains("Unreachable"), "{target}: {}", ping.stdout);
    }
    Ok(())
}
