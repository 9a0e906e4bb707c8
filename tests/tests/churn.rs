//! Many pods at once, thousands one after the other, and a pod CIDR that is full.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use podlane_tests::lab::{Node, Pod};
use podlane_tests::probe::ongoing::Ping;
use podlane_tests::probe::resources::{self, Resources};
use podlane_tests::probe::{failures, ping, state, steady::Steady};
use podlane_tests::{Binaries, Lab};

/// Sets how many pods come and go: thousands show a leak that hundreds hide.
const PAIRS_VARIABLE: &str = "PODLANE_CHURN";
/// Pods that come and go at the same time.
const IN_FLIGHT: usize = 16;
/// An address must not come back before so many others were given: others may still be talking to it. A /24 has 253.
const NOT_AT_ONCE: usize = 150;
/// What the agent's memory may grow by: its allocator keeps what a burst took.
const RSS_TOLERANCE: u64 = 8 << 10;
/// What the kernel's may, in KiB, as others on the machine allocate too, and by each pod that came and went.
const SLAB_TOLERANCE: u64 = 48 << 10;
const SLAB_PER_PAIR: u64 = 2;
/// For what the kernel frees later.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Which addresses are in use, and when each was last given back, counted in addresses given.
#[derive(Default)]
struct Ledger {
    given: usize,
    used: BTreeSet<IpAddr>,
    freed: BTreeMap<IpAddr, usize>,
    soonest: Option<usize>,
}

impl Ledger {
    fn give(&mut self, address: IpAddr) -> anyhow::Result<()> {
        ensure!(self.used.insert(address), "{address} was given to two pods");
        self.given += 1;
        if let Some(freed) = self.freed.remove(&address) {
            let since = self.given - freed;
            self.soonest = Some(self.soonest.map_or(since, |soonest| soonest.min(since)));
        }
        Ok(())
    }

    /// Before the DEL: from then on it may be given again.
    fn free(&mut self, address: IpAddr) {
        self.used.remove(&address);
        self.freed.insert(address, self.given);
    }
}

/// Pods come and go, [`IN_FLIGHT`] at a time, each when its successor is there. Returns how many addresses were given
/// before one came back.
fn churn(node: &Node, pairs: usize) -> anyhow::Result<Option<usize>> {
    let next = AtomicUsize::new(0);
    let ledger = Mutex::new(Ledger::default());
    let ledger = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let one_after_the_other = || -> anyhow::Result<()> {
        let mut last: Option<Pod> = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let pod = if number < pairs { Some(node.add_pod(&format!("c{number}"))?) } else { None };
            if let Some(pod) = &pod {
                ledger().give(pod.address())?;
            }
            if let Some(last) = last {
                ledger().free(last.address());
                node.del_pod(last.name())?;
            }
            if pod.is_none() {
                return Ok(());
            }
            last = pod;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(one_after_the_other)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(ledger().soonest)
}

/// What is still more than before, beyond the tolerances.
fn excess(before: &Resources, now: &Resources, pairs: usize) -> Vec<String> {
    let slab = before.slab + SLAB_TOLERANCE + SLAB_PER_PAIR * u64::try_from(pairs).unwrap_or(u64::MAX);
    let mut excess = Vec::new();
    for (what, before, now, most) in [
        ("KiB of resident memory", before.rss, now.rss, before.rss + RSS_TOLERANCE),
        ("bytes of maps", before.maps, now.maps, before.maps),
        ("KiB of the kernel's slabs", before.slab, now.slab, slab),
        ("descriptors", before.fds as u64, now.fds as u64, before.fds as u64),
        ("threads", before.threads as u64, now.threads as u64, before.threads as u64),
    ] {
        if now > most {
            excess.push(format!("{now} {what} instead of {before}"));
        }
    }
    excess
}

#[test]
fn pods_that_come_and_go_disturb_nobody_and_leave_nothing() -> anyhow::Result<()> {
    let pairs = std::env::var(PAIRS_VARIABLE).map_or(Ok(300), |pairs| pairs.parse())?;
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let (one, other) = (node.add_pod("one")?, node.add_pod("other")?);
    // What is allocated once, on first use, is no leak.
    churn(node, 2 * IN_FLIGHT)?;
    let settled = |resources: &Resources, threads: usize| resources.threads <= threads;
    let quiet = Instant::now();
    // Threads that help with blocking calls end when they have had nothing to do for 10 s.
    let mut before = resources::of(node.agent()?)?;
    while quiet.elapsed() < Duration::from_secs(12) && !settled(&before, 6) {
        std::thread::sleep(Duration::from_millis(100));
        before = resources::of(node.agent()?)?;
    }
    let state_before = state::of(node)?;

    let conversations = [Steady::udp(&one, &other)?, Steady::tcp(&other, &one)?];
    let pinging = Ping::start(&one, &other)?;
    let begun = Instant::now();
    let soonest = churn(node, pairs)?;
    let took = begun.elapsed();
    let pings = pinging.finish()?;
    for conversation in conversations {
        conversation.finish()?;
    }

    assert_eq!(state::of(node)?, state_before);
    let namespaces = podlane_tests::Run::new("ip").args(["netns", "list"]).read()?;
    let own = format!("{}-", node.namespace().name());
    assert_eq!(namespaces.lines().filter(|name| name.starts_with(&own)).count(), 2, "the bystanders'");
    let deadline = Instant::now() + PATIENCE;
    let (after, left) = loop {
        let now = resources::of(node.agent()?)?;
        let left = excess(&before, &now, pairs);
        if left.is_empty() || Instant::now() > deadline {
            break (now, left);
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    println!(
        "{pairs} pods came and went in {took:.1?}; {pings} pings between others, none lost; an address came back after \
         {soonest:?} others at the soonest\nbefore {before:?}\nafter  {after:?}"
    );
    assert_eq!(left, Vec::<String>::new());
    if let Some(soonest) = soonest {
        assert!(soonest > NOT_AT_ONCE, "an address came back after {soonest} others");
    } else {
        assert!(pairs < 253, "no address came back in {pairs} pods");
    }
    Ok(())
}

#[test]
fn an_address_is_not_given_again_at_once_not_even_by_a_restarted_agent() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let mut given = BTreeSet::new();
    for round in 0..4 {
        let pod = node.add_pod("again")?;
        ensure!(given.insert(pod.address()), "{} in round {round}, after {given:?}", pod.address());
        node.del_pod("again")?;
        if round % 2 == 0 {
            node.agent()?.kill()?;
            node.agent()?.start_and_wait()?;
        }
    }
    Ok(())
}
