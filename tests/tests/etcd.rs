//! Agents that find each other through a real etcd.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use podlane_tests::lab::etcd::Etcd;
use podlane_tests::lab::{Builder, Node, Pod};
use podlane_tests::probe::{counters, failures, ping, state, steady::Steady};
use podlane_tests::sources::EtcdSource;
use podlane_tests::{Binaries, Lab};
use serde_json::Value;
use serde_norway::Mapping;

/// Sets for how many seconds etcd is away.
const OUTAGE_VARIABLE: &str = "PODLANE_ETCD_OUTAGE";
const PATIENCE: Duration = Duration::from_secs(90);

/// A lab whose agents ask an etcd on the first node.
fn lab(nodes: u8, section: Mapping) -> anyhow::Result<Builder> {
    let builder = Lab::builder().nodes(nodes).podlane_stopped(Binaries::find()?);
    let builder = builder.agent_setting("clusterSource", "etcd");
    let uplinks = vec![podlane_tests::lab::UPLINK];
    Ok(builder.agent_setting("uplinks", uplinks).agent_setting("etcd", section))
}

/// Waits until `podlane status` on a node is as wanted.
fn wait(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let agent = node.agent()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = agent.status().map(|(status, _)| status);
        match status {
            Ok(status) if wanted(&status) => return Ok(status),
            Ok(status) if Instant::now() > deadline => {
                anyhow::bail!("{}: never {what}: {status}; the log:\n{}", node.name(), agent.log())
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn knows(peers: usize) -> impl Fn(&Value) -> bool {
    move |status| {
        status["healthy"] == true
            && problems(status) == "[]"
            && status["peers"].as_array().is_some_and(|list| list.len() == peers)
    }
}

/// What is wrong, of whatever weight.
fn problems(status: &Value) -> String {
    let texts = ["problems", "warnings"].map(|key| status[key].as_array().cloned().unwrap_or_default());
    Value::from(texts.concat()).to_string()
}

fn cidr(status: &Value) -> String {
    status["podCIDRs"][0].as_str().unwrap_or_default().to_owned()
}

/// Starts every agent, waits until all know each other, and adds a pod to each node.
fn start(lab: &Lab) -> anyhow::Result<Vec<Pod>> {
    lab.start_agents()?;
    lab.nodes()
        .iter()
        .try_for_each(|node| wait(node, "knew the others", knows(lab.nodes().len() - 1)).map(drop))?;
    lab.nodes().iter().map(|node| node.add_pod("a")).collect()
}

/// All pods reach each other by the fast path.
fn all_reach_all(lab: &Lab) -> anyhow::Result<()> {
    let before = counters::forwarded_by(lab.nodes())?;
    anyhow::ensure!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})).is_empty());
    anyhow::ensure!(counters::forwarded_by(lab.nodes())? == before, "not by the fast path");
    Ok(())
}

#[test]
fn three_nodes_find_each_other_and_an_outage_harms_no_traffic() -> anyhow::Result<()> {
    let seconds = std::env::var(OUTAGE_VARIABLE).map_or(Ok(12), |seconds| seconds.parse())?;
    let lab = lab(3, EtcdSource::section("10.244.0.0/16", 5))?.build()?;
    let mut etcd = Etcd::start(lab.node(1))?;
    let pods = start(&lab)?;
    all_reach_all(&lab)?;
    let before = lab.nodes().iter().map(state::of).collect::<anyhow::Result<Vec<_>>>()?;
    let traffic = [
        Steady::udp(&pods[0], &pods[1])?,
        Steady::tcp(&pods[1], &pods[2])?,
        Steady::udp(&pods[2], &pods[0])?,
    ];

    // More than twice as long as a lease lasts.
    etcd.kill()?;
    let end = Instant::now() + Duration::from_secs(seconds);
    for node in lab.nodes() {
        wait(node, "named the outage", |status| {
            problems(status).contains("etcd at http://192.168.1.11:2379")
        })?;
    }
    // An agent that is killed meanwhile changes nothing either.
    lab.node(3).agent()?.kill()?;
    lab.node(3).agent()?.start()?;
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    etcd.resume()?;
    for node in lab.nodes() {
        wait(node, "recovered", knows(2))?;
    }
    let mut messages = 0;
    for conversation in traffic {
        messages += conversation.finish()?.sent;
    }
    println!("etcd away for {seconds} s: {messages} messages, none lost");
    for (node, before) in lab.nodes().iter().zip(before) {
        assert_eq!(state::of(node)?, before, "{}", node.name());
    }
    all_reach_all(&lab)
}

