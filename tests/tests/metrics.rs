//! Probes and metrics, over TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use podlane_tests::lab::Node;
use podlane_tests::probe::{failures, ping};
use podlane_tests::{Binaries, Lab};
use serde_json::Value;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
const PATIENCE: Duration = Duration::from_secs(20);

/// Status and head, and the body.
fn get(node: &Node, path: &str) -> anyhow::Result<(String, String)> {
    let mut stream = node.namespace().run(|| TcpStream::connect("127.0.0.1:9844"))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: podlane\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// Samples by their names and labels.
fn samples(node: &Node) -> anyhow::Result<BTreeMap<String, f64>> {
    let (head, body) = get(node, "/metrics")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
    ensure!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    ensure!(body.ends_with("# EOF\n"), "{body}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').context("a sample without value")?;
            Ok((name.to_owned(), value.parse().with_context(|| line.to_owned())?))
        })
        .collect()
}

fn sum<'a>(samples: &'a BTreeMap<String, f64>, wanted: &'a [&str]) -> f64 {
    let matching = samples.iter().filter(|(name, _)| wanted.iter().all(|part| name.contains(part)));
    matching.map(|(_, value)| value).sum()
}

/// Names as documented, each once.
fn documented() -> anyhow::Result<BTreeSet<String>> {
    let docs = fs_err::read_to_string(DOCS)?;
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `podlane_"));
    Ok(rows.filter_map(|row| row.split('`').next()).map(|name| format!("podlane_{name}")).collect())
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(1).podlane(Binaries::find()?).build()?;
    let (_, body) = get(lab.node(1), "/metrics")?;
    let families: BTreeSet<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    assert_eq!(families, documented()?);
    // Labels too: those of each sample are in its metric's row.
    let docs = fs_err::read_to_string(DOCS)?;
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let labels = rest.rsplit_once('}').context("labels without end")?.0;
        let base = name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
        let row =
            docs.lines().find(|row| row.starts_with(&format!("| `{base}`"))).context(base.to_owned())?;
        for (label, _) in labels.split("\",").filter_map(|label| label.split_once('=')) {
            ensure!(label == "le" || row.contains(&format!("`{label}`")), "{label} of {base}: {row}");
        }
    }
    Ok(())
}

#[test]
fn metrics_tell_what_happens_to_packets_and_pods() -> anyhow::Result<()> {
    let lab = Lab::builder().nodes(2).podlane(Binaries::find()?).build()?;
    let node = lab.node(1);
    let before = samples(node)?;
    ensure!(sum(&before, &["podlane_attachment_requests_total"]) == 0.0);
    node.add_pods(&["a", "b"])?;
    lab.node(2).add_pod("c")?;
    assert_eq!(failures(&ping::ping_pairs(&lab.pod_pairs(), || {})), Vec::<String>::new());
    // A pod that cannot be attached: its namespace is not there.
    let mut call = node.call("ADD", "x", &node.make_sandbox("x")?)?;
    call = call.with("CNI_NETNS", "/run/netns/no-such-namespace");
    let code = call.make()?.failure()?.code;

    let now = samples(node)?;
    for (name, expected) in [
        ("podlane_attachments", 2.0),
        ("podlane_attachment_requests_total{operation=\"add\",code=\"0\"}", 2.0),
        (&*format!("podlane_attachment_requests_total{{operation=\"add\",code=\"{code}\"}}"), 1.0),
        ("podlane_attachment_duration_seconds_count{operation=\"add\"}", 3.0),
        ("podlane_map_entries{map=\"pods4\"}", 2.0),
        ("podlane_map_capacity_entries{map=\"pods4\"}", 256.0),
        ("podlane_map_entries{map=\"routes4\"}", 1.0),
        ("podlane_peers{state=\"direct\"}", 1.0),
        ("podlane_peers{state=\"unreachable\"}", 0.0),
        ("podlane_ready", 1.0),
        ("podlane_problems", 0.0),
        ("podlane_cluster_source_up{source=\"file\"}", 1.0),
    ] {
        assert_eq!(now.get(name), Some(&expected), "{name}");
    }
    // Two pings between a and b, two of each of them with c: requests and replies.
    let forwarded = sum(&now, &["podlane_packets_total", "hook=\"from_pod\"", "action=\"forward\""]);
    ensure!(forwarded >= 8.0, "{forwarded} packets");
    ensure!(sum(&now, &["podlane_bytes_total", "verdict=\"to-peer\""]) >= 4.0 * 98.0);
    let status = node.agent()?.status()?.0;
    let of_status = |key: &str| -> f64 {
        let counters = status["counters"].as_array().into_iter().flatten();
        counters.filter(|counter| counter["verdict"] == "to-pod").filter_map(|c| c[key].as_f64()).sum()
    };
    ensure!(of_status("packets") > 0.0, "{status}");
    let later = samples(node)?;
    ensure!(sum(&later, &["podlane_packets_total", "verdict=\"to-pod\""]) >= of_status("packets"));
    node.del_pods(&["a", "b"])?;
    let later = samples(node)?;
    assert_eq!(later["podlane_attachment_requests_total{operation=\"del\",code=\"0\"}"], 2.0);
    assert_eq!(later["podlane_attachments"], 0.0);
    Ok(())
}

