//! The lab itself: it is fast to make, cleans up whatever happens, and labs don't meet.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use podlane_tests::lab::{Wire, ids, remove};
use podlane_tests::probe::{counters, failures, latency, ping, source};
use podlane_tests::{Lab, Run};

/// What is left of a lab: names of namespaces, mounts, processes and its folder.
fn traces(id: &str) -> anyhow::Result<Vec<String>> {
    let mut traces = Vec::new();
    let namespaces = Run::new("ip").args(["netns", "list"]).read()?;
    traces.extend(namespaces.lines().filter(|line| line.starts_with(&format!("pl{id}-"))).map(str::to_owned));
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    traces.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
    for process in std::fs::read_dir("/proc")?.flatten() {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(&format!("pl{id}-")) || words.contains(&format!("/{id}/")) {
            traces.push(words);
        }
    }
    let folder = format!("/run/podlane-lab/{id}");
    traces.extend(Path::new(&folder).exists().then_some(folder));
    Ok(traces)
}

/// Waits for it a while; gives what is left after that.
fn traces_in_the_end(id: &str) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !traces(id)?.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    traces(id)
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    let lab = Lab::builder().nodes(2).classic().build().unwrap();
    lab.node(1).add_pod("a").unwrap();
    let id = lab.id().to_owned();
    assert!(traces(&id).unwrap().len() >= 5, "{:?}", traces(&id).unwrap());
    drop(lab);
    assert_eq!(traces(&id).unwrap(), Vec::<String>::new());
}

/// Kills a process that owns a lab with that pod network; gives what the lab had made, and what is left of it.
fn kill_owner(network: &str) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_hold-lab"))
        .arg(network)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut id = String::new();
    BufReader::new(owner.stdout.take().context("no standard output")?).read_line(&mut id)?;
    let id = id.trim().to_owned();
    ensure!(!id.is_empty(), "the owner could not make a lab");

    // A process of somebody else's in one of the namespaces must not keep the lab alive.
    let netns = format!("--net=/run/netns/pl{id}-node1-a");
    let mut guest = Command::new("nsenter").args([&netns, "--", "sleep", "1000"]).spawn()?;
    let made = traces(&id)?;
    owner.kill()?;
    owner.wait()?;
    let left = traces_in_the_end(&id)?;
    ensure!(!guest.wait()?.success(), "the guest was not killed");
    Ok((made, left))
}