#[test]
fn an_etcd_that_comes_back_empty_costs_nobody_its_routes_or_pod_cidr() -> anyhow::Result<()> {
    let lab = lab(3, EtcdSource::section("10.244.0.0/16", 20))?.build()?;
    let mut etcd = Etcd::start(lab.node(1))?;
    let pods = start(&lab)?;
    let before = lab.nodes().iter().map(state::of).collect::<anyhow::Result<Vec<_>>>()?;
    let traffic = [Steady::udp(&pods[0], &pods[1])?, Steady::udp(&pods[1], &pods[2])?];
    etcd.kill()?;
    etcd.wipe()?;
    etcd.resume()?;
    let published = |number: usize| -> anyhow::Result<bool> {
        Ok(etcd.ctl(["get", &format!("/podlane/nodes/node{number}")]).read()?.contains("podCIDRs"))
    };
    let deadline = Instant::now() + PATIENCE;
    while !(published(1)? && published(2)? && published(3)?) {
        anyhow::ensure!(Instant::now() < deadline, "not every node has published itself again");
        std::thread::sleep(Duration::from_millis(100));
    }
    for node in lab.nodes() {
        wait(node, "recovered", knows(2))?;
    }
    for conversation in traffic {
        conversation.finish()?;
    }
    for (node, before) in lab.nodes().iter().zip(before) {
        assert_eq!(state::of(node)?, before, "{}", node.name());
    }
    Ok(())
}

#[test]
fn a_node_that_is_away_is_forgotten_when_its_lease_ends_and_gets_its_pod_cidr_back() -> anyhow::Result<()> {
    let lab = lab(3, EtcdSource::section("10.244.0.0/16", 5))?.build()?;
    let etcd = Etcd::start(lab.node(1))?;
    start(&lab)?;
    let away = lab.node(2);
    let own = cidr(&away.agent()?.status()?.0);
    away.agent()?.stop()?;
    wait(lab.node(1), "forgot node2", knows(1))?;
    // Somebody else who comes meanwhile does not get it.
    let kept = etcd.ctl(["get", "--prefix", "/podlane/pod-cidrs/"]).read()?;
    assert!(kept.contains(&own.replace('/', "-")), "{kept}");
    away.agent()?.start_and_wait()?;
    assert_eq!(cidr(&away.agent()?.status()?.0), own);
    wait(lab.node(1), "knew node2 again", knows(2))?;
    all_reach_all(&lab)
}

#[test]
fn a_dead_endpoint_and_one_that_refuses_are_passed_over() -> anyhow::Result<()> {
    let mut section = EtcdSource::section("10.244.0.0/16", 5);
    // Nobody has the first address; nothing listens at the second one's port.
    let endpoints = vec!["http://192.168.1.250:2379", "http://192.168.1.11:2378", "http://192.168.1.11:2379"];
    section.insert("endpoints".into(), endpoints.into());
    let lab = lab(2, section)?.build()?;
    let mut etcd = Etcd::start(lab.node(1))?;
    start(&lab)?;
    // The same when the member that serves goes away and comes back; that none does is told.
    etcd.kill()?;
    for node in lab.nodes() {
        wait(node, "named the outage", |status| problems(status).contains("etcd at http://192.168.1."))?;
    }
    etcd.resume()?;
    for node in lab.nodes() {
        wait(node, "recovered", knows(1))?;
    }
    all_reach_all(&lab)
}