#[test]
fn probes_tell_alive_from_ready_and_metrics_a_source_that_fails() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let (node, agent) = (lab.node(1), lab.node(1).agent()?);
    let good = fs_err::read_to_string(lab.cluster_file())?;
    lab.write_cluster_text("nodes: [")?;
    agent.start()?;
    let deadline = Instant::now() + PATIENCE;
    while get(node, "/healthz").is_err() {
        ensure!(Instant::now() < deadline, "no probes: {}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Alive, but it can attach nothing.
    let (head, body) = get(node, "/healthz")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    ensure!(get(node, "/livez")?.0.starts_with("HTTP/1.1 200"));
    let said: Value = serde_json::from_str(&body)?;
    ensure!(said["healthy"] == false && said["ready"] == false, "{said}");
    let (head, body) = get(node, "/readyz")?;
    ensure!(head.starts_with("HTTP/1.1 503") && body.contains("cluster"), "{head} {body}");
    let now = samples(node)?;
    ensure!(now["podlane_ready"] == 0.0 && now["podlane_last_reconcile_timestamp_seconds"] == 0.0);
    ensure!(now["podlane_cluster_source_up{source=\"file\"}"] == 0.0 && now["podlane_problems"] >= 1.0);

    lab.write_cluster_text(&good)?;
    agent.wait_ready()?;
    ensure!(get(node, "/readyz")?.0.starts_with("HTTP/1.1 200"));
    let now = samples(node)?;
    ensure!(now["podlane_cluster_source_up{source=\"file\"}"] == 1.0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64()
        - now["podlane_last_reconcile_timestamp_seconds"];
    ensure!((0.0..600.0).contains(&since), "{since} s ago");
    // It stays ready when the source fails: what it has goes on.
    lab.write_cluster_text("nodes: [")?;
    let deadline = Instant::now() + PATIENCE;
    while samples(node)?["podlane_cluster_source_up{source=\"file\"}"] != 0.0 {
        ensure!(Instant::now() < deadline, "the source is up");
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(get(node, "/readyz")?.0.starts_with("HTTP/1.1 200"));
    Ok(())
}

#[test]
fn a_taken_address_keeps_no_agent_from_its_work() -> anyhow::Result<()> {
    let lab = Lab::builder().podlane_stopped(Binaries::find()?).build()?;
    let (node, agent) = (lab.node(1), lab.node(1).agent()?);
    let taken = node.namespace().run(|| std::net::TcpListener::bind("127.0.0.1:9844"))??;
    agent.start_and_wait()?;
    ensure!(agent.log().contains("no probes and metrics yet"), "{}", agent.log());
    node.add_pod("a")?;
    drop(taken);
    let deadline = Instant::now() + PATIENCE;
    while !get(node, "/readyz").is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200")) {
        ensure!(Instant::now() < deadline, "no probes: {}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