#[test]
fn a_lab_whose_owner_is_killed_leaves_nothing() {
    let (made, left) = kill_owner("classic").unwrap();
    // Four namespaces, the folder, guest and guard.
    assert!(made.len() >= 6, "{made:?}");
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_lab_with_agents_whose_owner_is_killed_leaves_nothing() {
    let (made, left) = kill_owner("podlane").unwrap();
    let count = |what: &str| made.iter().filter(|line| line.contains(what)).count();
    assert_eq!((count("podlane agent"), count(" bpf rw")), (2, 2), "{made:?}");
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_kept_lab_outlives_its_owner_and_is_removed_by_its_id() {
    let mut lab = Lab::builder().nodes(2).classic().build().unwrap();
    lab.node(1).add_pod("a").unwrap();
    let id = lab.id().to_owned();
    lab.keep().unwrap();
    let error = remove(&id).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error:#}");
    drop(lab);
    // Nor does the next lab's sweep take it away.
    drop(Lab::builder().build().unwrap());
    assert!(ids().unwrap().contains(&id));
    assert!(traces(&id).unwrap().len() >= 5, "{:?}", traces(&id).unwrap());
    remove(&id).unwrap();
    assert_eq!(traces(&id).unwrap(), Vec::<String>::new());
    assert!(remove(&id).is_err());
}

#[test]
fn a_stale_lab_is_swept_when_the_next_one_starts() {
    let mut lab = Lab::builder().classic().build().unwrap();
    lab.node(1).add_pod("a").unwrap();
    let id = lab.id().to_owned();
    lab.keep().unwrap();
    // As after a crash that took the guard as well: nobody holds the lock, and it is not marked kept.
    let marker = lab.dir().join("kept");
    drop(lab);
    std::fs::remove_file(marker).unwrap();
    assert!(!traces(&id).unwrap().is_empty());
    drop(Lab::builder().build().unwrap());
    // Or the next one of a test that runs at the same time.
    assert_eq!(traces_in_the_end(&id).unwrap(), Vec::<String>::new());
}

#[test]
fn two_labs_run_side_by_side() {
    let make = || {
        let lab = Lab::builder().nodes(2).classic().build().unwrap();
        for node in lab.nodes() {
            node.add_pods(&["a", "b"]).unwrap();
        }
        lab
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(make);
        let other = scope.spawn(make);
        (one.join().unwrap(), other.join().unwrap())
    });
    assert_ne!(one.id(), other.id());
    for lab in [&one, &other] {
        assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    }
    let id = one.id().to_owned();
    drop(one);
    assert_eq!(traces(&id).unwrap(), Vec::<String>::new());
    assert_eq!(failures(&ping::ping_pairs(&other.pod_pairs(), || {})), Vec::<String>::new());
}

#[test]
fn the_kernel_forwards_between_nodes_of_the_classic_network_without_nat() {
    let lab = Lab::builder().nodes(3).classic().build().unwrap();
    for node in lab.nodes() {
        node.add_pods(&["a", "b", "c"]).unwrap();
    }
    let pairs = lab.pod_pairs();
    assert_eq!(pairs.len(), 72);
    let before = counters::forwarded_by(lab.nodes()).unwrap();
    assert_eq!(failures(&ping::ping_pairs(&pairs, || {})), Vec::<String>::new());
    assert_eq!(failures(&source::check_pairs(&pairs, || {})), Vec::<String>::new());
    let after = counters::forwarded_by(lab.nodes()).unwrap();
    for (before, after) in before.iter().zip(&after) {
        // Each node forwards requests and replies of 36 pairs.
        assert!(after - before >= 2 * 36, "{before} {after}");
    }
}

#[test]
fn the_source_check_notices_a_foreign_address() {
    let lab = Lab::builder().nodes(2).classic().build().unwrap();
    let client = lab.node(1).add_pod("a").unwrap();
    lab.node(2).add_pod("a").unwrap();
    let gateway = client.gateway().to_string();
    client.exec(["ip", "address", "add", "10.244.1.99/24", "dev", "eth0"]).unwrap();
    client.exec(["ip", "route", "replace", "default", "via", &gateway, "src", "10.244.1.99"]).unwrap();
    let results = source::check_pairs(&lab.pod_pairs(), || {});
    let failures = failures(&results);
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].contains("the server sees 10.244.1.99"), "{failures:?}");
}

#[test]
fn a_cable_connects_two_nodes() {
    let lab = Lab::builder().nodes(2).wire(Wire::Cable).mtu(9000).classic().build().unwrap();
    for node in lab.nodes() {
        node.add_pod("a").unwrap();
    }
    assert_eq!(failures(&source::check_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    assert!(lab.node(1).exec(["ip", "link", "show", "uplink"]).unwrap().contains("mtu 9000"));
    assert!(Lab::builder().nodes(3).wire(Wire::Cable).build().is_err());
}

#[test]
fn nodes_reach_each_other_over_ipv6_too() {
    let lab = Lab::builder().nodes(2).ipv6(true).build().unwrap();
    for address in lab.node(2).addresses() {
        ping::ping(lab.node(1).namespace(), address).unwrap();
    }
    assert_eq!(lab.node(2).addresses().count(), 2);
}

#[test]
fn a_detached_pod_frees_its_address() {
    let lab = Lab::builder().pod_cidrs(1, ["10.244.1.0/29".parse().unwrap()]).classic().build().unwrap();
    let node = lab.node(1);
    let names = ["a", "b", "c", "d", "e"];
    node.add_pods(&names).unwrap();
    let error = format!("{:#}", node.add_pod("f").unwrap_err());
    assert!(error.contains("no free address"), "{error}");
    node.del_pods(&names[1..]).unwrap();
    assert_eq!(node.pods().len(), 1);
    node.add_pods(&names[1..]).unwrap();
    let links = node.exec(["ip", "-brief", "link", "show", "type", "veth"]).unwrap();
    assert_eq!(links.lines().filter(|line| line.starts_with("veth")).count(), 5, "{links}");
}

#[test]
fn a_round_trip_between_pods_can_be_timed() {
    let lab = Lab::builder().classic().build().unwrap();
    let pods = lab.node(1).add_pods(&["a", "b"]).unwrap();
    let median = latency::median_round_trip(&pods[0], &pods[1], 100).unwrap();
    assert!(median > Duration::ZERO);
}