#[test]
fn what_is_compacted_away_while_a_node_is_cut_off_is_caught_up_with() -> anyhow::Result<()> {
    let lab = lab(2, EtcdSource::section("10.244.0.0/16", 5))?.build()?;
    let etcd = Etcd::start(lab.node(1))?;
    let record = |name: &str, number: u8| {
        format!(
            r#"{{"version":1,"name":"{name}","addresses":["192.168.1.{number}"],"podCIDRs":["10.244.{number}.0/24"]}}"#
        )
    };
    let put = |name: &str, number: u8| {
        etcd.put_all([(format!("/podlane/nodes/{name}").as_str(), record(name, number).as_str())])
    };
    put("leaves", 101)?;
    put("changes", 102)?;
    lab.start_agents()?;
    let cut_off = lab.node(2);
    for node in lab.nodes() {
        wait(node, "knew the others", knows(3))?;
    }
    // The connection dies by itself, as nothing answers any more.
    for rule in ["add table inet cut", "add chain inet cut out { type filter hook output priority 0 ; }"] {
        cut_off.exec(std::iter::once("nft").chain(rule.split(' ')))?;
    }
    cut_off.exec("nft add rule inet cut out tcp dport 2379 drop".split(' '))?;
    wait(cut_off, "named the outage", |status| {
        problems(status).contains("etcd at http://192.168.1.11:2379")
    })?;
    put("changes", 103)?;
    put("joins", 104)?;
    etcd.ctl(["del", "/podlane/nodes/leaves"]).read()?;
    let revision = etcd.ctl(["get", "/podlane", "--write-out=json"]).read()?;
    let revision = serde_json::from_str::<Value>(&revision)?["header"]["revision"].to_string();
    etcd.ctl(["compact", &revision]).read()?;
    let early = etcd.ctl(["get", "/podlane/nodes/leaves", "--rev=1"]).finish()?;
    assert!(early.stderr.contains("compacted"), "{early:?}");
    cut_off.exec(["nft", "delete", "table", "inet", "cut"])?;
    let expected = |status: &Value| {
        let named = |name: &str| {
            status["peers"].as_array().into_iter().flatten().find(|peer| peer["name"] == name).cloned()
        };
        knows(3)(status)
            && named("leaves").is_none()
            && named("joins").is_some()
            && named("changes").is_some_and(|peer| peer["addresses"][0] == "192.168.1.103")
    };
    wait(cut_off, "caught up", expected)?;
    wait(lab.node(1), "knew the same", expected)?;
    Ok(())
}

#[test]
fn both_families_of_pod_cidrs_are_allocated_and_used() -> anyhow::Result<()> {
    let mut section = EtcdSource::section("10.244.0.0/16", 5);
    section.insert("clusterCIDRs".into(), vec!["10.244.0.0/16", "fd00:10:244::/60"].into());
    let lab = lab(3, section)?.build()?;
    let etcd = Etcd::start(lab.node(1))?;
    let pods = start(&lab)?;
    let mut owned = BTreeSet::new();
    for node in lab.nodes() {
        let status = node.agent()?.status()?.0;
        let cidrs: Vec<String> =
            status["podCIDRs"].as_array().into_iter().flatten().map(|cidr| cidr.to_string()).collect();
        assert!(
            cidrs.len() == 2 && cidrs[0].contains("10.244.") && cidrs[1].contains("fd00:10:244:"),
            "{cidrs:?}"
        );
        assert!(cidrs[1].ends_with("::/64\""), "{cidrs:?}");
        owned.extend(cidrs);
    }
    assert_eq!(owned.len(), 6, "each has its own: {owned:?}");
    for pod in &pods {
        assert!(pod.addresses().any(|address| address.is_ipv6()), "{pod:?}");
    }
    all_reach_all(&lab)?;
    // Nobody gets another one with the next start, in either family.
    let before = lab.node(2).agent()?.status()?.0["podCIDRs"].clone();
    lab.node(2).agent()?.kill()?;
    lab.node(2).agent()?.start_and_wait()?;
    assert_eq!(lab.node(2).agent()?.status()?.0["podCIDRs"], before);
    let kept = etcd.ctl(["get", "--prefix", "--keys-only", "/podlane/pod-cidrs/"]).read()?;
    assert_eq!(kept.split_whitespace().count(), 6, "{kept}");
    Ok(())
}

