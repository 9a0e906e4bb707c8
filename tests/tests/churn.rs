//! Many pods at once, and a pod CIDR that is full.

use std::collections::BTreeSet;

use podlane_tests::probe::{failures, ping, state};
use podlane_tests::{Binaries, Lab};

#[test]
fn fifty_pods_attached_at_once_talk_and_leave_nothing_when_detached() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let before = state::of(node)?;

    let names: Vec<_> = (1..=50).map(|number| format!("p{number}")).collect();
    let pods = node.add_pods(&names)?;
    let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.address()).collect();
    assert_eq!(addresses.len(), 50, "{addresses:?}");
    let remote = lab.node(2).add_pod("remote")?;

    let sample: Vec<_> = pods.iter().step_by(7).chain([&remote]).cloned().collect();
    let pairs: Vec<_> = sample
        .iter()
        .flat_map(|one| {
            sample.iter().filter(move |other| one != *other).map(|other| (one.clone(), other.clone()))
        })
        .collect();
    assert_eq!(pairs.len(), 9 * 8);
    assert_eq!(failures(&ping::ping_pairs(&pairs, || {})), Vec::<String>::new());

    // The comparison below would notice what stays: it sees 50 of each now.
    let during = state::of(node)?;
    for (kind, part) in [
        ("link pl", ""),
        ("route 10.244.1.", ""),
        ("neighbour 10.244.1.", ""),
        ("pods4 ", ""),
        ("pin ", "/from_pod-"),
        ("pin ", "/to_pod-"),
        ("file ", ""),
    ] {
        let count = |state: &BTreeSet<String>| {
            state.iter().filter(|line| line.starts_with(kind) && line.contains(part)).count()
        };
        assert_eq!(count(&during) - count(&before), 50, "{kind}{part}");
    }

    node.del_pods(&names)?;
    assert_eq!(state::of(node)?, before);
    Ok(())
}

#[test]
fn a_full_pod_cidr_is_an_error_with_the_numbers_and_leaks_nothing() -> anyhow::Result<()> {
    let cidr = "10.244.1.0/29".parse()?;
    let lab = Lab::builder().pod_cidrs(1, [cidr]).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    // Eight addresses but for network, gateway and broadcast.
    node.add_pods(&["a", "b", "c", "d", "e"])?;
    let before = state::of(node)?;

    let sandbox = node.make_sandbox("f")?;
    let failure = node.call("ADD", "f", &sandbox)?.make()?.failure()?;
    let text = failure.text();
    assert!(text.contains("10.244.1.0/29") && text.contains("5 of 5"), "{failure:?}");
    assert!(text.contains("podCIDRs") && text.contains("node1"), "{failure:?}");
    assert_eq!(state::of(node)?, before);
    let devices = sandbox.namespace.command(["ip", "-oneline", "link"]).read()?;
    assert_eq!(devices.lines().count(), 1, "{devices}");

    // An address that is freed is given again.
    node.del_pod("c")?;
    node.attach("f", sandbox)?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_failed_add_leaves_the_next_one_its_place() -> anyhow::Result<()> {
    let lab = Lab::builder().pod_cidrs(1, ["10.244.1.0/30".parse()?]).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let before = state::of(node)?;
    // The one address there is must survive attempts that fail half-way: eth0 exists already.
    for attempt in 0..3 {
        let sandbox = node.make_sandbox(&format!("bad{attempt}"))?;
        sandbox.namespace.ip(&["link add eth0 type bridge".to_owned()])?;
        node.call("ADD", "bad", &sandbox)?.make()?.failure()?;
        assert_eq!(state::of(node)?, before);
    }
    node.add_pod("good")?;
    Ok(())
}