#[test]
fn etcd_with_tls_certificates_and_users_is_used_and_refusals_are_told() -> anyhow::Result<()> {
    let mut section = EtcdSource::section("10.244.0.0/16", 5);
    section.insert("endpoints".into(), vec!["https://192.168.1.11:2379"].into());
    let lab = lab(2, section.clone())?.build()?;
    let etcd = Etcd::start_with_tls(lab.node(1), "lab")?;
    // The agents have no certificates yet.
    let configure = |section: &Mapping| -> anyhow::Result<()> {
        for node in lab.nodes() {
            let file = node.agent()?.config_file();
            let mut config: Mapping = serde_norway::from_str(&fs_err::read_to_string(&file)?)?;
            config.insert("etcd".into(), section.clone().into());
            fs_err::write(&file, serde_norway::to_string(&config)?)?;
        }
        Ok(())
    };
    let agent = lab.node(1).agent()?;
    agent.start()?;
    wait(lab.node(1), "refused an unknown authority", |status| problems(status).contains("UnknownIssuer"))?;
    agent.stop()?;

    let Some(dir) = etcd.certificates() else { anyhow::bail!("no certificates") };
    for (key, file) in [("caFile", "ca.pem"), ("certFile", "client.pem"), ("keyFile", "client.key")] {
        section.insert(key.into(), dir.join(file).to_string_lossy().into_owned().into());
    }
    // A user for the agents, with rights for the prefix and nothing else.
    for command in [
        &["user", "add", "root:secret"][..],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "agent:right"],
        &["role", "add", "agent"],
        &["role", "grant-permission", "agent", "--prefix=true", "readwrite", "/podlane/"],
        &["user", "grant-role", "agent", "agent"],
        &["auth", "enable"],
    ] {
        etcd.ctl(command).read()?;
    }
    let password = lab.dir().join("password");
    fs_err::write(&password, "wrong\n")?;
    section.insert("username".into(), "agent".into());
    section.insert("passwordFile".into(), password.to_string_lossy().into_owned().into());
    configure(&section)?;
    agent.start()?;
    wait(lab.node(1), "was refused", |status| problems(status).contains("authentication failed"))?;
    // Read again by itself.
    fs_err::write(&password, "right\n")?;
    lab.node(2).agent()?.start()?;
    for node in lab.nodes() {
        wait(node, "knew the other", knows(1))?;
        node.add_pod("a")?;
    }
    all_reach_all(&lab)
}

#[test]
fn twenty_agents_for_sixteen_pod_cidrs_end_with_sixteen_owners_and_four_errors() -> anyhow::Result<()> {
    let lab = lab(20, EtcdSource::section("10.244.0.0/20", 30))?.build()?;
    let etcd = Etcd::start(lab.node(1))?;
    for node in lab.nodes() {
        node.agent()?.start()?;
    }
    let exhausted = |status: &Value| {
        let problems = problems(status);
        ["10.244.0.0/20 is exhausted", "16 pod CIDRs of length /24", "clusterCIDRs", "podlane etcd release"]
            .iter()
            .all(|word| problems.contains(word))
    };
    let mut owners = BTreeSet::new();
    let mut without = Vec::new();
    for node in lab.nodes() {
        let status =
            wait(node, "had a pod CIDR or said why not", |status| knows(15)(status) || exhausted(status))?;
        if exhausted(&status) {
            without.push(node);
        } else {
            owners.insert(cidr(&status));
        }
    }
    assert_eq!((owners.len(), without.len()), (16, 4), "{owners:?}");

    // A node that is gone makes room, once it is released.
    let gone = lab.nodes().iter().find(|node| !without.iter().any(|other| other.name() == node.name()));
    let gone = gone.ok_or_else(|| anyhow::anyhow!("nobody has a pod CIDR"))?;
    let freed = cidr(&gone.agent()?.status()?.0);
    gone.agent()?.stop()?;
    let release = |options: &[&str]| {
        let agent = without[0].namespace().command([&Binaries::find()?.podlane]);
        let endpoint = ["--etcd-endpoint", "http://192.168.1.11:2379"];
        agent.args(["etcd", "release", gone.name()]).args(endpoint).args(options).finish()
    };
    let refused = release(&[])?;
    assert!(refused.stderr.contains("until its lease has run out") && refused.code != Some(0), "{refused:?}");
    let done = release(&["--force"])?;
    assert_eq!(done.stdout, format!("Freed {freed}.\n"), "{done:?}");
    let deadline = Instant::now() + PATIENCE;
    while !etcd.ctl(["get", "--prefix", "/podlane/pod-cidrs/"]).read()?.contains(&freed.replace('/', "-")) {
        anyhow::ensure!(Instant::now() < deadline, "nobody has taken {freed}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
